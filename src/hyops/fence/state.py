"""What a fence agent must remember over a crash, and the port that keeps it.

The file is written (and on disk) before the edge opens further than it says, so that an agent that comes up after any
crash is never more permissive than the one that died. An agent without a memory does not know what was promised in its
name, so it holds (`forgotten`) until somebody gives it a place again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from pydantic import Field

from hyops.errors import RecordError
from hyops.model.base import Generation, Name, Part
from hyops.model.fence import DemotionReceipt

FORGOTTEN = "memory-lost"
"""Stands where a hold names its run."""


class AgentState(Part):
    """Everything durable. `generation` only grows; `primary` is whose it is."""

    schema_: Literal["hyops/fence-agent/v1"] = Field(default="hyops/fence-agent/v1", alias="schema")
    service: Name
    host: Name
    generation: Generation = 0
    primary: Name | None = None
    hold: Literal["none", "fenced", "demoted", "forgotten"] = "none"
    hold_generation: Generation = 0
    hold_run: Name | None = None
    demotion: DemotionReceipt | None = None
    promotion_run: Name | None = None
    stopped_for_lease: bool = False
    needs_rewind: bool = False
    prepared_generation: Generation | None = None
    prepared_run: Name | None = None

    def holding(self) -> bool:
        """A fence or demotion stands: nothing may open under `hold_generation` or before it; `forgotten` under none."""
        return self.hold == "forgotten" or (self.hold != "none" and self.hold_generation >= self.generation)

    def handing_over(self) -> bool:
        """A demotion was begun and its end is not known: the standbys may still lack rows."""
        return self.hold == "demoted" and self.demotion is None and self.holding()

    def learnt(self, generation: int, primary: str, *, going_on: bool = False) -> AgentState:
        """After the quorum has shown a newer generation; what was held for an older one is over by itself.

        `going_on`: nobody else was primary in between, so this host's database may be started again where it was
        stopped for its lease.
        """
        again = going_on and self.primary == primary == self.host and self.stopped_for_lease
        known = {"generation": generation, "primary": primary, "stopped_for_lease": again}
        if self.hold == "forgotten" and primary != self.host:  # nothing can have been promised for a standby
            return self.model_copy(update=known | {"hold": "none", "hold_run": None})
        return self.model_copy(update=known)

    def placed(self, generation: int, primary: str) -> AgentState:
        """After somebody with the right to it has given this host its place: no hold is left."""
        free = {"hold": "none", "hold_run": None, "demotion": None, "prepared_generation": None, "prepared_run": None}
        return self.learnt(generation, primary).model_copy(update=free)


def forgotten(service: str, host: str) -> AgentState:
    """What an agent without a memory starts with: closed, whoever the quorum names."""
    return AgentState(service=service, host=host, hold="forgotten", hold_run=FORGOTTEN)


class AgentMemory(Protocol):
    """Keeps one `AgentState`."""

    def load(self) -> AgentState | None:
        """None at the very first start; raises RecordError when it is there and unreadable."""

    def save(self, state: AgentState) -> None:
        """On disk when this returns; raises PrerequisiteError when it could not be written."""


def recall(service: str, host: str, memory: AgentMemory, log: Callable[[str], None]) -> AgentState:
    """What was remembered. A memory that is lost or damaged is never taken for a new service's."""
    try:
        state = memory.load()
    except RecordError as exc:
        log(f"the agent's memory is damaged, so it stays closed: {exc.message}")
        state = None
    return state or forgotten(service, host)
