"""What a run says that it left in module state, and what became of that at the authority (ROOT-3, RUN-6).

A state change names outputs; their values stand in the step's own outcome, so there is one truth of each.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hyops.model.base import Generation, Name, Part, Text, UtcTime
from hyops.model.module_state import ModuleState

StateRef = Annotated[str, Field(max_length=200, pattern=r"^[a-z0-9][a-z0-9._/-]*(?:#[a-z0-9][a-z0-9_.-]{0,63})?$")]
Status = Literal["ok", "error", "unknown"]
Side = Literal["ours", "theirs"]


class StateChange(Part):
    """The state that a step changed. `base_generation` is what was in the bundle; None: there was no state yet."""

    state_ref: StateRef
    base_generation: Generation | None = None
    status: Status
    published: list[Name] = Field(default_factory=list, max_length=100)


class StateConflict(Part):
    """What a run left and the authority would not take: kept beside the state until a person decides.

    `published` are the values that the run published; the step may set the outputs in `publishes` and no others.
    """

    schema_: Literal["hyops/state-conflict/v1"] = Field(default="hyops/state-conflict/v1", alias="schema")
    conflict_id: Name
    state_ref: StateRef
    run_id: Name
    runner_ref: Name
    step_id: Name
    journal_records: Generation
    found_at: UtcTime
    keys: list[Text]
    reason: Text
    status: Status
    published: dict[str, Any]
    publishes: list[Name]
    base_generation: Generation | None = None
    base: ModuleState | None = None
    ours: ModuleState | None = None


class StateResolution(Part):
    """Which side a person took; `generation` is the authority's after that."""

    schema_: Literal["hyops/state-resolution/v1"] = Field(default="hyops/state-resolution/v1", alias="schema")
    conflict_id: Name
    take: Side
    by: Text
    at: UtcTime
    generation: Generation


class ChangeReport(Part):
    """What became of one step's change."""

    step_id: Text
    state_ref: Text | None = None
    what: Literal["applied", "merged", "same", "conflict", "refused"]
    generation: Generation | None = None
    conflict_id: Name | None = None
    keys: list[Text] = Field(default_factory=list)
    reason: Text | None = None


class StateReturn(Part):
    """What became of everything that a run brought home: made once for each outcome, and part of its evidence."""

    schema_: Literal["hyops/state-return/v1"] = Field(default="hyops/state-return/v1", alias="schema")
    outcome_id: Name
    run_id: Name
    env: Name
    at: UtcTime
    changes: list[ChangeReport]
