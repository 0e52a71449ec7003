"""Receipts: what proves that the old primary has stopped taking writes (FEN-1), and that nothing is lost (planned)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hyops.model.base import Digest, Generation, Name, Part, Record, Text, UtcTime
from hyops.model.vocabulary import ReceiptClass

RESTORE = "restore:"  # begins the raiser's name after a restore; no run id has a colon


class Observation(Part):
    """One fact that somebody saw. `by` is the vantage point, `how` the means, `saw` the finding in words."""

    by: Name
    how: Name
    saw: Text
    at: UtcTime
    facts: dict[str, Any] = Field(default_factory=dict)


class FenceReceipt(Record):
    """Proof that `host` cannot acknowledge a write under `generation` or any before it. Signed by the runner."""

    kind: ClassVar[str] = "fence-receipt"
    id_field: ClassVar[str] = "receipt_id"

    schema_: Literal["hyops/fence-receipt/v1"] = Field(default="hyops/fence-receipt/v1", alias="schema")
    receipt_id: Name
    receipt_class: ReceiptClass
    service: Name
    host: Name
    generation: Generation
    next_generation: Generation
    target: Name
    run_id: Name
    issued_at: UtcTime
    observations: list[Observation] = Field(min_length=1)
    margin_s: float | None = None
    limits: Text | None = None


class DemotionReceipt(Part):
    """Where a planned demotion stopped: the standby must have replayed up to here, so that no row is lost."""

    host: Name
    generation: Generation
    system_identifier: Annotated[str, Field(pattern=r"^\d{1,20}$")]
    timeline: Annotated[int, Field(ge=1)]
    last_lsn: Annotated[str, Field(pattern=r"^[0-9A-F]{1,8}/[0-9A-F]{1,8}$")]
    at: UtcTime


class LeaseState(Part):
    """What the quorum store says about a service: who may serve writes, under which generation.

    `unguarded` is the host that last renewed without an edge that closes by itself, `unguarded_generation` the lease's
    generation then; both outlive the lease, because for such a host its end proves nothing (FEN-1). `last_holder` is
    who was given a lease last, whether it still has it or not: nobody else has opened since. None: it is not known.

    `cluster` is the store in which the generation was written; `foreign`: it is not the store that was asked, which was
    restored from a snapshot since. What such a record says was true once, so nobody acts on it.
    """

    service: Name
    generation: Generation
    primary: Name
    changed_by: Text | None = None
    holder: Name | None = None
    holder_generation: Generation | None = None
    unguarded: Name | None = None
    unguarded_generation: Generation | None = None
    last_holder: Name | None = None
    last_holder_generation: Generation | None = None
    cluster: Name | None = None
    foreign: bool = False
    revision: Annotated[int, Field(ge=0)] = 0
    last_receipt_digest: Digest | None = None

    @property
    def reinstated(self) -> bool:
        """Its primary was asked for and found the newest one after a restore: it may go on as what it was."""
        return (self.changed_by or "").startswith(RESTORE)

    def unguarded_under(self, host: str, generation: int) -> bool:
        """Whether `host` was last seen unguarded under `generation` or one before it."""
        return self.unguarded == host and (self.unguarded_generation or 0) <= generation
