"""What a runner makes of a standby order and the approvals for it, without any control host (INV-9, INV-4). Pure.

The runner makes up nothing: decision, request and plan come signed by the stages, the approvals by people. It adds
only the execution, which says whose approvals it counted, who began it and what the quorum said; it signs that with
its own key, and the job admits it by the same rules as any other run.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from hyops.errors import UnsafePlanError
from hyops.model import ids
from hyops.model.approval import Approval
from hyops.model.dsse import Signs, sign_record
from hyops.model.execution import ApprovalSummary, Execution, Takeover
from hyops.model.run import RunSpec
from hyops.model.takeover import StandbyOrder
from hyops.runner.admission import BREAK_GLASS, Rules


def needed(order: StandbyOrder, rules: Rules) -> int:
    """How many people must say yes: the strictest of the request, this runner's policy and its own for takeovers."""
    return max(rules.policy.required, order.request.approvals_needed, rules.takeover_approvals)


def accepted_loss(approvals: Sequence[Approval]) -> str | None:
    """What a break-glass among them accepts; None when there is none."""
    said = [a.statement.accepted_loss for a in approvals if a.statement.verdict == BREAK_GLASS]
    return next((loss for loss in said if loss), None)


def taken_over(
    order: StandbyOrder,
    approvals: Sequence[Approval],
    takeover: Takeover,
    rules: Rules,
    signer: Signs,
    *,
    epoch: int,
    now: datetime,
) -> RunSpec:
    """The run of an order, as it is to be admitted; nothing in it is verified here.

    Raises:
        UnsafePlanError: the order names no service, generation or plan.
    """
    request = order.request
    if request.service is None or request.generation is None or request.plan_digest is None:
        raise UnsafePlanError(f"order {order.order_id} does not say what to run")
    given = sorted({approval.approval_id: approval for approval in approvals}.values(), key=lambda a: a.approval_id)
    execution = Execution(
        execution_id=ids.derived("execution", now, request.digest(), request.decision_type),
        timestamp_utc=now,
        expires_at=min([request.expires_at, *(approval.statement.expires_at for approval in given)]),
        source_dispatch_id=request.dispatch_id,
        source_request_digest=request.digest(),
        decision_type=request.decision_type,
        occasion=request.occasion,
        service=request.service,
        generation=request.generation,
        execution_plane=request.execution_plane,
        runner_ref=rules.runner_ref,
        target_kind=request.target_kind,
        target_ref=request.target_ref,
        target_env=request.target_env,
        plan_digest=request.plan_digest,
        rationale=request.rationale,
        approval=_summary(given, needed(order, rules), takeover.accepted_loss),
        takeover=takeover,
    )
    signed = sign_record(execution, signer)
    return RunSpec(
        run_id=signed.run_id(),
        epoch=epoch,
        service=request.service,
        generation=request.generation,
        occasion=request.occasion,
        plan=order.plan,
        execution=signed,
        request=request,
        decision=order.decision,
        approvals=given,
    )


def _summary(given: Sequence[Approval], count: int, loss: str | None) -> ApprovalSummary:
    notes = [approval.statement.note for approval in given if approval.statement.note]
    notes += [f"accepted loss: {loss}"] if loss else []
    return ApprovalSummary(
        required=True,
        needed=count,
        approval_ids=[approval.approval_id for approval in given],
        approved_by=[approval.statement.approver for approval in given],
        mode="break-glass" if accepted_loss(given) else "signed",
        note="; ".join(notes)[:4096] or None,
    )
