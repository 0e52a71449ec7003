"""Signals as the decision service receives them: one source per vantage point (DEC-2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from hyops.model.base import Name, Part, Text
from hyops.model.policy import Signal
from hyops.model.signal import Sample

WATCHED_MAX = 20_000
WITNESS = r"^(tcp|dns)://([0-9.]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$"


class Watched(Part):
    """One signal with the addresses that it means right now. `service`: whose, where a watchlist is of several,
    and then with the login of its own probe."""

    signal: Signal
    host: Name
    address: Text
    port: int
    endpoint: Text | None = None
    authority: Text | None = None
    service: Name | None = None
    user: Name | None = None
    dbname: Name | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What its samples are told apart by."""
        return self.service or "", self.signal.name


class Watchlist(Part):
    """What one vantage point looks at; one JSON line to `hyops probe stream`.

    `witnesses` are what it must reach to be well itself, its own gateway or resolver: `tcp://address:port` (a refusal
    is an answer) or `dns://address:port`. When none of them answers, it has no vote.
    """

    vantage: Name
    watched: list[Watched] = Field(max_length=WATCHED_MAX)
    user: Name = "hyops"
    dbname: Name = "postgres"
    witnesses: list[Annotated[str, Field(pattern=WITNESS, max_length=128)]] | None = Field(default=None, max_length=8)


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

    def rewatch(self, watchlist: Watchlist) -> None:
        """Look at this from now on, also after a loss; what stays as it was goes on without a gap."""
