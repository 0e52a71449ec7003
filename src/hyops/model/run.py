"""What travels between the executor and a runner (RUN-4, RUN-5, RUN-6)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hyops.model.access import ResolvedAccess
from hyops.model.approval import Approval
from hyops.model.base import Digest, Generation, Name, Part, Record, Text, UtcTime
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Execution
from hyops.model.plan import Plan, StepId
from hyops.model.state_change import StateChange
from hyops.model.vocabulary import Occasion, Outcome


class RunSpec(Part):
    """Everything a runner needs to run once, and to check for itself that it may.

    The runner verifies: plan digest == execution.plan_digest == request.plan_digest; the approvals against its own
    allowed signers; signatures of execution and request against its own trusted keys; generation and epoch against
    what it has seen. `generation` is the one to end; the run makes `generation + 1`.
    """

    schema_: Literal["hyops/run-spec/v1"] = Field(default="hyops/run-spec/v1", alias="schema")
    run_id: Name
    epoch: Annotated[int, Field(ge=1)]
    service: Name
    generation: Generation
    occasion: Occasion
    plan: Plan
    execution: Execution
    request: DispatchRequest
    decision: Decision
    approvals: list[Approval] = Field(default_factory=list)
    keep: bool | None = Field(default=None, description="keep what was staged after a success too, for a look at it")


class StepOutcome(Part):
    """How one step ended."""

    step_id: StepId
    outcome: Outcome
    changed: bool = True
    reason: Text | None = None
    started_at: UtcTime
    ended_at: UtcTime
    elapsed_s: float
    outputs: dict[str, Any] = Field(default_factory=dict)
    state: StateChange | None = None


class RunResult(Record):
    """What a runner says of a finished run; signed with the runner's key."""

    kind: ClassVar[str] = "run-result"
    id_field: ClassVar[str] = "run_id"

    schema_: Literal["hyops/run-result/v1"] = Field(default="hyops/run-result/v1", alias="schema")
    run_id: Name
    runner_ref: Name
    service: Name
    generation_before: Generation
    generation_after: Generation | None = None
    primary_after: Name | None = None
    outcome: Outcome
    exit_code: int
    reason: Text | None = None
    started_at: UtcTime
    ended_at: UtcTime
    steps: list[StepOutcome]
    journal_head: Digest
    journal_records: Annotated[int, Field(ge=0)]
    plan_digest: Digest
    phases_s: dict[str, float] = Field(default_factory=dict)
    endpoints: dict[str, Any] = Field(default_factory=dict)
    access: ResolvedAccess | None = None
