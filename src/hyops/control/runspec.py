"""Everything a runner gets, checked link by link before a start: what runs is what was approved (INV-4)."""

from __future__ import annotations

from collections.abc import Sequence

from hyops.errors import MissingRecordError, UnsafePlanError
from hyops.model.approval import Approval
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Execution
from hyops.model.plan import Plan
from hyops.model.run import RunSpec


def run_spec(
    execution: Execution,
    request: DispatchRequest | None,
    decision: Decision | None,
    plan: Plan | None,
    approvals: Sequence[Approval | None],
    *,
    epoch: int,
    run_id: str,
    keep: bool = False,
) -> RunSpec:
    """The run spec of an execution; None stands for what is missing or does not verify.

    Raises:
        MissingRecordError: a record is missing. UnsafePlanError: two of them do not agree.
    """
    if request is None:
        raise MissingRecordError(f"request {execution.source_dispatch_id} is missing, or not believed here")
    if request.digest() != execution.source_request_digest:
        raise UnsafePlanError(f"request {execution.source_dispatch_id} is not the approved one")
    if decision is None:
        raise MissingRecordError(f"decision {request.source_decision_id} is missing, or not believed here")
    if decision.digest() != request.source_decision_digest:
        raise UnsafePlanError(f"decision {request.source_decision_id} is not the one of the request")
    if plan is None:
        raise MissingRecordError(f"plan {execution.plan_digest} is missing or damaged")
    if plan.digest() != execution.plan_digest or request.plan_digest != execution.plan_digest:
        raise UnsafePlanError(f"plan {execution.plan_digest} is not the approved one")
    if (plan.service, plan.runner_ref) != (execution.service, execution.runner_ref):
        raise UnsafePlanError("the plan is for another service or runner than the execution")
    if execution.approval.mode != "marker" and None in approvals:
        raise MissingRecordError("an approval that carried the execution is gone")
    return RunSpec(
        run_id=run_id,
        epoch=epoch,
        service=execution.service,
        generation=execution.generation,
        occasion=execution.occasion,
        plan=plan,
        execution=execution,
        request=request,
        decision=decision,
        approvals=[approval for approval in approvals if approval is not None],
        keep=True if keep else None,
    )
