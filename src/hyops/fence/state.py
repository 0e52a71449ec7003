"""What a fence agent must remember over a crash, and the port that keeps it.

The file is written (and on disk) before the edge opens further than it says, so that an agent that comes up after any
crash is never more permissive than the one that died.
"""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field

from hyops.model.base import Generation, Name, Part
from hyops.model.fence import DemotionReceipt


class AgentState(Part):
    """Everything durable. `generation` only grows; `primary` is whose it is."""

    schema_: Literal["hyops/fence-agent/v1"] = Field(default="hyops/fence-agent/v1", alias="schema")
    service: Name
    host: Name
    generation: Generation = 0
    primary: Name | None = None
    hold: Literal["none", "fenced", "demoted"] = "none"
    hold_generation: Generation = 0
    hold_run: Name | None = None
    demotion: DemotionReceipt | None = None
    promotion_run: Name | None = None
    stopped_for_lease: bool = False
    needs_rewind: bool = False

    def holding(self) -> bool:
        """A fence or demotion stands: nothing may open under `hold_generation` or before it."""
        return self.hold != "none" and self.hold_generation >= self.generation

    def learnt(self, generation: int, primary: str) -> AgentState:
        """After the quorum has shown a newer generation; what was held for an older one is over by itself."""
        return self.model_copy(update={"generation": generation, "primary": primary, "stopped_for_lease": False})


class AgentMemory(Protocol):
    """Keeps one `AgentState`."""

    def load(self) -> AgentState | None:
        """None at the very first start; raises RecordError when it is there and unreadable."""

    def save(self, state: AgentState) -> None:
        """On disk when this returns; raises PrerequisiteError when it could not be written."""
