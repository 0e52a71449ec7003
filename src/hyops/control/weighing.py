"""What a new word about a request would change: nobody is told `done` for one that can never count (APR-1)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from hyops.control.approval import judge, lacking
from hyops.control.hearing import NO, Heard
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.dispatch import DispatchRequest


def idle(
    request: DispatchRequest,
    approval: Approval,
    heard: Heard,
    said: Iterable[Approval],
    policy: ApprovalPolicy,
    now: datetime,
) -> str | None:
    """Why a word changes nothing, and never will; None when it counts, alone or with others that are still to come.

    Args:
        approval: the word, whose signature is good.
        heard: it and everybody's no; what others grant neither helps nor hinders it.
        said: everything that lies there about the request, heard or not, without it.
    """
    name, statement = approval.approval_id, approval.statement
    for unfit in heard.unfit:
        if unfit.approval_id == name:
            return unfit.reason
    before = Heard(tuple(one for one in heard.verified if one.approval.approval_id != name))
    verdict = judge(request, before, policy, now)
    if verdict.state in ("refused", "expired"):
        return f"it is closed already: {verdict.reason}"
    withdrawn = {one.by.principal for one in before.verified if one.approval.statement.verdict == "withdraw"}
    if statement.verdict == "reject":
        return None
    if statement.verdict == "withdraw":
        if statement.approver in withdrawn:
            return f"{statement.approver} took it back already"
        return None if statement.approver in _granting(said) else f"{statement.approver} has approved nothing of it"
    if (lacks := lacking(request)) is not None:
        return lacks
    gone = sorted({statement.approver, statement.on_behalf_of or statement.approver} & withdrawn)
    return f"{' and '.join(gone)} took a yes to it back, and that is for good" if gone else None


def _granting(said: Iterable[Approval]) -> set[str]:
    """Everybody in whose name somebody says yes to it, believed or not: a no is never too many."""
    yes = [one.statement for one in said if one.statement.verdict not in (*NO, "delegate")]
    return {name for statement in yes for name in (statement.approver, statement.on_behalf_of) if name is not None}
