"""Ledgers and loss: what writers were told is safe, against what the database still has (EVD-1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class LossCount:
    """Acknowledged minus surviving. `exact` counts a writer's ledger; `bounded` is an upper limit from positions."""

    how: Literal["exact", "bounded"]
    acknowledged: int
    surviving: int
    lost: int
    lost_ids: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


class Ledger(Protocol):
    """What the writers of a service noted as acknowledged."""

    async def acknowledged(self) -> list[tuple[int, int]]:
        """Inclusive ranges of acknowledged row ids, ascending, not overlapping.

        Raises:
            TargetError: the ledger cannot be read; then nothing can be said about the loss.
        """


class RowCounter(Protocol):
    """Counts rows in the database that now serves."""

    async def surviving(self, address: str, port: int, ranges: list[tuple[int, int]]) -> tuple[int, list[int]]:
        """How many ids of `ranges` are there, and (up to 1000 of) those that are not."""
