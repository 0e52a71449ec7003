"""The records of one attempt must agree: each rule yields the record that contradicts the ones before it.

The order of blame is the order of events: an outcome that does not match the runner's signed result is the bad one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from hyops.errors import RecordError
from hyops.evidence import journal
from hyops.evidence.chain import BadRecordError, Fault
from hyops.evidence.contents import Contents, Placed
from hyops.evidence.delegated import delegated
from hyops.evidence.gaps import FUTURE_MAX_S, gaps
from hyops.model import canonical
from hyops.model.approval import Approval, ApprovalStatement
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.evidence import Loss
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.fence import FenceReceipt
from hyops.model.observed import DecisionInputs
from hyops.model.plan import Plan
from hyops.model.run import RunResult
from hyops.model.vocabulary import Outcome, ReceiptClass


def contradictions(found: Contents) -> Iterator[BadRecordError]:
    """Every disagreement; empty when the bundle tells one story."""
    yield from gaps(found)
    for rule in (_inputs, _request, _approval, _execution, _attempt, _journal, _result, _receipts, _outcome):
        yield from rule(found)


def remarks(found: Contents) -> Iterator[str]:
    """What a reader should know although nothing is wrong."""
    request, execution, result = found.get(DispatchRequest), found.get(Execution), found.get(RunResult)
    decision = found.get(Decision)
    if decision is not None and decision.record.signature is None:
        yield "the decision is unsigned: written by hand, and approved as such"
    if decision is not None and decision.record.inputs_digest is None:
        yield "the decision names no inputs, so no policy with objectives stands in the bundle"
    for given in (execution.record.approval.delegations or ()) if execution is not None else ():
        yield f"{given.delegate} approved for {given.on_behalf_of}, under {given.approval_id}"
    if execution is not None and execution.record.approval.mode in {"marker", "none", "break-glass", "standing"}:
        yield f"approval mode: {execution.record.approval.mode}"
    if request is not None and request.record.approvals is None:
        yield "the request does not say how many approvals it needed (an older hyops made it): counted with one"
    if request is not None and request.record.warnings:
        yield f"warnings the approvers saw: {'; '.join(request.record.warnings)}"
    for receipt in found.all(FenceReceipt):
        if receipt.record.limits:
            yield f"limits of the fence receipt: {receipt.record.limits}"
    outcome = found.get(AttemptOutcome)
    if outcome is not None and outcome.record.reconciliation is not None:
        yield f"the end is not proved; closed {outcome.record.reason}"
    if execution is not None and execution.record.takeover is not None:
        told = execution.record.takeover
        yield f"taken over by {told.by} on {execution.record.runner_ref}, without a control host: {told.reason}"
    if result is None:
        yield "nothing ran, or the runner's result is not known"
    if found.get(Loss) is None:
        yield "no loss was counted"


def covers(statement: ApprovalStatement, request: DispatchRequest, execution: Execution) -> str | None:
    """Why a signed statement does not cover this execution; None when it does (INV-4, APR-1)."""
    if statement.verdict in {"reject", "withdraw", "delegate"}:
        return f"the verdict is {statement.verdict}"
    if statement.plan_digest is not None and statement.plan_digest != execution.plan_digest:
        return "it is for another plan"
    ahead = timedelta(seconds=FUTURE_MAX_S)
    if not statement.signed_at - ahead <= execution.timestamp_utc < statement.expires_at:
        return "it was not valid when the execution was made"
    if statement.verdict == "standing":
        if statement.service != execution.service or execution.decision_type not in statement.decision_types:
            return "it stands for another service or decision type"
        return None if execution.occasion in statement.occasions else f"it does not stand for {execution.occasion}"
    if statement.request_digest != request.digest() or statement.dispatch_id != request.dispatch_id:
        return "it is for another request"
    missing = set(request.warnings) - set(statement.acknowledged_warnings)
    return f"it does not acknowledge: {'; '.join(sorted(missing))}" if missing else None


def _inputs(found: Contents) -> Iterator[BadRecordError]:
    inputs, decision = found.get(DecisionInputs), found.get(Decision)
    if inputs is None:
        return
    if decision is None or decision.record.inputs_digest != canonical.digest(inputs.record.body()):
        yield inputs.bad(Fault.CONTRADICTION, "the decision was computed from other inputs")
        return
    if inputs.record.policy.service != decision.record.service:
        yield inputs.bad(Fault.CONTRADICTION, "its policy, with the objectives, is of another service")
    asked = inputs.record.asked
    if (asked.requested_by if asked else None) != decision.record.requested_by:
        yield inputs.bad(Fault.CONTRADICTION, "it does not say who asked for the decision")


def _request(found: Contents) -> Iterator[BadRecordError]:
    request, decision, plan = found.get(DispatchRequest), found.get(Decision), found.get(Plan)
    if request is None:
        return
    if decision is not None:
        if request.record.source_decision_digest != decision.record.digest():
            yield request.bad(Fault.CONTRADICTION, "it answers another decision")
        if request.record.source_decision_id != decision.record.decision_id:
            yield request.bad(Fault.CONTRADICTION, "it names another decision id")
        if request.record.source_decision_signed and decision.record.signature is None:
            yield decision.bad(Fault.BAD_SIGNATURE, "unsigned, although the request says it was signed")
    if plan is not None and request.record.plan_digest != plan.record.digest():
        yield request.bad(Fault.CONTRADICTION, "its plan digest is not that of the plan")


def _approval(found: Contents) -> Iterator[BadRecordError]:
    request, execution = found.get(DispatchRequest), found.get(Execution)
    if request is None or execution is None:
        return
    summary = execution.record.approval
    given = {placed.record.approval_id: placed for placed in found.all(Approval)}
    for approval_id in sorted(set(given) - set(summary.record_ids)):
        yield given[approval_id].bad(Fault.ADDED, "the execution does not rest on it")
    yield from delegated(execution, request.record, given)
    for approval_id in summary.approval_ids:
        placed = given.get(approval_id)
        if placed is None:
            if summary.mode != "marker":
                yield execution.bad(Fault.MISSING, f"the approval {approval_id} is not in the bundle")
            continue
        why = covers(placed.record.statement, request.record, execution.record)
        if why:
            yield placed.bad(Fault.CONTRADICTION, f"does not cover this execution: {why}")
        if placed.record.statement.approver not in summary.approved_by:
            yield execution.bad(Fault.CONTRADICTION, f"it does not name the approver of {approval_id}")
    verdicts = {str(placed.record.statement.verdict) for placed in given.values()} - {"delegate"}
    if given and summary.mode != _mode(verdicts):
        yield execution.bad(Fault.CONTRADICTION, f"its approvals are not of the mode {summary.mode}")
    if summary.needed is not None and summary.needed < request.record.approvals_needed:
        asked = request.record.approvals_needed
        yield execution.bad(Fault.CONTRADICTION, f"it took {summary.needed} approvals, and the request needs {asked}")
    if (request.record.requires_approval or summary.required) and not summary.approval_ids:
        yield execution.bad(Fault.MISSING, "approval was required and none is named")


def _mode(verdicts: set[str]) -> str:
    return "break-glass" if "break-glass" in verdicts else "standing" if verdicts == {"standing"} else "signed"


def _execution(found: Contents) -> Iterator[BadRecordError]:
    execution, request, plan = found.get(Execution), found.get(DispatchRequest), found.get(Plan)
    if execution is None or request is None:
        return
    e, r = execution.record, request.record
    if (e.takeover is not None) is not (r.condition is not None):
        yield execution.bad(Fault.CONTRADICTION, "a standby order is run by a takeover, and nothing else is")
    if e.takeover is not None and e.takeover.generation_seen is None and e.approval.mode != "break-glass":
        yield execution.bad(Fault.CONTRADICTION, "no quorum was asked, and no break-glass accepts the loss")
    if e.takeover is not None and e.takeover.by not in e.approval.approved_by:
        yield execution.bad(Fault.CONTRADICTION, "who began it is none of those who approved it")
    if e.source_request_digest != r.digest() or e.source_dispatch_id != r.dispatch_id:
        yield execution.bad(Fault.CONTRADICTION, "it answers another request")
    if e.plan_digest != r.plan_digest or (plan is not None and e.plan_digest != plan.record.digest()):
        yield execution.bad(Fault.CONTRADICTION, "its plan is not the one that was requested")
    if plan is not None and plan.record.runner_ref != e.runner_ref:
        yield execution.bad(Fault.CONTRADICTION, "its runner is not the plan's")
    for field in ("decision_type", "occasion", "service", "generation"):
        if getattr(r, field) is not None and getattr(e, field) != getattr(r, field):
            yield execution.bad(Fault.CONTRADICTION, f"its {field} is not the request's")


def _attempt(found: Contents) -> Iterator[BadRecordError]:
    attempt, execution = found.get(Attempt), found.get(Execution)
    if attempt is None:
        return
    if execution is None:
        yield attempt.bad(Fault.MISSING, "no execution stands before it")
        return
    if attempt.record.source_execution_digest != execution.record.digest():
        yield attempt.bad(Fault.CONTRADICTION, "it runs another execution")
    for field in ("service", "generation", "runner_ref", "plan_digest"):
        if getattr(attempt.record, field) != getattr(execution.record, field):
            yield attempt.bad(Fault.CONTRADICTION, f"its {field} is not the execution's")


def _journal(found: Contents) -> Iterator[BadRecordError]:
    result = found.get(RunResult)
    if result is None:
        if found.journal:
            line = next(link for link in found.links if link.entry.kind == "journal")
            yield BadRecordError(Fault.MISSING, line.line, "journal", "no runner's result vouches for it")
        return
    try:
        head = journal.head_of(found.journal)
    except RecordError as exc:
        yield result.bad(Fault.CONTRADICTION, f"its journal is damaged: {exc.message}")
        return
    if head != result.record.journal_head or len(found.journal) != result.record.journal_records:
        yield result.bad(Fault.CONTRADICTION, "the journal in the bundle is not the one it was signed over")


def _result(found: Contents) -> Iterator[BadRecordError]:
    result, attempt, execution = found.get(RunResult), found.get(Attempt), found.get(Execution)
    if result is None:
        return
    if attempt is None or execution is None:
        yield result.bad(Fault.MISSING, "no attempt stands before it")
        return
    r = result.record
    if r.run_id != attempt.record.run_id or r.runner_ref != execution.record.runner_ref:
        yield result.bad(Fault.CONTRADICTION, "it is of another run or runner")
    if r.plan_digest != execution.record.plan_digest:
        yield result.bad(Fault.CONTRADICTION, "it ran another plan than was approved")
    if r.access is not None and r.access.plane is not execution.record.execution_plane:
        yield result.bad(Fault.CONTRADICTION, f"it reached its targets by {r.access.plane}, which was not approved")
    if r.service != execution.record.service or r.generation_before != execution.record.generation:
        yield result.bad(Fault.CONTRADICTION, "its service or generation is not the execution's")
    if r.generation_after not in {None, r.generation_before, r.generation_before + 1}:
        yield result.bad(Fault.CONTRADICTION, "the generation was not raised by one")
    plan = found.get(Plan)
    done = {step.step_id for step in r.steps if step.outcome is Outcome.SUCCEEDED}
    needed = [step.id for step in plan.record.steps if not step.optional] if plan else [s.step_id for s in r.steps]
    short = [name for name in needed if name not in done]
    if r.outcome is Outcome.SUCCEEDED and short:
        yield result.bad(Fault.CONTRADICTION, f"it says succeeded, but steps did not: {', '.join(short)}")


def _receipts(found: Contents) -> Iterator[BadRecordError]:
    result, execution = found.get(RunResult), found.get(Execution)
    receipts = found.all(FenceReceipt)
    for placed in receipts:
        if execution is not None:
            yield from _receipt(placed, execution.record, found)
    if result is None:
        return
    raised = result.record.generation_after not in {None, result.record.generation_before}
    moved = result.record.outcome is Outcome.SUCCEEDED or result.record.primary_after is not None
    if raised and moved and not receipts:  # one that failed may have found, or left, a raised generation
        yield result.bad(Fault.MISSING, "the generation was raised without a fence receipt (INV-2)")


def _receipt(placed: Placed[FenceReceipt], execution: Execution, found: Contents) -> Iterator[BadRecordError]:
    receipt, attempt, result = placed.record, found.get(Attempt), found.get(RunResult)
    if receipt.service != execution.service or receipt.generation != execution.generation:
        yield placed.bad(Fault.CONTRADICTION, "it is for another service or generation")
    if receipt.next_generation != receipt.generation + 1:
        yield placed.bad(Fault.CONTRADICTION, "it does not lead to the next generation")
    if attempt is not None and receipt.run_id != attempt.record.run_id:
        yield placed.bad(Fault.CONTRADICTION, "it was issued to another run")
    if result is not None and result.record.primary_after not in {None, receipt.host, receipt.target}:
        yield placed.bad(Fault.CONTRADICTION, "it was issued for another target")
    if receipt.receipt_class is ReceiptClass.BREAK_GLASS:
        request, said = found.get(DispatchRequest), [approval.record.statement for approval in found.all(Approval)]
        glass = [statement for statement in said if statement.verdict == "break-glass"]
        if request is None or all(covers(statement, request.record, execution) for statement in glass):
            yield placed.bad(Fault.MISSING, "no signed break-glass stands behind it (APR-4)")


def _outcome(found: Contents) -> Iterator[BadRecordError]:
    outcome, attempt, result = found.get(AttemptOutcome), found.get(Attempt), found.get(RunResult)
    if outcome is None:
        return
    o = outcome.record
    if attempt is not None and (o.attempt_id != attempt.record.attempt_id or o.run_id != attempt.record.run_id):
        yield outcome.bad(Fault.CONTRADICTION, "it closes another attempt")
    if result is None:
        return
    for field in ("outcome", "service", "generation_before", "generation_after", "primary_after", "journal_head"):
        said, signed = getattr(o, field), getattr(result.record, field)
        if said != signed:
            yield outcome.bad(Fault.CONTRADICTION, f"{field}: it says {said}, the runner signed {signed}")
    if o.result and canonical.digest(o.result) != canonical.digest(result.record.body()):
        yield outcome.bad(Fault.CONTRADICTION, "the result it quotes is not the one that the runner signed")
