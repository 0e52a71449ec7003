"""Taking over without a control host: the runner's side, and what control hosts prepare and learn of it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hyops.compose import lease_store, record_store
from hyops.compose_store import starts_of

if TYPE_CHECKING:
    from hyops.control.dispatch import PlanFor
    from hyops.model.approval import Approval, ApprovalStatement
    from hyops.ports.records import RecordStore
    from hyops.ports.signer import Verifier
    from hyops.ports.takeover import TakeoverTransport
    from hyops.runner.config import RunnerConfig
    from hyops.runner.orders import Judge
    from hyops.services.config import DecisionConfig
    from hyops.services.config_execution import ExecutionConfig, TakeoverTrust
    from hyops.services.config_requests import DispatchConfig
    from hyops.services.execution_parts import ExecutionStores
    from hyops.services.takeover import RunnerTakeover
    from hyops.services.takeover_adopt import Adopter
    from hyops.services.takeover_keep import Holding, OrderKeeper

STANDBY = "standby"  # beside `records` and `requests`: no stage of the loop looks there
RESCAN_S = 30.0
LOOK_S = 60.0  # how often runners are asked what they hold and what they ran
FIRST_S = 20.0  # of which the service manager waits for the executor to be ready


def runner_takeover(config: RunnerConfig) -> RunnerTakeover:
    """What `hyops takeover` works on at a runner: its own trust, its own key, the survivors' quorum."""
    from hyops.adapters.approval_ssh import SshApprovalVerifier
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.runner.folders import Folders
    from hyops.runner.starting import start
    from hyops.services.takeover import Parts, RunnerTakeover

    return RunnerTakeover(
        config,
        Parts(
            verifier=TrustedVerifier.load(config.trusted_keys),
            approvals=SshApprovalVerifier(
                allowed_signers=config.allowed_signers, approvers=config.approvers, revoked=config.revoked_signers
            ),
            signer=Ed25519Signer.load(config.signing_key),
            clock=SystemClock(),
            quorum=lease_store,
            start=partial(start, config, Folders(config.root, config.secrets_dir), secrets={}),
        ),
    )


def order_judge(config: RunnerConfig) -> Judge:
    """Whose standby orders a runner keeps: those that the stages whose keys it trusts have sealed."""
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.services.takeover_trust import refuse_unsealed

    return partial(refuse_unsealed, verifier=TrustedVerifier.load(config.trusted_keys))


def granted_by_key(statement: ApprovalStatement, key: Path) -> Approval:
    """The approval of a statement, signed with a person's own SSH key."""
    from hyops.adapters.approval_ssh import sign
    from hyops.services.takeover_paper import granted

    return granted(statement, lambda data: sign(data, key))


async def sealed_decisions(config: DecisionConfig) -> None:
    """The decision stage seals what is due, for as long as it serves."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.services.takeover_seal import DecisionSealer, whenever

    homes = config.homes
    outcomes = record_store(homes.execution, "outcomes")
    sealer = DecisionSealer(
        [(protected.policy, protected.initial_generation) for protected in config.protected],
        standby=record_store(homes.decision, STANDBY),
        inputs=record_store(homes.decision, "inputs"),
        attempts=record_store(homes.execution, "attempts"),
        outcomes=outcomes,
        signer=Ed25519Signer.load(Path(config.signing_key)),
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
        clock=SystemClock(),
    )
    await whenever(sealer.step, [outcomes], name="standby", rescan_s=RESCAN_S)


async def sealed_requests(config: DispatchConfig, plan_for: PlanFor) -> None:
    """The dispatcher makes a request of each standby decision, and another one whenever its plan has changed."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.services.takeover_seal import RequestSealer, whenever

    homes = config.homes
    decisions = record_store(homes.decision, STANDBY)
    sealer = RequestSealer(
        decisions=decisions,
        standby=record_store(homes.dispatch, STANDBY),
        plans=record_store(homes.dispatch, "plans"),
        routes=config.routes,
        plan_for=plan_for,
        signer=Ed25519Signer.load(Path(config.signing_key)),
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
        clock=SystemClock(),
    )
    await whenever(sealer.step, [decisions], name="standby", rescan_s=RESCAN_S)


def taken_store(config: ExecutionConfig) -> RecordStore:
    """What takeovers ran, as their runners handed it over."""
    return record_store(config.homes.execution, "taken")


def with_taken(config: ExecutionConfig, stores: ExecutionStores) -> tuple[ExecutionStores, RecordStore]:
    """The stages' records and the decisions' inputs as evidence reads them: beside them what takeovers brought."""
    from dataclasses import replace

    from hyops.services import takeover_adopt as brought

    inputs, taken = record_store(config.homes.decision, "inputs"), taken_store(config)
    both = brought.WithTaken
    return (
        replace(
            stores,
            decisions=both(stores.decisions, taken, brought.decisions_in),
            requests=both(stores.requests, taken, brought.requests_in),
            plans=both(stores.plans, taken, brought.plans_in),
            approvals=both(stores.approvals, taken, brought.approvals_in),
            executions=both(stores.executions, taken, brought.executions_in),
        ),
        both(inputs, taken, brought.inputs_in),
    )


def adopter(config: ExecutionConfig, stores: ExecutionStores, verifier: Verifier) -> Adopter:
    """Who learns of takeovers; raises ConfigError where the configuration does not say whose approvals count."""
    from hyops.adapters.approval_ssh import SshApprovalVerifier
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer
    from hyops.services.takeover_adopt import Adopter, AdoptStores, Trust

    trust = _trust(config)
    return Adopter(
        AdoptStores(taken_store(config), stores.attempts, stores.outcomes, stores.refusals),
        policies={p.policy.service: p.policy for p in config.protected},
        runners=sorted([*config.runners, *(config.pull.runner_refs if config.pull else [])]),
        transport=_transport(config, verifier),
        epochs=starts_of(config.homes.execution),
        trust=Trust(
            verifier,
            SshApprovalVerifier(
                allowed_signers=Path(trust.allowed_signers),
                approvers=Path(trust.approvers),
                revoked=Path(trust.revoked_signers) if trust.revoked_signers else None,
            ),
            trust.policy,
            trust.approvals,
        ),
        signer=Ed25519Signer.load(Path(config.signing_key)),
        clock=SystemClock(),
    )


def keeper(config: ExecutionConfig, stores: ExecutionStores, verifier: Verifier) -> OrderKeeper:
    """Who brings standby orders to the runners."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.compose_bundle import bundles_of
    from hyops.services.takeover_keep import OrderKeeper, OrderStores

    homes = config.homes
    return OrderKeeper(
        OrderStores(
            decisions=record_store(homes.decision, STANDBY),
            inputs=record_store(homes.decision, "inputs"),
            requests=record_store(homes.dispatch, STANDBY),
            plans=stores.plans,
            attempts=stores.attempts,
            outcomes=stores.outcomes,
        ),
        policies={p.policy.service: p.policy for p in config.protected},
        initial_generations={p.policy.service: p.initial_generation for p in config.protected},
        transport=_transport(config, verifier),
        files=bundles_of(config).files,
        verifier=verifier,
        clock=SystemClock(),
        note=lambda data: _note(_noted(config), data),
    )


class Following:
    """The executor's part in takeovers: before it starts anything, and while it serves. Nothing without `takeover`."""

    def __init__(self, config: ExecutionConfig, stores: ExecutionStores, verifier: Verifier) -> None:
        self._config, self._stores, self._verifier = config, stores, verifier
        self._on = config.takeover is not None

    async def first(self) -> None:
        """Learn of what was taken over while no control host was there; a runner that is away is asked later."""
        import asyncio

        from hyops.errors import HyopsError, foreign
        from hyops.services.loop import log

        if not self._on:
            return
        try:
            async with asyncio.timeout(FIRST_S):
                with foreign():  # what is said of takeovers keeps no executor from its work
                    await adopter(self._config, self._stores, self._verifier).step()
        except (HyopsError, TimeoutError) as exc:
            log("takeovers not asked for yet", error=type(exc).__name__, message=exc)

    async def served(self) -> None:
        """Orders out whenever one was sealed or the service moved, takeovers home by the slow pass."""
        import asyncio

        from hyops.services.takeover_seal import whenever

        if not self._on:
            return
        config, stores, verifier = self._config, self._stores, self._verifier
        sealed = record_store(config.homes.dispatch, STANDBY)
        out, home = keeper(config, stores, verifier), adopter(config, stores, verifier)
        async with asyncio.TaskGroup() as group:
            group.create_task(whenever(out.step, [sealed, stores.outcomes], name="orders", rescan_s=LOOK_S))
            group.create_task(whenever(home.step, [], name="takeovers", rescan_s=LOOK_S))


def followed_takeovers(config: ExecutionConfig, stores: ExecutionStores, verifier: Verifier) -> Following:
    """See `Following`."""
    return Following(config, stores, verifier)


def on_control(config_file: Path) -> tuple[OrderKeeper, Adopter]:
    """For the command line: who brings orders out, and who brings takeovers home."""
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.compose_loop import execution_stores
    from hyops.compose_transport import executor_config

    config = executor_config(config_file)
    stores, verifier = execution_stores(config.homes), TrustedVerifier.load(Path(config.trusted_keys))
    _trust(config)
    return keeper(config, stores, verifier), adopter(config, stores, verifier)


def held(config_file: Path) -> list[Holding] | None:
    """What the runners held when they were last looked at; None where no orders are kept, or nobody has looked yet."""
    from hyops.compose_transport import executor_config
    from hyops.services.takeover_keep import holdings

    config = executor_config(config_file)
    try:
        return holdings(_noted(config).read_bytes())
    except FileNotFoundError:
        return None


def _trust(config: ExecutionConfig) -> TakeoverTrust:
    from hyops.errors import ConfigError

    if config.takeover is None:
        raise ConfigError(
            "the executor's configuration has no `takeover`: it neither keeps standby orders nor learns of takeovers",
            hint="set takeover.allowed_signers and takeover.approvers there",
        )
    return config.takeover


def _transport(config: ExecutionConfig, verifier: Verifier) -> TakeoverTransport:
    from hyops.compose_transport import transport_of

    return cast("TakeoverTransport", transport_of(config, verifier))  # each of them opens framed sessions


def _noted(config: ExecutionConfig) -> Path:
    return Path(config.homes.execution) / "state" / "takeover.json"


def _note(path: Path, data: bytes) -> None:
    from hyops.ownership import as_owner

    with as_owner(path.parent):
        fresh = path.with_name(f".{path.name}.{os.getpid()}")  # a person's command may look at the same moment
        fresh.write_bytes(data)
        fresh.chmod(0o640)
        fresh.replace(path)
