"""Standby orders: decided in advance, run by nobody but a takeover (INV-9). Pure.

The decision stage says what is to be done on the day when the primary's site and every control host are gone; the
dispatcher makes the plan and the request of it; people approve that request on the day itself. Whatever an order rests
on is in its mark: another generation, primary or policy makes another decision, another route or plan another request.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from hyops.errors import UnsafePlanError
from hyops.model import canonical, ids
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.observed import DecisionInputs, Mode, Standby
from hyops.model.plan import Plan
from hyops.model.policy import ServicePolicy
from hyops.model.takeover import StandbyOrder
from hyops.model.vocabulary import Condition, DecisionType, Level, Occasion, RequestStatus
from hyops.model.words import shown

FUTURE_MAX_S = 300.0  # stages share a clock; more is a clock that leapt
VALID_S = 14 * 86400.0
RENEWED_S = VALID_S / 2  # from here on a fresh one is sealed: control may be gone for a week before any order lapses


def runners_of(policy: ServicePolicy, mode: Mode) -> list[str]:
    """Who is to hold an order: every runner of the service outside the site that the order gives up for lost."""
    lost = policy.member(mode.primary).site
    return sorted({member.runner_ref for member in policy.members if member.site != lost})


def mark_of(policy: ServicePolicy, mode: Mode, runner_ref: str) -> str:
    """What an order for this runner rests on, as one word of at most 128 characters."""
    rests_on = canonical.digest([policy.body(), mode.generation, mode.primary, runner_ref])
    return f"standby-{policy.service[:48]}-g{mode.generation}-{rests_on.removeprefix('sha256:')[:32]}"


def sealable(mode: Mode) -> bool:
    """Whether it is known where the service is: while a run is open, or an end unknown, nothing new is sealed."""
    return not (mode.open_attempt or mode.uncertain or mode.unserved)


def due(known: Iterable[Decision], policy: ServicePolicy, mode: Mode, runner_ref: str, now: datetime) -> bool:
    """Whether a decision is to be made for this runner: there is none that rests on the same and lasts long enough."""
    mark, late = mark_of(policy, mode, runner_ref), now + timedelta(seconds=RENEWED_S)
    good = (d for d in known if d.incident == mark and not _from_the_future(d, now))
    return not any(d.expires_at is not None and d.expires_at > late for d in good)


def standby_inputs(policy: ServicePolicy, mode: Mode, runner_ref: str, at: datetime) -> DecisionInputs:
    """What the decision is computed from: no signal is judged, for nothing has failed yet."""
    until = at + timedelta(seconds=VALID_S)
    standby = Standby(runner_ref=runner_ref, until=until)
    return DecisionInputs(at=at, now_s=0.0, policy=policy, mode=mode, standby=standby)


def standby_decision(inputs: DecisionInputs) -> Decision:
    """An unplanned move away from the present primary, for a takeover alone."""
    policy, mode, standby = inputs.policy, inputs.mode, inputs.standby
    if standby is None:
        raise UnsafePlanError("these inputs are of no standby order")
    target = next(member for member in policy.members if member.host != mode.primary)
    mark = mark_of(policy, mode, standby.runner_ref)
    kind = DecisionType.FAILOVER if mode.primary == policy.preferred else DecisionType.FAILBACK
    return Decision(
        schema="hyops/decision/v1",
        decision_id=ids.derived("decision", inputs.at, f"{policy.env} {mark}", str(kind)),
        timestamp_utc=inputs.at,
        expires_at=standby.until,
        decision_type=kind,
        level=Level.TRIGGER,
        occasion=Occasion.UNPLANNED,
        service=policy.service,
        generation=mode.generation,
        env=policy.env,
        incident=mark,
        target_cloud=target.target_cloud,
        dr_mode=policy.dr_mode,
        execution_plane=policy.execution_plane,
        runner_ref=standby.runner_ref,
        requires_approval=True,
        rationale=f"{mode.primary} and every control host are lost: a takeover on {standby.runner_ref}",
        inputs_digest=canonical.digest(inputs.body()),
        condition=Condition.TAKEOVER,
    )


def _from_the_future(decision: Decision, now: datetime) -> bool:
    """Whether a clock that had leapt ahead made it: it must not stand in the way of a good one."""
    return decision.timestamp_utc is not None and decision.timestamp_utc > now + timedelta(seconds=FUTURE_MAX_S)


def newest_decisions(known: Iterable[Decision], now: datetime) -> list[Decision]:
    """The one for each service and runner that is worth a request: the last one made, while it lasts."""
    found: dict[tuple[str | None, str | None], Decision] = {}
    for decision in sorted(known, key=_made_at):
        if decision.condition is Condition.TAKEOVER and decision.timestamp_utc is not None:
            if _from_the_future(decision, now):
                continue
            found[decision.service, decision.runner_ref] = decision
    return [d for d in found.values() if d.expires_at is not None and d.expires_at > now]


def newest_request(known: Iterable[DispatchRequest], decision: Decision) -> DispatchRequest | None:
    """The last request that was made of a decision."""
    mine = [request for request in known if request.source_decision_digest == decision.digest()]
    return max(mine, key=lambda request: (request.timestamp_utc, request.dispatch_id), default=None)


def order_of(decision: Decision, inputs: DecisionInputs, request: DispatchRequest, plan: Plan) -> StandbyOrder:
    """The order, when its parts hold together.

    Raises:
        UnsafePlanError: they do not, or the dispatcher denied the request.
    """
    wrong = {
        "the request was denied": request.status is not RequestStatus.AWAITING_APPROVAL,
        "the request answers another decision": request.source_decision_digest != decision.digest(),
        "the plan is not the request's": request.plan_digest != plan.digest(),
        "the decision was computed from other inputs": decision.inputs_digest != canonical.digest(inputs.body()),
        "it is not for a takeover": {decision.condition, request.condition} != {Condition.TAKEOVER},
    }
    if faults := [why for why, holds in wrong.items() if holds]:
        raise UnsafePlanError(
            f"order {request.dispatch_id}: {'; '.join(faults)}: {shown(request.reason or 'not sealed')}"
        )
    return StandbyOrder(decision=decision, inputs=inputs, request=request, plan=plan)


def _made_at(decision: Decision) -> tuple[float, str]:
    at = decision.timestamp_utc
    return (at.timestamp() if at else 0.0, decision.decision_id)
