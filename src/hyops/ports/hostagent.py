"""What a runner may ask of the fence agent beside a database (FEN-2). Carried over SSH to the agent's local socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from hyops.model.fence import DemotionReceipt, FenceReceipt


@dataclass(frozen=True)
class AgentStatus:
    """What the agent sees beside the database."""

    host: str
    service: str
    edge: Literal["open", "closed", "unknown"]
    role: Literal["primary", "standby", "stopped", "unknown"]
    generation: int
    holds_lease: bool
    timeline: int | None = None
    lsn: str | None = None
    receive_lsn: str | None = None
    replay_lsn: str | None = None
    lag_bytes: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class HostAgent(Protocol):
    """One agent on one database host. Every verb carries a generation and refuses one older than it has seen.

    The same run may repeat a verb, and is told the same. All raise TargetError (answered with an error),
    AgentLostError (the agent is gone or went: ask again), DeadlineError (no answer: effect unknown) or
    StaleGenerationError.
    """

    async def status(self) -> AgentStatus:
        """Look; change nothing."""

    async def fence(self, *, generation: int, run_id: str) -> AgentStatus:
        """Close the edge now, then stop the database; `generation` is the one being ended."""

    async def prepare(self, *, generation: int, run_id: str) -> AgentStatus:
        """A standby writes on its disk that `run_id` means to promote it under `generation`, the next one."""

    async def demote(self, *, generation: int, run_id: str) -> DemotionReceipt:
        """Planned: close the edge, stop the database cleanly so that the standby has all, give the lease up."""

    async def undo_demote(self, *, generation: int, run_id: str) -> AgentStatus:
        """Take a demotion back while `generation` is still current."""

    async def readmit(self, *, generation: int, run_id: str) -> AgentStatus:
        """Serve again under the generation after `generation`, at which `run_id` held this host and went no further."""

    async def promote(
        self, *, receipt: FenceReceipt, generation: int, run_id: str, demotion: DemotionReceipt | None
    ) -> AgentStatus:
        """Promote under `generation`; the agent verifies the receipt and opens the edge once it holds the lease."""

    async def follow(self, *, primary: str, generation: int, run_id: str) -> AgentStatus:
        """Become (or rewind to be) a standby of `primary`; refused while this host is the current primary."""
