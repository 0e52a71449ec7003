"""What a stage looked at and did not act on, with the reason, once (DSP-4, APR-1, INV-7)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hyops.model.base import Digest, Name, Record, Text, UtcTime


class Refusal(Record):
    """One thing refused or ignored. `subject_digest` is over the bytes that were looked at."""

    kind: ClassVar[str] = "refusal"
    id_field: ClassVar[str] = "refusal_id"

    schema_: Literal["hyops/refusal/v1"] = Field(default="hyops/refusal/v1", alias="schema")
    refusal_id: Name
    timestamp_utc: UtcTime
    stage: Literal["decision", "dispatch", "approval", "execution"]
    subject_kind: Name
    subject_id: Annotated[str, Field(max_length=256)]
    subject_digest: Digest
    reason: Text
    error: Name | None = None
