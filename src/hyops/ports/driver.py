"""A driver executes one step. Intent and outcome are the engine's; the driver owns the effect and its probe (BP-4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from hyops.model.base import Part
from hyops.model.run import RunSpec


class Reconciled(StrEnum):
    """What a probe finds out about a step that was under way when its process died."""

    DONE = "done"
    NOT_DONE = "not-done"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class StepContext:
    """What a driver may know. `inputs` are resolved; `outputs` are those of earlier steps, by step id."""

    spec: RunSpec
    step_id: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Mapping[str, Any]]
    secrets: Mapping[str, str]
    deadline: float
    log: Callable[[str], None]


@dataclass(frozen=True)
class StepResult:
    """What a driver hands back; `changed` False is a no-op and is reported as one."""

    outputs: dict[str, Any] = field(default_factory=dict)
    changed: bool = True
    note: str | None = None


class Unanswered(str):
    """A fault that says only that nobody answered: it stops a step, and proves nothing about what was done before."""

    __slots__ = ()


class Driver(Protocol):
    """One `native/...` module or tool. Inputs are validated before anything of the plan runs."""

    inputs: type[Part]
    """The strict shape of the step's inputs; checked at plan time and on the runner."""

    async def preflight(self, context: StepContext) -> list[str]:
        """What would stop this step now, in words (`Unanswered` ones where nobody could be asked); empty when nothing
        would. Changes nothing.
        """

    async def apply(self, context: StepContext) -> StepResult:
        """Make the effect. Raises from the HyopsError tree; a refusal says that nothing was touched."""

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """After a crash: did `apply` take effect? `DONE` carries the result that was lost."""
