"""What a takeover must be before its approvals are counted: one part of `admission` (INV-9, INV-4, APR-4). Pure.

Both doors are closed here. What was sealed for a takeover runs in no other way, and a takeover runs nothing else.
"""

from __future__ import annotations

from datetime import datetime

from hyops.errors import NotApprovedError, StaleGenerationError, UnsafePlanError
from hyops.model.approval import ApprovalPolicy
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Condition, Occasion

BREAK_GLASS = "break-glass"


def is_takeover(spec: RunSpec) -> bool:
    """Whether the runner itself says that this run may begin, instead of an approval stage.

    Raises:
        UnsafePlanError: the order is none, or is run in another way than the one that it was sealed for.
    """
    conditions = (spec.decision.condition, spec.request.condition)
    takes_over = spec.execution.takeover is not None
    if not takes_over and conditions != (None, None):
        raise UnsafePlanError(f"request {spec.request.dispatch_id} is for a takeover alone, and this is none")
    if takes_over and conditions != (Condition.TAKEOVER, Condition.TAKEOVER):
        raise UnsafePlanError(f"request {spec.request.dispatch_id} is no standby order, so no takeover may run it")
    if takes_over and not spec.request.source_decision_signed:
        raise UnsafePlanError(f"request {spec.request.dispatch_id} rests on a decision that nobody signed")
    if takes_over and (spec.occasion is not Occasion.UNPLANNED or "source" not in spec.plan.inputs):
        raise UnsafePlanError("a takeover moves a service away from a lost host, and this plan names none")
    return takes_over


def refuse_what_is_not_of_today(spec: RunSpec, policy: ApprovalPolicy, now: datetime) -> None:
    """Return when people speak of these bytes and of this day: nothing stands, nothing is older than it may be.

    Where no quorum said at which generation the service is, one of them accepts the loss in his signed words.

    Raises:
        NotApprovedError: they do not. StaleGenerationError: the quorum said another generation.
    """
    takeover, said = spec.execution.takeover, [approval.statement for approval in spec.approvals]
    for statement in said:
        if statement.verdict not in ("grant", BREAK_GLASS):
            raise NotApprovedError(f"{statement.approver} said {statement.verdict}, which no takeover rests on")
        if (age_s := (now - statement.signed_at).total_seconds()) > policy.max_age_s:
            raise NotApprovedError(
                f"the approval of {statement.approver} is {age_s:.0f} s old, more than {policy.max_age_s:.0f}",
                hint="have it signed anew: `hyops takeover show` prints how",
            )
    told = takeover.generation_seen if takeover else None
    accepted = [statement.accepted_loss for statement in said if statement.verdict == BREAK_GLASS]
    if told is None and (takeover is None or takeover.accepted_loss not in accepted):
        raise NotApprovedError("no quorum, and no signed break-glass accepts the loss that is named")
    if told not in (None, spec.generation):
        raise StaleGenerationError(f"the quorum was at {told}, and the order is for {spec.generation}")


def refuse_a_strangers_beginning(spec: RunSpec) -> None:
    """Return when who begins a takeover is one of those who signed for it; asked where a run begins, and only there.

    A name that is only typed is nobody's word, and would hide that the only one who said yes began it too (APR-1). What
    has run already is no more to be begun: whoever adopts it follows what happened, also where a runner of an older
    release asked less.

    Raises:
        NotApprovedError: somebody else does.
    """
    takeover = spec.execution.takeover
    signers = sorted({approval.statement.approver for approval in spec.approvals})
    if takeover is not None and takeover.by not in signers:
        raise NotApprovedError(
            f"{takeover.by!r} is to have begun it and has signed none of the approvals; {', '.join(signers)} did",
            hint="--by is one of those who signed, and answers for beginning it; or bring that person's approval too",
        )
