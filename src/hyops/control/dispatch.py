"""A decision becomes a dispatch request, or is ignored with a reason, once (DSP-1 to DSP-4, VOC-4).

The dispatcher runs nothing and waives nothing: whatever is unsigned, merely recommended or not explicitly freed by
route and environment waits for people.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from hyops.errors import HyopsError, UnsafePlanError
from hyops.model import ids
from hyops.model.asking import THE_LOOP
from hyops.model.base import cut
from hyops.model.decision import Decision
from hyops.model.dispatch import ApprovalDemand, DispatchRequest, Route
from hyops.model.plan import Plan
from hyops.model.routes import Routes, conditions_of
from hyops.model.vocabulary import CheckStatus, DrMode, Level, RequestStatus, TargetCloud

PlanFor = Callable[[Route, Decision], Plan]
WORD_MAX = 20  # of the type in a request's id: `<dispatch_id>.approved`, the marker's name, is a Name too (APR-2)
FROM_THE_FUTURE = "from-the-future"
FUTURE_MAX_S = 300.0  # stages of one host share a clock; a decision from further ahead is a mistake or a forgery


@dataclass(frozen=True)
class Ignored:
    """No request: why."""

    reason: str


@dataclass(frozen=True)
class Routed:
    """The request to record, and the plan whose digest it names (to be stored first, so that approvers see it)."""

    request: DispatchRequest
    plan: Plan | None


def route(
    decision: Decision,
    *,
    source_file: str,
    signed: bool,
    routes: Routes,
    plan_for: PlanFor,
    now: datetime,
    max_age_s: float,
    standby: bool = False,
) -> Routed | Ignored:
    """Route one decision. `signed`: its signature was verified and its key may speak for the decision stage.

    With `standby` one that is made for a takeover, and no other; it names its runner, whatever the route says.
    """
    if (decision.condition is not None) is not standby:
        return Ignored(f"condition:{decision.condition or 'none'}")
    if reason := _ignored(decision, routes, now, max_age_s):
        return Ignored(reason)
    chosen = choose(decision, routes)
    if chosen is None:
        return Ignored(f"no_route:{decision.source_decision_type or decision.decision_type}")
    if standby:
        chosen = chosen.model_copy(update={"runner_ref": decision.runner_ref})
    concerns = [c for c in decision.checks if c.status is not CheckStatus.OK]
    denied = next(
        (f"check {c.name} is {c.reason or c.status}" for c in concerns if _named(c.name, chosen.deny_on)), None
    )
    if decision.dr_mode is DrMode.DENY:
        denied = f"the decision denies: {decision.rationale}"
    if standby and chosen.target_kind == "module":
        denied = (
            f"a takeover moves a service away from a lost host, and the module {chosen.target_ref} alone moves none"
        )
    plan: Plan | None = None
    if denied is None and decision.service is not None:
        try:
            allowed(chosen, routes)
            plan = plan_for(chosen, decision)
        except HyopsError as exc:
            denied = f"no plan: {exc.message}"
    clouds = _clouds(decision, chosen)
    warnings = [cut(f"{c.name}: {c.reason or c.status}") for c in concerns if _concerns_target(c.name, clouds)]
    return Routed(_request(decision, source_file, signed, routes, chosen, plan, warnings, denied, now, max_age_s), plan)


def choose(decision: Decision, routes: Routes) -> Route | None:
    """The most specific route whose conditions all hold; ties were refused when the routes were read."""
    facts = {
        "dr_mode": str(decision.dr_mode) if decision.dr_mode else None,
        "target_cloud": str(decision.target_cloud),
        "service": decision.service,
        "direction": str(decision.scaling.direction) if decision.scaling else None,
    }
    fitting = [
        candidate
        for candidate in routes.of_type(decision.decision_type)
        if all(facts.get(key) == value for key, value in conditions_of(candidate).items())
    ]
    return max(fitting, key=lambda r: len(conditions_of(r)), default=None)


def allowed(chosen: Route, routes: Routes) -> None:
    """Return when the route may go the way that it says.

    Raises:
        UnsafePlanError: a way over a public address for a drill, where no drills are.
    """
    if chosen.access is not None and chosen.access.occasion == "drill" and not routes.drills:
        raise UnsafePlanError(
            f"access.occasion is drill, and {routes.env} is not for drills",
            hint="rehearse in an environment whose routes say `drills: true`, or go by a private plane",
        )


def _ignored(decision: Decision, routes: Routes, now: datetime, max_age_s: float) -> str | None:
    if decision.dry_run:
        return "dry-run"
    if decision.level is Level.MONITOR:
        return "level:monitor"
    if decision.env is not None and decision.env != routes.env:
        return f"foreign-env:{decision.env}"
    until = over_at(decision, max_age_s)
    if until is not None and until <= now:  # without an end: of an older loop, or by hand; LOOP-2 holds for them too
        if decision.expires_at is None and decision.timestamp_utc is not None:
            return f"too-old:{ids.stamp(decision.timestamp_utc)}"
        return f"expired:{ids.stamp(until)}"
    return ahead(decision, now)


def ahead(decision: Decision, now: datetime) -> str | None:
    """Why it is not routed where it is dated later than `now`, by more than clocks may differ; None: it is not."""
    made = decision.timestamp_utc
    if made is None or (made - now).total_seconds() <= FUTURE_MAX_S:
        return None
    return f"{FROM_THE_FUTURE}:{ids.stamp(made)}"


def over_at(decision: Decision, max_age_s: float) -> datetime | None:
    """From when on it is routed no more; None: it does not say when it was made either, or no date is so late."""
    if decision.expires_at is not None or decision.timestamp_utc is None:
        return decision.expires_at
    left_s = (datetime.max.replace(tzinfo=UTC) - decision.timestamp_utc).total_seconds()
    return decision.timestamp_utc + timedelta(seconds=max_age_s) if max_age_s < left_s else None


def _request(
    decision: Decision,
    source_file: str,
    signed: bool,
    routes: Routes,
    chosen: Route,
    plan: Plan | None,
    warnings: list[str],
    denied: str | None,
    now: datetime,
    max_age_s: float,
) -> DispatchRequest:
    of_route = routes.dispatcher_require_approval if chosen.requires_approval is None else chosen.requires_approval
    named = [n for n in (decision.approvals_required, chosen.approvals_required) if n is not None]
    needs_approval = bool(
        decision.requires_approval or of_route or named or not signed or decision.level is not Level.TRIGGER
    )
    waiting = RequestStatus.AWAITING_APPROVAL if needs_approval else RequestStatus.QUEUED
    expires_at = now + timedelta(seconds=max_age_s)
    return DispatchRequest(
        dispatch_id=dispatch_id_of(decision, now),
        timestamp_utc=now,
        expires_at=min(expires_at, decision.expires_at) if decision.expires_at else expires_at,
        status=RequestStatus.DENIED if denied else waiting,
        source_decision_id=decision.decision_id,
        source_decision_file=source_file,
        source_decision_digest=decision.digest(),
        source_decision_signed=signed,
        decision_type=decision.decision_type,
        level=decision.level,
        occasion=decision.occasion,
        service=decision.service,
        generation=decision.generation,
        execution_plane=chosen.execution_plane,
        runner_ref=chosen.runner_ref or decision.runner_ref,
        target_kind=chosen.target_kind,
        target_ref=chosen.target_ref,
        target_env=chosen.target_env,
        plan_digest=plan.digest() if plan else None,
        requires_approval=needs_approval,
        approvals=ApprovalDemand(required=max([routes.approvals_required, *named]) if needs_approval else 0),
        rationale=decision.rationale,
        checks=decision.checks,
        warnings=warnings,
        reason=None if denied is None else cut(denied),
        requester=decision.requested_by or THE_LOOP,
        requester_key=decision.requester_key if signed else None,
        condition=decision.condition,
    )


def _clouds(decision: Decision, chosen: Route) -> set[str]:
    named = {str(decision.target_cloud), conditions_of(chosen).get("target_cloud", "none")}
    words = set(re.split(r"[^a-z0-9]+", f"{chosen.target_ref} {chosen.runner_ref or ''} {chosen.execution_plane}"))
    return (named | (words & {str(cloud) for cloud in TargetCloud})) - {"none"}


def _named(check: str, names: Collection[str]) -> bool:
    """Whether a route names a check; the loop's own checks of a target have `target.` before the signal's name."""
    return check in names or check.removeprefix("target.") in names


def _concerns_target(name: str, clouds: set[str]) -> bool:
    """Whether a check's name begins with a cloud of the route, or says `target`: people write them in many ways."""
    return re.split(r"[_.-]", name.lower(), maxsplit=1)[0] in {"target", *clouds}


def dispatch_id_of(decision: Decision, at: datetime) -> str:
    """The id of the request of one decision that is made at `at`."""
    word = decision.source_decision_type or decision.decision_type
    return ids.derived("dispatch", at, decision.digest(), word[:WORD_MAX])  # foreign words are up to 64 long


def held_up(decision: Decision, why: str) -> str:
    """What a refusal says of a file that holds up a decision, so that the decision's own story is told with it."""
    return f"{decision.decision_id}: {why}"


def slot_of(decision: Decision, prefix: Literal["request", "ignored", "bad"] = "request") -> str:
    """The slot that makes one request (or one refusal) of one decision, with any number of dispatchers."""
    return f"{prefix}-{decision.digest().removeprefix('sha256:')}"
