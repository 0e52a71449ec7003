"""Probes: independent looks at a service from one vantage point (FEN-1, DEC-2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class WriteVerdict(StrEnum):
    """What an attempt to write showed. Only `refused` proves anything about a fence."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    READ_ONLY = "read-only"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class WriteProbeResult:
    """The verdict with what was seen, in words. `answered`: something at the address spoke, if only to refuse."""

    verdict: WriteVerdict
    saw: str
    elapsed_s: float
    answered: bool = False


class WriteProbe(Protocol):
    """Tries to write one probe row into the service at an address."""

    async def try_write(self, *, address: str, port: int, generation: int, timeout_s: float) -> WriteProbeResult:
        """Open a fresh connection and try to commit a probe row; never raises for what it may meet."""
