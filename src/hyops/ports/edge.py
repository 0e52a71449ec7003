"""The network edge of one database host: closed unless the kernel itself still counts down a right to pass (FEN-2).

The edge never learns of leases. Its user arms a slot *before* it asks for a renewal, and grants the slot after the
answer: the kernel's countdown began before the request was sent, so however long the process stands still in between,
what it grants late is already over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType, Protocol

Slot = NewType("Slot", int)


@dataclass(frozen=True)
class EdgeState:
    """What the kernel lets pass now. Not installed: everything, whatever the other fields say."""

    installed: bool
    open: bool
    draining: bool
    reading: bool


class DatabaseEdge(Protocol):
    """All calls act at once, each in one atomic transaction, and raise TargetError when the kernel refuses."""

    def install(self) -> None:
        """Put the closed rule set in place of whatever stands; established sessions die with it."""

    def arm(self, ttl_s: float) -> Slot:
        """Start a countdown that lets nothing pass yet."""

    def grant(self, slot: Slot) -> None:
        """Let everybody pass for what is left of the slot's countdown, instead of any slot granted before."""

    def drain(self, limit_s: float) -> None:
        """Close to everybody, except that standbys may go on replicating for `limit_s`."""

    def read(self, limit_s: float) -> None:
        """Let the monitors reach a standby for `limit_s`; for a database that is in recovery only."""

    def close(self) -> None:
        """Let nothing pass; established sessions are reset."""

    def state(self) -> EdgeState:
        """Ask the kernel; raises TargetError when it does not say. Rules that are gone are no error: not installed."""
