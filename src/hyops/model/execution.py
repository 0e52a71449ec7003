"""Executions, attempts and outcomes: an approved request becomes one run on a runner (EXE-1 to EXE-3)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hyops.model import ids
from hyops.model.base import Digest, Generation, Name, Part, Record, Text, UtcTime
from hyops.model.reconciliation import Reconciliation
from hyops.model.vocabulary import DecisionType, ExecutionPlane, Occasion, Outcome


class Delegated(Part):
    """A person who approved for another, under the delegation with this id."""

    approval_id: Name
    delegate: Text
    on_behalf_of: Text


class ApprovalSummary(Part):
    """Which approvals carried an execution. `needed`: how many people it took, the larger of request and policy.

    `approved_by` are the people who signed; `delegations` says for whom, where that is somebody else. With mode
    `marker`, `acknowledged_warnings` is what the marker acknowledges: no other signed record says so.
    """

    required: bool
    needed: Annotated[int, Field(ge=0, le=10)] | None = None
    approval_ids: list[Name] = Field(default_factory=list)
    approved_by: list[Text] = Field(default_factory=list)
    mode: Literal["signed", "standing", "marker", "break-glass", "none"]
    note: Text | None = None
    delegations: list[Delegated] | None = None
    acknowledged_warnings: list[Text] | None = None

    @property
    def record_ids(self) -> list[str]:
        """Every record of the approvers that it rests on: approvals, then the delegations that they act under."""
        return [*self.approval_ids, *sorted({given.approval_id for given in self.delegations or ()})]


class Takeover(Part):
    """Who began a run without any control host, why, and what the quorum said of the service just before.

    `generation_seen` is None where no quorum answered; `accepted_loss` is then what a signed break-glass accepts.
    """

    by: Annotated[str, Field(min_length=1, max_length=256)]
    reason: Text
    generation_seen: Generation | None = None
    accepted_loss: Text | None = None


class Execution(Record):
    """An approved request, ready to run once. Written by the approval stage (`decision-consumer`).

    With `takeover` it is the runner's own: it counted the approvals of a standby order when no control host was left.
    """

    kind: ClassVar[str] = "execution"
    id_field: ClassVar[str] = "execution_id"

    schema_: Literal["hyops/execution/v1"] = Field(default="hyops/execution/v1", alias="schema")
    execution_id: Name
    timestamp_utc: UtcTime
    expires_at: UtcTime
    status: Literal["approved-ready"] = "approved-ready"
    source_dispatch_id: Name
    source_request_digest: Digest
    decision_type: DecisionType
    occasion: Occasion
    service: Name
    generation: Generation
    execution_plane: ExecutionPlane
    runner_ref: Name
    target_kind: Literal["blueprint", "module"]
    target_ref: Text
    target_env: Name
    plan_digest: Digest
    rationale: Text
    approval: ApprovalSummary
    takeover: Takeover | None = None

    def run_id(self) -> str:
        """The id of its only run."""
        return ids.run(self.timestamp_utc, self.digest())


class Attempt(Record):
    """The intent to run an execution on its runner: written before the runner is dialled."""

    kind: ClassVar[str] = "attempt"
    id_field: ClassVar[str] = "attempt_id"

    schema_: Literal["hyops/attempt/v1"] = Field(default="hyops/attempt/v1", alias="schema")
    attempt_id: Name
    run_id: Name
    timestamp_utc: UtcTime
    status: Literal["dry-run-ready", "dispatching"]
    execution_mode: Literal["dry-run", "dispatch"]
    source_execution_id: Name
    source_execution_digest: Digest
    source_dispatch_id: Name
    service: Name
    generation: Generation
    runner_ref: Name
    plan_digest: Digest


class AttemptOutcome(Record):
    """How an attempt ended: closed exactly once, with what the runner signed (INV-7).

    One that `reconciles` an unknown outcome answers it later: by the runner's proof, or by a person's word, which then
    stands in `reconciliation`.
    """

    kind: ClassVar[str] = "outcome"
    id_field: ClassVar[str] = "outcome_id"

    schema_: Literal["hyops/outcome/v1"] = Field(default="hyops/outcome/v1", alias="schema")
    outcome_id: Name
    attempt_id: Name
    run_id: Name
    timestamp_utc: UtcTime
    outcome: Outcome
    reason: Text | None = None
    exit_code: int
    service: Name
    generation_before: Generation
    generation_after: Generation | None = None
    primary_after: Name | None = None
    journal_head: Digest | None = None
    phases_s: dict[str, float] = Field(default_factory=dict)
    endpoints: dict[str, Any] = Field(default_factory=dict)
    result: dict[str, Any] = Field(default_factory=dict)
    reconciles: Name | None = None
    reconciliation: Reconciliation | None = None


def outcome_slot(attempt_id: str) -> str:
    """The slot that the outcome of an attempt holds: there is one."""
    return f"outcome-{attempt_id}"
