"""The four stages of the control loop, a daemon each (see `compose`)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from hyops import compose_takeover
from hyops.compose import approval_verifier, record_store
from hyops.compose_clock import steady_clock
from hyops.compose_store import made_once, starts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from hyops.model.decision import Decision
    from hyops.model.dispatch import Route
    from hyops.model.module_spec import ModuleSpec
    from hyops.model.plan import Plan, Step
    from hyops.model.routes import Routes
    from hyops.ports.signer import Verifier
    from hyops.ports.starts import Starts
    from hyops.services.config import Homes
    from hyops.services.config_execution import ExecutionConfig
    from hyops.services.config_requests import DispatchConfig
    from hyops.services.execution import ExecutionStage
    from hyops.services.execution_parts import ExecutionStores


async def run_decision(config_file: Path) -> None:
    """`hyops service run decision`."""
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.compose_hold import hold_book
    from hyops.compose_signals import sources_of
    from hyops.services.config import DecisionConfig
    from hyops.services.decision import DecisionStage
    from hyops.services.decision_run import run
    from hyops.services.loop import log
    from hyops.services.takeover_seal import beside

    config, faults = DecisionConfig.read_each(config_file.read_bytes(), source=str(config_file))
    for name, why in faults.items():
        log("service refused", service=name, message=why)
    homes, clock = config.homes, steady_clock(config.homes.decision)
    decisions, inputs = record_store(homes.decision, "records"), record_store(homes.decision, "inputs")
    attempts, outcomes = record_store(homes.execution, "attempts"), record_store(homes.execution, "outcomes")
    signer, verifier = Ed25519Signer.load(Path(config.signing_key)), TrustedVerifier.load(Path(config.trusted_keys))
    stages: list[DecisionStage] = []
    for protected in config.protected:
        stage = DecisionStage(
            protected.policy,
            initial_generation=protected.initial_generation,
            decisions=decisions,
            inputs=inputs,
            attempts=attempts,
            outcomes=outcomes,
            signer=signer,
            verifier=verifier,
            clock=clock,
            holds=hold_book(homes, protected.policy, config.people, clock, signer=signer),
            beside=stages[0] if stages else None,
        )
        stages.append(stage)
    watched = [decisions, attempts, outcomes, record_store(homes.decision, "holds")]
    served = run(stages, sources_of(config, clock), watched, witnesses=config.witnesses)
    await beside(served, compose_takeover.sealed_decisions(config))


async def run_dispatch(config_file: Path) -> None:
    """`hyops service run dispatch`."""
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.services.config_requests import DispatchConfig
    from hyops.services.dispatch import DispatchStage, run
    from hyops.services.takeover_seal import beside

    config = DispatchConfig.read(config_file.read_bytes(), source=str(config_file))
    decisions = record_store(config.homes.decision, "records")
    home = config.homes.dispatch
    stage = DispatchStage(
        decisions=decisions,
        requests=record_store(home, "requests"),
        plans=record_store(home, "plans"),
        refusals=record_store(home, "refusals"),
        routes=config.routes,
        plan_for=planner(config),
        signer=Ed25519Signer.load(Path(config.signing_key)),
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
        clock=steady_clock(home),
        max_age_s=config.max_age_s,
    )
    await beside(run(stage, decisions), compose_takeover.sealed_requests(config, planner(config)))


def planner(config: DispatchConfig) -> Callable[[Route, Decision], Plan]:
    """How a route and a decision become the plan that people approve; unsafe plans are refused here already."""
    from hyops.compose_bundle import digests_of

    return planned_by(config.catalogs, config.routes, digests_of(config), config.services)


def planned_by(
    catalogs: Sequence[str | Path],
    routes: Routes,
    bundle_of: Callable[[Sequence[Step]], Mapping[str, str]],
    services: Sequence[str] = (),
) -> Callable[[Route, Decision], Plan]:
    """The same of catalogues (none: the shipped one) and routes; `services`: whose it is where no decision says so."""
    from hyops.compose_runner import MODULES
    from hyops.engine import safety
    from hyops.engine.catalog import Catalog, default_roots
    from hyops.engine.decided import plan_inputs, plan_secrets
    from hyops.engine.module_inputs import filled
    from hyops.engine.module_plan import one_step
    from hyops.engine.plan import make_plan
    from hyops.errors import RefusedError, UnsafePlanError
    from hyops.model.vocabulary import DecisionType

    roots = [Path(root) for root in catalogs] or default_roots()
    catalog = Catalog(roots)
    for kind in DecisionType:
        for known in routes.of_type(kind):
            with contextlib.suppress(RefusedError):  # said when it is asked for; a good one is parsed before that
                if known.target_kind == "module":
                    lone_module(roots, known.target_ref)
                else:
                    catalog.blueprint(known.target_ref)

    def plan_for(route: Route, decision: Decision) -> Plan:
        if route.runner_ref is None:
            raise UnsafePlanError(f"the route to {route.target_ref} names no runner_ref")
        if route.target_kind == "module":
            spec = lone_module(roots, route.target_ref)
            inputs = filled(spec, plan_inputs(one_step(spec, spec.inputs), route.inputs, decision, routes))
            blueprint = one_step(spec, inputs)
        else:
            blueprint = catalog.blueprint(route.target_ref)
            inputs = plan_inputs(blueprint, route.inputs, decision, routes)
        plan = make_plan(
            blueprint,
            env=route.target_env,
            service=decision.service or services[0],
            decision_type=decision.decision_type,
            runner_ref=route.runner_ref,
            execution_plane=route.execution_plane,
            inputs=inputs,
            bundle_of=bundle_of,
            sync_env=plan_secrets(decision, routes),
            access=route.access,
            decision=decision,
        )
        safety.check(plan, MODULES)
        return plan

    return plan_for


def lone_module(roots: Sequence[Path], ref: str) -> ModuleSpec:
    """The spec of a module that may be all of a plan.

    Raises:
        UnsafePlanError: it is a part of a switch. ConfigError: there is none, or no runner runs it.
    """
    from hyops.adapters.module_files import runner_module
    from hyops.compose_runner import MODULES
    from hyops.engine import safety
    from hyops.errors import ConfigError

    safety.refuse_alone(ref)
    spec = runner_module(roots, ref)
    if ref not in MODULES:
        raise ConfigError(f"no runner has a driver for {ref}, whatever its spec says")
    return spec


async def run_approval(config_file: Path) -> None:
    """`hyops service run approval`."""
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.services.approval import ApprovalStage, run
    from hyops.services.config_requests import ApprovalConfig

    config = ApprovalConfig.read(config_file.read_bytes(), source=str(config_file))
    requests, approvals = (
        record_store(config.homes.dispatch, "requests"),
        record_store(config.homes.approval, "approvals"),
    )
    stage = ApprovalStage(
        requests=requests,
        approvals=approvals,
        executions=record_store(config.homes.approval, "executions"),
        refusals=record_store(config.homes.approval, "refusals"),
        policy=config.policy,
        approval_verifier=approval_verifier(config),
        signer=Ed25519Signer.load(Path(config.signing_key)),
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
        clock=steady_clock(config.homes.approval),
    )
    await run(stage, requests, approvals)


def execution_stores(homes: Homes) -> ExecutionStores:
    """Where the stages of a control host keep what the executor reads and writes."""
    from hyops.services.execution_parts import ExecutionStores

    return ExecutionStores(
        decisions=record_store(homes.decision, "records"),
        requests=record_store(homes.dispatch, "requests"),
        plans=record_store(homes.dispatch, "plans"),
        approvals=record_store(homes.approval, "approvals"),
        executions=record_store(homes.approval, "executions"),
        attempts=record_store(homes.execution, "attempts"),
        outcomes=record_store(homes.execution, "outcomes"),
        refusals=record_store(homes.execution, "refusals"),
    )


def execution_stage(
    config: ExecutionConfig, stores: ExecutionStores, starts: Starts, verifier: Verifier, tell: bool = False, **how: Any
) -> ExecutionStage:
    """An executor, whoever runs it: the service, or a command that acts for one decision. `how` is the rest of it.

    `tell`: it is the service; see `looked_last`. A command's clock has had no time to step.
    """
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer
    from hyops.compose_hold import looked_last
    from hyops.compose_state import returned_states
    from hyops.evidence.collect import Assembler, nothing_attached
    from hyops.services.execution import ExecutionStage

    homes, signer = config.homes, Ed25519Signer.load(Path(config.signing_key))
    clock = steady_clock(homes.execution) if tell else SystemClock()
    sources, inputs = compose_takeover.with_taken(config, stores)
    states = returned_states(config, sources.plans, clock)
    return ExecutionStage(
        stores,
        policies={p.policy.service: p.policy for p in config.protected},
        initial_generations={p.policy.service: p.initial_generation for p in config.protected},
        starts=starts,
        signer=signer,
        verifier=verifier,
        clock=clock,
        states=states,
        hook=made_once(
            homes.execution,
            Assembler(
                sources,
                inputs=inputs,
                directory=Path(homes.execution) / "state" / "evidence",
                signer=signer,
                clock=clock,
                attachments=states.attachments if states else nothing_attached,
            ),
        ),
        **looked_last(config, clock, tell=tell),
        **how,
    )


async def run_execution(config_file: Path) -> None:
    """`hyops service run execution`."""
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.compose_bundle import bundles_of
    from hyops.compose_transport import transport_of
    from hyops.services.config_execution import ExecutionConfig
    from hyops.services.following import run
    from hyops.services.takeover_seal import beside

    config = ExecutionConfig.read(config_file.read_bytes(), source=str(config_file))
    stores, verifier = execution_stores(config.homes), TrustedVerifier.load(Path(config.trusted_keys))
    stage = execution_stage(
        config,
        stores,
        starts_of(config.homes.execution),
        verifier,
        transport=transport_of(config, verifier),
        bundles=bundles_of(config),
        mode=config.mode,
        tell=True,
    )
    following = compose_takeover.followed_takeovers(config, stores, verifier)
    await following.first()  # before anything is started: what was taken over meanwhile is not asked for again
    watched = [stores.executions, stores.attempts, stores.outcomes]
    if config.people is not None:  # an end of a hold wakes what waits for it
        watched.append(record_store(config.homes.decision, "holds"))
    await beside(run(stage, watched, config.at_once), following.served())
