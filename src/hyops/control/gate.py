"""What CI asks about a recovery: do these records belong together, and which runner is it (RUN-12, RUN-2).

A gate beside the loop, with trust of its own: it starts nothing, and what it lets pass is judged again by the approval
stage and by the runner.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hyops.control.dispatch import choose
from hyops.control.hearing import Unfit
from hyops.control.selection import placed
from hyops.engine import safety
from hyops.errors import HostKeyError, NotApprovedError, PrerequisiteError, RecordError, UnsafePlanError
from hyops.model import ids
from hyops.model.approval import Approval
from hyops.model.base import Record
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import verify_record
from hyops.model.plan import Plan, planned_ref
from hyops.model.routes import Routes
from hyops.model.runners import RunnerMap
from hyops.model.vocabulary import DecisionType, Level, Occasion, RequestStatus
from hyops.ports.signer import Verifier
from hyops.runner.admission import failed_site

FUTURE_MAX_S = 300.0  # as the stages allow it
OPEN = (RequestStatus.AWAITING_APPROVAL, RequestStatus.QUEUED)


@dataclass(frozen=True)
class Case:
    """A request with what it was made of, and the approvals that speak of it. `unfit`: those nobody can read."""

    decision: Decision
    request: DispatchRequest
    plan: Plan
    approvals: tuple[Approval, ...] = ()
    unfit: tuple[Unfit, ...] = ()


@dataclass(frozen=True)
class Selected:
    """The runner that the request names, where it is, and whether somebody saw it ready (None: nobody asked)."""

    runner_ref: str
    site: str
    ready: bool | None = None


def validate(case: Case, verifier: Verifier, modules: Collection[str], now: datetime) -> list[str]:
    """Return remarks when the records are genuine, belong together, are open now, and the plan could be safe.

    Raises:
        UnsafePlanError: they do not fit each other, or the plan cannot be safe. RecordError: not signed by who may.
        NotApprovedError: denied, expired, or from the future.
    """
    _fits(case)
    _signed(case.request, "dispatch", verifier)
    remarks = []
    if case.request.source_decision_signed:
        _signed(case.decision, "decision", verifier)
    else:
        remarks.append("the decision is unsigned: written by hand, and nothing but the approvals vouches for it")
    _open(case, now)
    safety.check(case.plan, modules)
    if case.request.warnings:
        remarks.append(f"{len(case.request.warnings)} warnings have to be acknowledged by the approvers")
    return remarks


def select(
    case: Case,
    routes: Routes,
    runners: RunnerMap,
    *,
    failed_sites: Collection[str] = (),
    seen: Mapping[str, Mapping[str, Any]] | None = None,
) -> Selected:
    """The one runner that mapping, request and plan agree on, when its site may run this.

    `failed_sites`: sites known to be lost, besides the plan's source. `seen`: what `hyops runner status` said, by
    runner; None when nobody asked.

    Raises:
        UnsafePlanError: they do not agree. PrerequisiteError: unknown, in or behind the failed site, not ready.
    """
    request, ref = case.request, case.plan.runner_ref
    route = choose(case.decision, routes)
    if route is None:
        raise UnsafePlanError(f"the mapping has no route for {case.decision.decision_type}")
    mapped = route.runner_ref or case.decision.runner_ref
    if not mapped == request.runner_ref == ref:
        raise UnsafePlanError(
            f"not one runner: the mapping says {mapped}, the request {request.runner_ref}, the plan {ref}"
        )
    place = placed(ref, request.decision_type, runners, {*failed_sites, *_lost(case, runners, failed_sites)})
    return Selected(ref, place.site, None if seen is None else _standing(ref, place.site, seen))


def may_bootstrap(found: Selected, named: str, seen: Mapping[str, Mapping[str, Any]]) -> str:
    """Why the selected runner may be made: it was asked and is not there, and a person named it.

    A standing runner is assumed, so nothing follows from its absence alone (RUN-2).

    Raises:
        UnsafePlanError: another one was named. PrerequisiteError: it stands, was not asked, or shows another host key.
    """
    if named != found.runner_ref:
        raise UnsafePlanError(
            f"runner {named} was named, and the request runs on {found.runner_ref}",
            hint="name that one in full, if it is the one to be made",
        )
    told = seen.get(named)
    if told is None:
        raise PrerequisiteError(
            f"runner {named} was not asked whether it stands",
            hint="add its login to `runners` of the executor's configuration, or make it by hand (runner bootstrap)",
        )
    if told.get("ok") is not False:
        raise PrerequisiteError(f"runner {named} stands: nothing is to be made", hint="run the recovery without it")
    if told.get("error") == HostKeyError.__name__:
        raise PrerequisiteError(
            f"runner {named}: {told.get('message')}", hint="it is not missing but another: verify its key by hand"
        )
    return f"{told.get('error')}: {told.get('message')}"


def _lost(case: Case, runners: RunnerMap, failed_sites: Collection[str]) -> set[str]:
    """The site that the plan moves away from, when it is moved away from because it is lost."""
    if case.request.decision_type is not DecisionType.FAILOVER or case.request.occasion is not Occasion.UNPLANNED:
        return set()
    site = failed_site(case.plan, runners.host_sites)
    if site is None and not failed_sites:
        raise PrerequisiteError(
            "nobody says which site failed, so no runner can be told to be outside of it",
            hint="add the source's host to host_sites in runners.yml, or pass --failed-site",
        )
    return set() if site is None else {site}


def _standing(ref: str, site: str, seen: Mapping[str, Mapping[str, Any]]) -> bool:
    """True when it was seen ready where it should be; a runner is never made here."""
    told = seen.get(ref)
    if told is None or told.get("ok") is not True:
        why = "it was not asked" if told is None else f"{told.get('error')}: {told.get('message')}"
        raise PrerequisiteError(
            f"runner {ref} is not standing: {why}",
            hint="look at `hyops runner status` on the control host; bring it up, which takes a person, and run again",
        )
    if told.get("site") != site:
        raise PrerequisiteError(
            f"runner {ref} says that it is in {told.get('site')}, and runners.yml says {site}",
            hint="find out which is true before anything runs there",
        )
    return True


def _fits(case: Case) -> None:
    decision, request, plan = case.decision, case.request, case.plan
    pairs: dict[str, tuple[Any, ...]] = {
        "decision_id": (decision.decision_id, request.source_decision_id),
        "decision digest": (decision.digest(), request.source_decision_digest),
        "decision_type": (decision.decision_type, request.decision_type, plan.decision_type),
        "plan digest": (plan.digest(), request.plan_digest),
        "runner_ref": (plan.runner_ref, request.runner_ref),
        "execution_plane": (plan.execution_plane, request.execution_plane),
        "env": (plan.env, request.target_env),
        "target_ref": (plan.blueprint_ref, planned_ref(request.target_kind, request.target_ref)),
        "service": (plan.service, request.service),
        "occasion": (decision.occasion, request.occasion),
        "level": (decision.level, request.level),
    }
    for name in ("service", "generation"):  # a hand-written decision leaves them open (DSP-3)
        given = getattr(decision, name)
        if given is not None:
            pairs[f"{name} of the decision"] = (given, getattr(request, name))
    faults = [f"{name}: {' / '.join(map(str, told))}" for name, told in pairs.items() if len(set(told)) > 1]
    if decision.dry_run or decision.level is Level.MONITOR:
        faults.append("the decision is one that nothing follows from (dry run, or level monitor)")
    if faults:
        raise UnsafePlanError("these records do not belong together: " + "; ".join(faults))


def _signed(record: Record, role: str, verifier: Verifier) -> None:
    keyid = verify_record(record, verifier)
    if role not in verifier.roles(keyid):
        raise RecordError(f"{record.kind} {record.record_id}: its key may not sign as {role}")


def _open(case: Case, now: datetime) -> None:
    request, decision = case.request, case.decision
    if request.status not in OPEN:
        raise NotApprovedError(f"the request is {request.status}: {request.reason or 'no reason given'}")
    for what, at in (("request", request.timestamp_utc), ("decision", decision.timestamp_utc)):
        if at is not None and at > now + timedelta(seconds=FUTURE_MAX_S):
            raise NotApprovedError(f"the {what} is from the future: {ids.stamp(at)}")
    for what, end in (("request", request.expires_at), ("decision", decision.expires_at)):
        if end is not None and end <= now:
            raise NotApprovedError(f"the {what} expired at {ids.stamp(end)}")
