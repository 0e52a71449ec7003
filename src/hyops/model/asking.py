"""Who asked for a switch, proved by their own SSH key (APR-1): a name that is only typed may be anybody's.

The signed bytes are the canonical JSON of the statement under the approvals' SSHSIG namespace. Its `schema` keeps the
kinds apart: no approval and no hold parses as a wish. The statement itself is not kept: it is what the recorded inputs
of the decision say (`statement_of`), so anybody who has these can verify the signature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hyops.model import canonical
from hyops.model.base import Name, Part, Text, UtcTime
from hyops.model.vocabulary import DecisionType, Occasion

if TYPE_CHECKING:
    from hyops.model.observed import Asked

THE_LOOP = "decision-service"
"""Who asks for what nobody asked for; no person has this name."""

KeyFingerprint = Annotated[str, Field(pattern=r"^SHA256:[\x21-\x7e]{1,300}$")]


class AskedProof(Part):
    """That the key of who asked signed it. The decision stage verified it before it recorded anything."""

    signed_at: UtcTime
    key_fingerprint: KeyFingerprint
    ssh_signature: Annotated[str, Field(max_length=16384)]


class AskedStatement(Part):
    """What a person signs who asks for a switch."""

    schema_: Literal["hyops/asked/v1"] = Field(default="hyops/asked/v1", alias="schema")
    requested_by: Annotated[str, Field(min_length=1, max_length=256)]
    service: Name
    env: Name
    decision_type: DecisionType
    occasion: Occasion
    rationale: Text
    approvals_required: Annotated[int, Field(ge=1, le=10)] | None = None
    despite_hold: Text | None = None
    signed_at: UtcTime

    def signed_bytes(self) -> bytes:
        """What `ssh-keygen -Y sign` gets on standard input."""
        return canonical.encode(self.body())


def statement_of(asked: Asked, *, service: str, env: str, signed_at: UtcTime) -> AskedStatement:
    """What a person signed, or is about to sign, who asks for this."""
    return AskedStatement(
        requested_by=asked.requested_by,
        service=service,
        env=env,
        decision_type=asked.decision_type,
        occasion=asked.occasion,
        rationale=asked.rationale,
        approvals_required=asked.approvals_required,
        despite_hold=asked.despite_hold,
        signed_at=signed_at,
    )
