"""Holds: decided inaction with an owner, a reason and an end, signed by the person who says so (DEC-6).

A record is never changed or removed: one that ends a hold, or acknowledges an automatic failover, is a further record.
Its name derives from what was signed (`HoldStatement.record_id`), so the same words hold under one name only.
The signed bytes are the canonical JSON of the statement under the approvals' SSHSIG namespace. Its `schema` keeps the
two kinds apart: no approval parses as a hold, and no hold as an approval.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hyops.model import canonical, ids
from hyops.model.base import Generation, Name, Part, Record, Text, UtcTime

HOLD_MAX_S = 31 * 86400.0  # who needs longer says so again; a hold that everybody forgot must not outlive a month

Person = Annotated[str, Field(min_length=1, max_length=256)]


class HoldStatement(Part):
    """What a person signs: hold a service, end such a hold, or acknowledge an automatic failover."""

    schema_: Literal["hyops/hold/v1"] = Field(default="hyops/hold/v1", alias="schema")
    verdict: Literal["hold", "end", "acknowledge"]
    signer: Person = Field(description="the principal whose key signs, as the allowed signers file names it")
    owner: Person = Field(description="who answers for it, a person or a team")
    service: Name
    env: Name
    reason: Annotated[Text, Field(min_length=1)]
    signed_at: UtcTime
    until: UtcTime | None = Field(default=None, description="of a hold: when it is over by itself")
    ends: Name | None = Field(default=None, description="of an end: the hold that is over")
    generation: Generation | None = Field(default=None, description="of an acknowledgement: the generation it is about")

    @model_validator(mode="after")
    def _complete(self) -> HoldStatement:
        own = {"hold": "until", "end": "ends", "acknowledge": "generation"}
        for verdict, field in own.items():
            if (getattr(self, field) is not None) != (verdict == self.verdict):
                raise ValueError(f"verdict {self.verdict} {'needs' if verdict == self.verdict else 'has no'} {field}")
        if self.until is not None:
            if self.until <= self.signed_at:
                raise ValueError("until is not after signed_at")
            if (self.until - self.signed_at).total_seconds() > HOLD_MAX_S:
                raise ValueError(f"until is more than {HOLD_MAX_S / 86400:g} days after signed_at")
        return self

    def signed_bytes(self) -> bytes:
        """What `ssh-keygen -Y sign` gets on standard input."""
        return canonical.encode(self.body())

    def record_id(self) -> str:
        """The one id under which a record of this counts."""
        return ids.derived("hold", self.signed_at, canonical.digest(self.body()), self.verdict)


class HoldRecord(Record):
    """A statement with its OpenSSH signature (armored SSHSIG). The signature is the person's, not a stage's."""

    kind: ClassVar[str] = "hold"
    id_field: ClassVar[str] = "hold_id"

    hold_id: Name
    statement: HoldStatement
    ssh_signature: Annotated[str, Field(max_length=16384)]

    @classmethod
    def signed(cls, statement: HoldStatement, ssh_signature: str) -> HoldRecord:
        """The record of a statement, under its own name."""
        return cls(hold_id=statement.record_id(), statement=statement, ssh_signature=ssh_signature)

    def misnamed(self) -> str | None:
        """Why its name is not that of what was signed; None when it is."""
        return ids.misnamed(self.hold_id, self.statement.record_id())
