"""What `hyops runner blueprint` would dispatch, worked out by the loop's own rules before anything is recorded.

Everything that can be refused without asking anybody is refused here: the move itself, its route, its plan, its runner.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hyops.control.decision import asked_inputs, operator_decision
from hyops.control.dispatch import Ignored, PlanFor, route
from hyops.control.selection import selected
from hyops.errors import ConfigError, PrerequisiteError, UnsafePlanError
from hyops.model import observed
from hyops.model.asking import AskedProof
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.observed import DecisionInputs, Hold, Mode
from hyops.model.plan import Plan, planned_ref
from hyops.model.policy import ServicePolicy
from hyops.model.routes import Routes
from hyops.model.runners import RunnerMap, RunnerPlace
from hyops.model.vocabulary import DecisionType, Occasion, RequestStatus, SecretOrigin


@dataclass(frozen=True)
class Asked:
    """What a person asked for. `runner_ref` comes from an option or a state record; None leaves it to the mapping."""

    blueprint_ref: str
    service: str
    kind: DecisionType
    occasion: Occasion
    rationale: str
    by: str
    runner_ref: str | None = None
    failed_sites: tuple[str, ...] = ()
    sync_env: Mapping[str, SecretOrigin] = field(default_factory=dict)
    despite_hold: str | None = None
    proof: AskedProof | None = None
    """That who asks signed `recorded`; without it `by` is a typed name."""

    @property
    def recorded(self) -> observed.Asked:
        """What the inputs of the decision say of it."""
        return observed.Asked(
            decision_type=self.kind,
            occasion=self.occasion,
            rationale=self.rationale,
            requested_by=self.by,
            sync_env=dict(self.sync_env) or None,
            despite_hold=self.despite_hold,
            proof=self.proof,
        )


@dataclass(frozen=True)
class Rules:
    """What the environment says. `runners_source` names the file of `runners`."""

    policy: ServicePolicy
    mode: Callable[[], Mode]
    routes: Routes
    plan_for: PlanFor
    max_age_s: float
    runners: RunnerMap
    runners_source: str
    executes: bool
    hold: Callable[[], Hold | None] = lambda: None

    def profile_keys(self) -> list[str]:
        """The keys that the service's secret sync profile takes from the vault cache; an unknown profile has none, and
        is refused with its plan."""
        known = self.routes.secret_sync_profiles.get(self.policy.secret_sync_profile or "", {})
        return sorted(key for key, origin in known.items() if origin is SecretOrigin.VAULT)


@dataclass(frozen=True)
class Wanted:
    """The decision to record with its inputs, the request and plan that will follow, and the runner it goes to."""

    decision: Decision
    inputs: DecisionInputs
    request: DispatchRequest
    plan: Plan
    runner_ref: str
    place: RunnerPlace


def wanted(asked: Asked, rules: Rules, now: datetime) -> Wanted:
    """Decide, route, plan and select, as the stages will.

    Raises:
        UnsafePlanError: the loop would run something else than was asked for. PrerequisiteError, ConfigError,
        StaleGenerationError, UsageError: it would run nothing.
    """
    if asked.service != rules.policy.service:
        raise ConfigError(
            f"the decision service is about {rules.policy.service}, not {asked.service}",
            hint="name that service's configuration with --decision-config",
        )
    if not rules.executes:
        raise PrerequisiteError("the executor is in dry-run mode: nothing would run", hint="set its mode to dispatch")
    mode = rules.mode()
    inputs = asked_inputs(rules.policy, mode, asked.recorded, now, rules.hold())
    decision = operator_decision(inputs)
    found = route(
        decision,
        source_file=f"{decision.decision_id}.json",
        signed=True,
        routes=rules.routes,
        plan_for=rules.plan_for,
        now=now,
        max_age_s=rules.max_age_s,
    )
    if isinstance(found, Ignored):
        raise ConfigError(f"the dispatcher would ignore it: {found.reason}", hint="mend dispatcher_routes")
    request = found.request
    if asked.blueprint_ref not in (request.target_ref, planned_ref(request.target_kind, request.target_ref)):
        raise UnsafePlanError(
            f"{asked.kind} of {asked.service} is routed to {request.target_ref}, not {asked.blueprint_ref}",
            hint="ask for that one, or change dispatcher_routes, which is what people agreed on",
        )
    if found.plan is None or request.status is RequestStatus.DENIED:
        raise UnsafePlanError(f"the dispatcher would deny it: {request.reason}")
    lost = {*asked.failed_sites, *_lost(asked, rules.policy, mode)}
    ref, place = selected(
        rules.runners, decision.target_cloud, asked.kind, named=asked.runner_ref, lost=lost, source=rules.runners_source
    )
    if found.plan.runner_ref != ref:
        raise UnsafePlanError(
            f"the route of {asked.kind} goes to runner {found.plan.runner_ref}, and {rules.runners_source} says {ref}",
            hint="make dispatcher_routes and the mapping agree",
        )
    return Wanted(decision, inputs, request, found.plan, ref, place)


def _lost(asked: Asked, policy: ServicePolicy, mode: Mode) -> Collection[str]:
    """The site that an unplanned failover moves away from."""
    if asked.kind is not DecisionType.FAILOVER or asked.occasion is not Occasion.UNPLANNED:
        return ()
    return [member.site for member in policy.members if member.host == mode.primary]
