"""What becomes of every decision in the table by the dispatcher's own rules, and where its route leads (DSP-1, DSP-2).

Every kind of decision is looked at, not every type: a failback that is recommended and one that is triggered take one
route and are asked about differently. Within a kind only what is not well makes a difference to the dispatcher.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hyops.control.checks import is_wal
from hyops.control.dispatch import Ignored, PlanFor, Routed, choose, route
from hyops.control.proof.carried import Move, carried
from hyops.control.proof.places import OPTION, alike
from hyops.control.proof.rules import Finding, Where
from hyops.control.proof.situation import NOW
from hyops.control.proof.table import Row, acts
from hyops.errors import UnsafePlanError
from hyops.model.decision import Decision, Scaling
from hyops.model.dispatch import Route
from hyops.model.plan import Plan
from hyops.model.policy import ServicePolicy
from hyops.model.routes import Routes, kind_of
from hyops.model.vocabulary import CheckStatus, DecisionType, Direction, ExecutionPlane, Level, Occasion, RequestStatus

MAX_AGE_S = 3600.0
OF_ALL = "dispatcher_require_approval"  # the one key that is not a route's


@dataclass(frozen=True)
class Kind:
    """Decisions that differ only in their checks, one of each set that is not well. `mode`: where the service is."""

    mode: str
    made: list[Decision]

    @property
    def first(self) -> Decision:
        """One of them: all but its checks is that of all."""
        return self.made[0]

    @property
    def told(self) -> dict[str, str]:
        """What was decided where, in words."""
        one = self.first
        return {"mode": self.mode, "decision": f"{self.name} ({one.level}, {one.occasion})"}

    @property
    def name(self) -> str:
        """Its type, and of a burst the way."""
        one = self.first
        return f"{one.decision_type} {one.scaling.direction}" if one.scaling else str(one.decision_type)


def routed(
    policy: ServicePolicy, rows: list[Row], routes: Routes, plan_for: PlanFor | None = None
) -> Iterator[Finding]:
    """Every finding about the routes. Without `plan_for` nothing is planned."""
    for kind in _kinds(policy, rows):
        chosen = choose(kind.first, routes)
        where = _where(routes, kind.first, chosen)
        if chosen is None or kind.first.env != routes.env:
            yield _missing(policy, routes, kind, chosen, where)
            continue
        planned = _dispatched(kind.first.model_copy(update={"checks": []}), routes, plan_for or _unplanned)
        plan = planned.plan if isinstance(planned, Routed) and plan_for is not None else None
        for rule, key, text in (
            *_denied(policy, kind, chosen, routes, planned),
            *_asked(kind, routes, planned),
            *_elsewhere(policy, kind, chosen),
            *carried(policy, _move(policy, kind), chosen, plan),
        ):
            place = (key,) if key == OF_ALL else (*where, *filter(None, key.split(".")))
            yield Finding(rule, place, text, kind.told, of_routes=True)


def _kinds(policy: ServicePolicy, rows: list[Row]) -> list[Kind]:
    """What is decided anywhere in the table. Of a service that is only watched, as if it were recommended: people may
    ask for the same, and the level is raised one day."""
    found: dict[tuple[str, ...], dict[frozenset[tuple[str, str]], Decision]] = {}
    for row in rows:
        if row.emission is None or not acts(row.emission):
            continue
        made = row.emission.decision
        if made.level is Level.MONITOR:
            made = made.model_copy(update={"level": Level.RECOMMEND})
        unwell = frozenset((one.name, str(one.status)) for one in made.checks if one.status is not CheckStatus.OK)
        for step in _steps(policy, made):
            way = (step.scaling.direction, str(step.scaling.size_after)) if step.scaling else ()
            key = (step.decision_type, step.level, step.occasion, row.situation.mode, *way)
            found.setdefault(key, {}).setdefault(unwell, step)
    return [Kind(key[3], list(made.values())) for key, made in sorted(found.items())]


def _steps(policy: ServicePolicy, made: Decision) -> Iterator[Decision]:
    """Of a burst every step that may follow, out and in again, each with its profile; else the decision itself."""
    if made.scaling is None or policy.burst is None:
        yield made
        return
    for size, profile in enumerate(policy.burst.profiles):
        for way, before in ((Direction.OUT, size - 1), (Direction.IN, size + 1)):
            if 0 <= before < len(policy.burst.profiles):
                scaling = Scaling(direction=way, size_before=before, size_after=size)
                yield made.model_copy(update={"scaling": scaling, "workload_profile_ref": profile})


def _where(routes: Routes, made: Decision, chosen: Route | None) -> Where:
    for word, entry in routes.dispatcher_routes.items():
        if kind_of(word) is not made.decision_type:
            continue
        if isinstance(entry, list) and chosen is not None:
            return ("dispatcher_routes", word, next(n for n, one in enumerate(entry) if one is chosen))
        return ("dispatcher_routes", word)
    return ("dispatcher_routes",)


def _missing(policy: ServicePolicy, routes: Routes, kind: Kind, chosen: Route | None, where: Where) -> Finding:
    if chosen is None:
        text = f"no route for {kind.name}"
        return Finding("route/missing", where, text, kind.told, of_routes=True)
    text = f"{policy.service} is in {kind.first.env}, the routes in {routes.env}"
    return Finding("route/missing", ("env",), text, kind.told, of_routes=True)


def _dispatched(made: Decision, routes: Routes, plan_for: PlanFor) -> Routed | Ignored:
    return route(made, source_file="table", signed=True, routes=routes, plan_for=plan_for, now=NOW, max_age_s=MAX_AGE_S)


def _unplanned(route: Route, decision: Decision) -> Plan:
    """Stands in for a planner where none is at hand: what can be said of any plan is said of this one too."""
    if route.runner_ref is None:
        raise UnsafePlanError(f"the route to {route.target_ref} names no runner_ref")
    return Plan.model_construct(blueprint_ref=route.target_ref, steps=[])


def _denied(
    policy: ServicePolicy, kind: Kind, chosen: Route, routes: Routes, planned: Routed | Ignored
) -> Iterator[tuple[str, str, str]]:
    """Whether a decision comes to nothing. `deny_on` may deny one whose target is not well known in some situations;
    one whose primary is lost has bad checks of the primary, and of WAL, by its nature."""
    if isinstance(planned, Ignored):
        yield "route/denied", "", f"{kind.name}: decided, and then ignored: {planned.reason}"
        return
    if planned.request.status is RequestStatus.DENIED:
        text = f"{kind.name}: decided, and then denied: {planned.request.reason}"
        yield "route/denied", _culprit(chosen, planned.request.reason or ""), text
        return
    if not chosen.deny_on:
        return
    own = {signal.name for signal in policy.signals if signal.about != "target" or is_wal(signal)}
    told = [_dispatched(made, routes, lambda route, decision: planned.plan or _unplanned(route, decision))
            for made in kind.made]  # fmt: skip
    why = [one.request.reason for one in told if isinstance(one, Routed) and one.request.status is RequestStatus.DENIED]
    natural = kind.first.occasion is Occasion.UNPLANNED
    by_nature = [said for said in why if natural and any(f"check {name} is" in (said or "") for name in own)]
    if by_nature or len(why) == len(kind.made):
        text = f"{kind.name}: decided, and then denied: {(by_nature or why)[0]}"
        yield "route/denied", "deny_on", text


def _culprit(chosen: Route, reason: str) -> str:
    """The key of the route that most likely makes it so."""
    if chosen.runner_ref is None:
        return "runner_ref"
    if chosen.access is not None or chosen.execution_plane is ExecutionPlane.PUBLIC_EPHEMERAL:
        return "execution_plane"
    return "inputs" if " input " in reason or "inputs" in reason else "target_ref"


def _asked(kind: Kind, routes: Routes, planned: Routed | Ignored) -> Iterator[tuple[str, str, str]]:
    """Whether somebody is asked, and whether the route only says that nobody is."""
    made = kind.first
    if made.level is not Level.TRIGGER or isinstance(planned, Ignored):
        return
    chosen = choose(made, routes)
    key = "requires_approval" if chosen and chosen.requires_approval is False else OF_ALL
    if not planned.request.requires_approval:
        text = f"a triggered {made.decision_type} asks for nobody's yes: {key} is off, the policy says no more, "
        yield "approval/none", key, text + "and approvals_required is not set"
        return
    free = _dispatched(made.model_copy(update={"requires_approval": False}), routes, _unplanned)
    if isinstance(free, Routed) and not free.request.requires_approval:
        text = f"{key} is off, and a triggered {made.decision_type} waits for a yes all the same: the policy demands it"
        yield "approval/ineffective", key, text


def _elsewhere(policy: ServicePolicy, kind: Kind, chosen: Route) -> Iterator[tuple[str, str, str]]:
    """Whether it goes into this environment, and to a runner that outlives the loss."""
    if chosen.target_env != policy.env:
        text = f"{policy.service} is in {policy.env}, and its {kind.first.decision_type} goes to {chosen.target_env}"
        yield "route/env", "target_env", text
    runner, move = chosen.runner_ref, _move(policy, kind)
    if runner is None or move is None:
        return
    sites = _stands(policy, runner)
    if not sites:
        text = f"{runner} is no member's runner, and options.{OPTION} does not say where it stands"
        yield "route/runner", "runner_ref", text
    elif kind.first.occasion is Occasion.UNPLANNED and alike(move.primary.site) in sites:
        text = f"{runner} runs the {kind.first.decision_type} to {move.target.host}, and may be lost with "
        yield "route/runner", "runner_ref", text + f"{move.primary.site}, the site of {move.primary.host}"


def _move(policy: ServicePolicy, kind: Kind) -> Move | None:
    """From where to where; None of a burst. The target is chosen as `evaluate` does."""
    if kind.first.decision_type is DecisionType.BURST:
        return None
    primary = policy.preferred if kind.mode in {"home", "unserved"} else kind.mode
    target = next(member for member in policy.members if member.host != primary)
    return Move(kind.first.decision_type, policy.member(primary), target)


def _stands(policy: ServicePolicy, runner: str) -> set[str]:
    """The sites of which a runner may be lost with one: what the policy says, or else those of its members."""
    told = policy.options.get(OPTION)
    if isinstance(told, dict) and runner in told:
        return {alike(str(told[runner]))}
    return {alike(member.site) for member in policy.members if member.runner_ref == runner}
