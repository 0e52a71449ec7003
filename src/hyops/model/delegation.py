"""Acting for somebody who is away: one rule for the approval stage, the runner and whoever verifies evidence (APR-1).

Who is away signs a delegation: to whom, from when until when, for which services and decision types. Who acts signs a
grant with their own key that names it. It is not passed on, carries no break-glass, and makes nobody count twice
(`quorum`).
"""

from __future__ import annotations

from datetime import datetime

from hyops.model.approval import ApprovalPolicy, ApprovalStatement
from hyops.model.ids import stamp
from hyops.model.vocabulary import DecisionType


def misfit(
    grant: ApprovalStatement,
    given: ApprovalStatement,
    *,
    service: str | None,
    decision_type: DecisionType,
    at: datetime,
) -> str | None:
    """Why a grant is not covered by the delegation that it names, at this time; None when it is."""
    if given.verdict != "delegate" or given.starts_at is None:
        return "what it names is no delegation"
    if given.approver != grant.on_behalf_of:
        return f"its delegation was given by {given.approver}, not by {grant.on_behalf_of}"
    if given.delegate != grant.approver:
        return f"its delegation is to {given.delegate}, not to {grant.approver}"
    if service not in (given.services or ()) or decision_type not in given.decision_types:
        return f"its delegation is not for {decision_type} of {service}"
    if grant.signed_at < given.starts_at:
        return f"it was signed before its delegation began, at {stamp(given.starts_at)}"
    return f"its delegation ended at {stamp(given.expires_at)}" if at >= given.expires_at else None


def not_allowed(given: ApprovalStatement, policy: ApprovalPolicy) -> str | None:
    """Why the policy takes no such delegation; None when it does."""
    if not policy.allow_delegation:
        return "the policy allows no delegations"
    lasts_s = (given.expires_at - (given.starts_at or given.signed_at)).total_seconds()
    if lasts_s <= policy.delegation_max_s:
        return None
    most = policy.delegation_max_s / 86400
    return f"the delegation lasts {lasts_s / 86400:.1f} days, and the policy allows {most:.1f}"
