"""Signals as the decision service receives them: one source per vantage point (DEC-2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field

from hyops.model.base import Name, Part, Text
from hyops.model.policy import Signal
from hyops.model.signal import Sample


class Watched(Part):
    """One signal with the addresses that it means right now."""

    signal: Signal
    host: Name
    address: Text
    port: int
    endpoint: Text | None = None
    authority: Text | None = None


class Watchlist(Part):
    """What one vantage point looks at; one JSON line to `hyops probe stream`."""

    vantage: Name
    watched: list[Watched] = Field(max_length=200)
    user: Name = "hyops"
    dbname: Name = "postgres"


@dataclass(frozen=True)
class Received:
    """A sample with the time it arrived, on the receiver's monotonic clock."""

    sample: Sample
    received_s: float


@dataclass(frozen=True)
class Lost:
    """The vantage point went away: whatever it said before is no longer a continuous look."""

    vantage: str
    reason: str


class SignalSource(Protocol):
    """One vantage point."""

    @property
    def vantage(self) -> str:
        """Its name."""

    def observe(self, watchlist: Watchlist) -> AsyncIterator[Received | Lost]:
        """Samples for ever, connecting again by itself after a loss; never raises for what the network does."""
