"""A person's signed word about an attempt whose end nobody could prove (VOC-5, INV-7).

The signed bytes are the canonical JSON of the statement, under the SSHSIG namespace of approvals; the schema inside
keeps the two apart. There is no word for success: what nobody proved is not turned into it by saying so.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hyops.model import canonical
from hyops.model.base import Digest, Generation, Name, Part, Text, UtcTime


class ReconciliationStatement(Part):
    """Who looked at what, when, and what follows. `outcome_digest` is of the unknown outcome that it answers."""

    schema_: Literal["hyops/reconciliation/v1"] = Field(default="hyops/reconciliation/v1", alias="schema")
    operator: Annotated[str, Field(min_length=1, max_length=256)]
    signed_at: UtcTime
    attempt_id: Name
    run_id: Name
    service: Name
    outcome_digest: Digest
    outcome: Literal["failed", "cancelled"]
    generation_after: Generation | None = None
    primary_after: Name | None = None
    looked_at: Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(min_length=1, max_length=32)]
    reason: Annotated[str, Field(min_length=1, max_length=4096)]
    runner_said: Text

    @model_validator(mode="after")
    def _complete(self) -> ReconciliationStatement:
        if (self.generation_after is None) != (self.primary_after is None):
            raise ValueError("generation_after and primary_after are named together, or neither")
        return self

    def signed_bytes(self) -> bytes:
        """What `ssh-keygen -Y sign` gets on standard input."""
        return canonical.encode(self.body())


class Reconciliation(Part):
    """A statement with its OpenSSH signature (armored SSHSIG)."""

    statement: ReconciliationStatement
    ssh_signature: Annotated[str, Field(max_length=16384)]
