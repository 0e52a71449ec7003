"""What the optional fields of a decision make of its plan, so that approvers sign their effect (DEC-1a).

A field that could have no effect on a plan refuses it: nobody is to approve a wish that nothing fulfils.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hyops.engine.safety import CUTOVERS, VERIFIES_TRAFFIC
from hyops.errors import ConfigError, UnsafePlanError
from hyops.model.decision import CutoverPolicy, Decision
from hyops.model.plan import Blueprint, Step
from hyops.model.routes import Routes
from hyops.model.vocabulary import CutoverMode

WORKLOAD = "workload"
"""The blueprint input that takes a workload profile: its sizes, and `profile`, its name."""
_TRAFFIC = CUTOVERS | VERIFIES_TRAFFIC


def plan_inputs(blueprint: Blueprint, given: Mapping[str, Any], decision: Decision, routes: Routes) -> dict[str, Any]:
    """The route's inputs, and the decision's workload profile where the blueprint sizes its target by it.

    Raises:
        ConfigError: no such profile, or the route says the size as well.
        UnsafePlanError: the blueprint sizes nothing, so that the profile would have no effect.
    """
    ref = decision.workload_profile_ref
    if ref is None:
        return dict(given)
    sizes = _profile(routes.workload_profiles, "workload_profile", ref)
    if WORKLOAD not in blueprint.inputs:
        raise UnsafePlanError(
            f"workload_profile_ref {ref}: {blueprint.blueprint_ref} has no input {WORKLOAD!r}, so it sizes nothing",
            hint="route to a blueprint that sizes its target, or take workload_profile_ref out of the policy",
        )
    if WORKLOAD in given:
        raise ConfigError(f"inputs.{WORKLOAD}: the decision's workload_profile_ref {ref} says it already")
    return {**given, WORKLOAD: {**sizes, "profile": ref}}


def plan_secrets(decision: Decision, routes: Routes) -> dict[str, str] | None:
    """What the secrets phase syncs: the profile's keys, and those that whoever asked named; ConfigError: no such one.

    A key that stands in both has its value from where the person said.
    """
    ref, asked = decision.secret_sync_profile, decision.sync_env or {}
    of_profile = {} if ref is None else _profile(routes.secret_sync_profiles, "secret_sync_profile", ref)
    merged = {key: str(origin) for key, origin in {**of_profile, **asked}.items()}
    return merged or None


def plan_fields(decision: Decision) -> dict[str, Any]:
    """What stands in the plan of the decision's wishes, for approvers and for the checks on the runner."""
    fields = {
        "workload_profile_ref": decision.workload_profile_ref,
        "secret_sync_profile": decision.secret_sync_profile,
        "secondary_backup_copy_required": decision.secondary_backup_copy_required,
        "cutover": decision.cutover_policy.body() if decision.cutover_policy else None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def with_cutover(steps: Sequence[Step], policy: CutoverPolicy | None) -> list[Step]:
    """The steps with traffic moved as the policy says; with mode `none` without those that would move it.

    Raises:
        UnsafePlanError: there is nothing to move, or `order` is not the order of all that is moved.
    """
    if policy is None:
        return list(steps)
    if not any(step.module_ref in CUTOVERS for step in steps):
        raise UnsafePlanError("cutover_policy: this blueprint moves no traffic, so the policy would have no effect")
    if policy.mode is CutoverMode.NONE:
        if policy.ttl_s is not None or policy.order is not None:
            raise UnsafePlanError("cutover_policy: mode none moves nothing, so ttl_s and order would have no effect")
        return _without_traffic(steps)
    timed = [_with_ttl(step, policy.ttl_s) for step in steps]
    return timed if policy.order is None else _in_order(timed, policy.order)


def _profile(known: Mapping[str, Mapping[str, Any]], what: str, ref: str) -> Mapping[str, Any]:
    if ref not in known:
        near = difflib.get_close_matches(ref, known, n=1)
        raise ConfigError(
            f"{what} {ref!r} is none of the routes' {what}s" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"add it to {what}s in the routes, or name another one in the service's policy",
        )
    return known[ref]


def _without_traffic(steps: Sequence[Step]) -> list[Step]:
    """What required a step that goes requires what that one required."""
    instead: dict[str, list[str]] = {}
    kept = []
    for step in steps:
        requires = list(dict.fromkeys(need for one in step.requires for need in instead.get(one, [one])))
        if step.module_ref in _TRAFFIC:
            instead[step.id] = requires
        else:
            kept.append(step.model_copy(update={"requires": requires}))
    return kept


def _with_ttl(step: Step, ttl_s: int | None) -> Step:
    endpoint = step.inputs.get("endpoint")
    if ttl_s is None or step.module_ref not in _TRAFFIC or not isinstance(endpoint, Mapping):
        return step
    return step.model_copy(update={"inputs": {**step.inputs, "endpoint": {**endpoint, "ttl_s": ttl_s}}})


def _in_order(steps: Sequence[Step], order: Sequence[str]) -> list[Step]:
    """The traffic steps one endpoint after the other: each first step requires the last ones of the endpoint before."""
    places = [number for number, step in enumerate(steps) if step.module_ref in _TRAFFIC]
    moved = [steps[number] for number in places]
    names = {_endpoint(step) for step in moved if step.module_ref in CUTOVERS}
    if names != set(order) or len(order) != len(set(order)):
        raise UnsafePlanError(
            f"cutover_policy.order is {', '.join(order)}, and this plan moves {', '.join(sorted(names))}",
            hint="name each endpoint that is moved once, the first to move first",
        )
    chained: list[Step] = []
    before: list[str] = []
    for name in order:
        group = [step for step in moved if _endpoint(step) == name]
        own = {step.id for step in group}
        chained += [
            step if own & set(step.requires) else step.model_copy(update={"requires": _joined(step.requires, before)})
            for step in group
        ]
        before = [step.id for step in group]
    ordered = list(steps)
    for number, step in zip(places, chained, strict=True):
        ordered[number] = step
    return ordered


def _endpoint(step: Step) -> str:
    endpoint = step.inputs.get("endpoint")
    return str(endpoint.get("name")) if isinstance(endpoint, Mapping) else ""


def _joined(first: Iterable[str], more: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*first, *more]))
