"""The PostgreSQL beside a fence agent: what it is, and the few things the agent does to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Role = Literal["primary", "standby", "stopped", "unknown"]


@dataclass(frozen=True)
class DatabaseFacts:
    """What the running database says of itself; positions are None where they do not apply."""

    role: Role
    system_identifier: str | None = None
    timeline: int | None = None
    lsn: str | None = None
    receive_lsn: str | None = None
    replay_lsn: str | None = None
    lag_bytes: int | None = None
    streaming: bool = False


@dataclass(frozen=True)
class StoppedAt:
    """Where a cleanly stopped primary ended: its shutdown checkpoint."""

    system_identifier: str
    timeline: int
    last_lsn: str


class LocalDatabase(Protocol):
    """All coroutines raise DeadlineError at their limit and TargetError when the database does something else."""

    def role(self) -> Role:
        """Cheap enough for every turn of a loop: from the control file and the process table."""

    def would_start_as(self) -> Literal["primary", "standby", "absent"]:
        """What a start would make of it: decided by its signal files."""

    async def facts(self) -> DatabaseFacts:
        """Ask the database."""

    async def start(self, *, limit_s: float) -> None:
        """Start and wait until it answers; already running is fine."""

    async def stop(self, *, mode: Literal["fast", "immediate"], limit_s: float) -> None:
        """Stop and wait until the process is gone; `immediate` kills at the limit. Already stopped is fine."""

    async def kill(self, *, limit_s: float) -> None:
        """End every process of the cluster, without asking any of them; returns once none is left."""

    async def stopped_at(self) -> StoppedAt:
        """Raises TargetError unless it was shut down cleanly as a primary."""

    async def checkpoint(self, *, limit_s: float) -> None:
        """Write a checkpoint."""

    async def promote(self, *, limit_s: float) -> DatabaseFacts:
        """End recovery; returns once it is a primary. Already a primary is fine."""

    async def ensure_slots(self, names: list[str]) -> None:
        """Create missing physical replication slots."""

    async def follow(self, *, address: str, port: int, slot: str, limit_s: float) -> bool:
        """Stop, rewind where histories differ, start as a standby; True when it was rewound."""
