"""The only file that knows which adapter serves which port. Every import is made by the function that needs it, so
that a process loads what it runs and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

MODULES = frozenset(
    {
        "native/noop",
        "native/fence",
        "native/postgresql-promote",
        "native/verify-write",
        "native/dns-cutover",
        "native/verify-traffic",
        "native/postgresql-follow",
        "native/count-loss",
    }
)
"""What a plan may name: a driver exists for each (see `drivers`), and a test holds the two together."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyops.adapters.probes_stream import Stream
    from hyops.adapters.state_file import StateFile
    from hyops.fence.agent import FenceAgent
    from hyops.fence.config import FenceAgentConfig
    from hyops.fence.state import AgentState
    from hyops.fence.verbs import FenceVerbs
    from hyops.model.decision import Decision
    from hyops.model.dispatch import Route
    from hyops.model.plan import Plan
    from hyops.model.policy import Lease
    from hyops.model.run import RunSpec
    from hyops.model.signal import Sample
    from hyops.ports.clock import Clock
    from hyops.ports.driver import Driver
    from hyops.ports.edge import DatabaseEdge
    from hyops.ports.hostagent import HostAgent
    from hyops.ports.lease import LeaseStore
    from hyops.ports.power import PowerSwitch
    from hyops.ports.records import RecordStore
    from hyops.ports.signals import SignalSource, Watchlist
    from hyops.ports.signer import ApprovalVerifier, Signer, Verifier
    from hyops.ports.transport import OperatorTransport
    from hyops.runner.config import RunnerConfig
    from hyops.runner.options import Power
    from hyops.services.config import ExecutionConfig, SshLogin
    from hyops.services.config_requests import DispatchConfig
    from hyops.services.runner_job import JobParts


def log(line: str) -> None:
    """One line to the service's log (standard error; the journal under systemd)."""
    print(line, file=sys.stderr, flush=True)


def lease_store(lease: Lease) -> LeaseStore:
    """The quorum store of a service."""
    from hyops.adapters.clock_boottime import BoottimeClock
    from hyops.adapters.etcd import EtcdLeaseStore
    from hyops.adapters.etcd_gateway import EtcdGateway

    return EtcdLeaseStore(EtcdGateway(lease.endpoints), BoottimeClock())


async def first_generation(config: FenceAgentConfig, generation: int, wait_s: float) -> None:
    """Create the service's first generation, with this host as primary."""
    from hyops.adapters.clock_boottime import BoottimeClock
    from hyops.adapters.etcd import EtcdLeaseStore
    from hyops.adapters.etcd_gateway import EtcdGateway
    from hyops.fence.first import create

    store = EtcdLeaseStore(EtcdGateway(config.lease.endpoints), BoottimeClock())
    try:
        await create(store, config.service, generation, config.host, wait_s)
    finally:
        await store.close()


def database_edge(config: FenceAgentConfig) -> DatabaseEdge:
    """The edge of one database host."""
    from hyops.adapters.nft_edge import NftEdge

    return NftEdge(port=config.postgres.port, peers=config.peers(), monitors=config.monitors)


def fence_agent(config: FenceAgentConfig) -> tuple[FenceAgent, FenceVerbs]:
    """The fence agent of one database host."""
    from hyops.adapters.clock_boottime import BoottimeClock
    from hyops.adapters.postgres_local import LocalPostgres, PostgresPlace
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.adapters.state_file import StateFile
    from hyops.fence.agent import AgentParts, FenceAgent
    from hyops.fence.state import AgentState
    from hyops.fence.verbs import FenceVerbs, VerbPolicy

    postgres = config.postgres
    place = PostgresPlace(
        data_dir=Path(postgres.data_dir),
        bin_dir=Path(postgres.bin_dir),
        socket_dir=Path(postgres.socket_dir),
        port=postgres.port,
        os_user=postgres.os_user,
        unit=postgres.unit,
        options=postgres.options,
        log_file=Path(postgres.log_file) if postgres.log_file else None,
        source=postgres.source,
    )
    parts = AgentParts(
        store=lease_store(config.lease),
        edge=database_edge(config),
        database=LocalPostgres(place),
        memory=StateFile(Path(config.state_file), AgentState),
        clock=BoottimeClock(),
        log=log,
        members=frozenset(member.host for member in config.members),
    )
    agent = FenceAgent(config.service, config.host, config.times(), parts)
    policy = VerbPolicy(
        members={member.host: member for member in config.members},
        receipts=config.receipts,
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
    )
    return agent, FenceVerbs(agent, policy)


async def run_fence_agent(config_file: Path) -> None:
    """The daemon of `hyops service run fence-agent`."""
    from hyops.fence.config import FenceAgentConfig
    from hyops.services.fence_agent import serve

    config = FenceAgentConfig.read(config_file.read_bytes(), source=str(config_file))
    agent, verbs = fence_agent(config)
    await serve(agent, verbs, Path(config.socket), group=config.group)


def runner_job(config: RunnerConfig) -> JobParts:
    """The parts of one job process on a runner; drivers are made when its spec has been read."""
    from hyops.adapters.approval_ssh import SshApprovalVerifier
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.services.runner_job import JobParts

    signer = Ed25519Signer.load(config.signing_key)
    return JobParts(
        clock=SystemClock(),
        signer=signer,
        verifier=TrustedVerifier.load(config.trusted_keys),
        approvals=SshApprovalVerifier(
            allowed_signers=config.allowed_signers, approvers=config.approvers, revoked=config.revoked_signers
        ),
        drivers=lambda spec: drivers(config, signer, spec),
    )


def drivers(config: RunnerConfig, signer: Signer, spec: RunSpec) -> dict[str, Driver]:
    """Module reference -> driver, for the modules that this plan names: nothing else is loaded."""
    wanted = {step.module_ref for step in spec.plan.steps}
    found: dict[str, Driver] = {}
    if "native/noop" in wanted:
        from hyops.adapters.driver_native_noop import NoopDriver

        found["native/noop"] = NoopDriver()
    if wanted - found.keys():
        found |= _switch_drivers(config, signer)
    return {ref: driver for ref, driver in found.items() if ref in wanted}


def _switch_drivers(config: RunnerConfig, signer: Signer) -> dict[str, Driver]:
    from hyops.adapters.clock_boottime import BoottimeClock
    from hyops.adapters.dns_rfc2136 import Rfc2136Dns
    from hyops.adapters.driver_count_loss import CountLoss
    from hyops.adapters.hostagent_ssh import AgentPlace, SshHostAgent
    from hyops.adapters.ledger import PostgresRowCounter, SshLedger
    from hyops.adapters.probe_write import PsycopgWriteProbe
    from hyops.cutover.drivers import CutoverPorts, cutover_drivers
    from hyops.fence.driver_fence import FencePorts
    from hyops.fence.driver_promote import fence_drivers
    from hyops.runner.options import RunnerOptions

    options = RunnerOptions.of(config.options, source=f"{config.source}: options")
    login, database, clock = options.targets, options.database, BoottimeClock()
    words = {"dbname": database.dbname, "user": database.user, "passfile": database.passfile}
    probe = PsycopgWriteProbe(words, table=database.probe_table, vantage=config.runner_ref)

    @functools.cache
    def agent(host: str, address: str) -> HostAgent:
        key_file, known_hosts = Path(login.key_file), Path(login.known_hosts)
        return SshHostAgent(AgentPlace(host, address, login.user, key_file, known_hosts, login.port))

    found = fence_drivers(
        FencePorts(
            store=lease_store,
            agent=lambda member: agent(member.host, member.address),
            probe=probe,
            signer=signer,
            clock=clock,
            runner_ref=config.runner_ref,
            power=None if options.power is None else power_switch(options.power),
            power_head_start_s=options.power.head_start_s if options.power is not None else 0.0,
        )
    )
    keys = {key.name: (key.algorithm, Path(key.secret_file).read_text().strip()) for key in options.tsig}
    found |= cutover_drivers(CutoverPorts(dns=Rfc2136Dns(keys), probe=probe, clock=clock))
    if options.ledger is not None:
        place = options.ledger
        ledger = SshLedger(
            host=place.host,
            address=place.address,
            user=place.login.user,
            key_file=place.login.key_file,
            known_hosts=place.login.known_hosts,
            port=place.login.port,
            timeout_s=15.0,
        )
        counter = PostgresRowCounter(
            table=database.ledger_table, column=database.ledger_column, dsn=words, timeout_s=30.0
        )
        found["native/count-loss"] = CountLoss(ledger, counter)
    return found


def power_switch(options: Power) -> PowerSwitch:
    """The switch that can cut a database host's power."""
    from hyops.adapters.power_http import HttpPowerSwitch

    ca_file = Path(options.ca_file) if options.ca_file else None
    return HttpPowerSwitch(options.url, Path(options.token_file), limit_s=options.limit_s, ca_file=ca_file)


def record_store(home: str, kind: str) -> RecordStore:
    """The records of one kind below a stage's home."""
    from hyops.adapters.store_files import FileRecordStore

    return FileRecordStore(Path(home) / "state" / kind)


async def run_decision(config_file: Path) -> None:
    """`hyops service run decision`."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.services.config import DecisionConfig
    from hyops.services.decision import DecisionStage, run

    config = DecisionConfig.read(config_file.read_bytes(), source=str(config_file))
    homes, clock = config.homes, SystemClock()
    decisions = record_store(homes.decision, "records")
    attempts, outcomes = record_store(homes.execution, "attempts"), record_store(homes.execution, "outcomes")
    stage = DecisionStage(
        config.protected.policy,
        initial_generation=config.protected.initial_generation,
        decisions=decisions,
        inputs=record_store(homes.decision, "inputs"),
        attempts=attempts,
        outcomes=outcomes,
        signer=Ed25519Signer.load(Path(config.signing_key)),
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
        clock=clock,
    )
    sources: list[SignalSource] = [
        _vantage(name, login, clock, config.probe_password_file) for name, login in config.vantages.items()
    ]
    if any(signal.source == "prometheus" for signal in config.protected.policy.signals):
        from hyops.adapters.prometheus import PrometheusSource  # brings an HTTP client, 5 MB

        sources.append(PrometheusSource("prometheus", clock))
    await run(stage, sources, [decisions, attempts, outcomes])


def _vantage(name: str, login: SshLogin | None, clock: Clock, password_file: str | None) -> SignalSource:
    from hyops.adapters.signals_ssh import LocalVantage, SshTarget, SshVantage

    if login is None:
        more = ("--password-file", password_file) if password_file else ()
        return LocalVantage(name, clock, (sys.argv[0], "probe", "stream", "--vantage", name, *more))
    target = SshTarget(name, login.address, login.user, login.key_file, login.known_hosts, login.port)
    return SshVantage(name, clock, target)


async def run_dispatch(config_file: Path) -> None:
    """`hyops service run dispatch`."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.services.config_requests import DispatchConfig
    from hyops.services.dispatch import DispatchStage, run

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
        clock=SystemClock(),
        max_age_s=config.max_age_s,
    )
    await run(stage, decisions)


def planner(config: DispatchConfig) -> Callable[[Route, Decision], Plan]:
    """How a route and a decision become the plan that people approve; unsafe plans are refused here already."""
    from hyops.engine import safety
    from hyops.engine.catalog import Catalog, default_roots
    from hyops.engine.plan import make_plan
    from hyops.errors import ConfigError, UnsafePlanError
    from hyops.model.vocabulary import DecisionType

    catalog = Catalog([Path(root) for root in config.catalogs] or default_roots())
    for kind in DecisionType:
        for known in config.routes.of_type(kind):
            with contextlib.suppress(ConfigError):  # said when it is asked for; a good one is parsed before that
                catalog.blueprint(known.target_ref)

    def plan_for(route: Route, decision: Decision) -> Plan:
        if route.runner_ref is None:
            raise UnsafePlanError(f"the route to {route.target_ref} names no runner_ref")
        plan = make_plan(
            catalog.blueprint(route.target_ref),
            env=route.target_env,
            service=decision.service or config.services[0],
            decision_type=decision.decision_type,
            runner_ref=route.runner_ref,
            execution_plane=route.execution_plane,
            inputs=route.inputs,
        )
        safety.check(plan, MODULES)
        return plan

    return plan_for


async def run_approval(config_file: Path) -> None:
    """`hyops service run approval`."""
    from hyops.adapters.approval_ssh import SshApprovalVerifier
    from hyops.adapters.clock_system import SystemClock
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
        approval_verifier=SshApprovalVerifier(
            allowed_signers=Path(config.allowed_signers),
            approvers=Path(config.approvers),
            revoked=Path(config.revoked_signers) if config.revoked_signers else None,
        ),
        signer=Ed25519Signer.load(Path(config.signing_key)),
        verifier=TrustedVerifier.load(Path(config.trusted_keys)),
        clock=SystemClock(),
    )
    await run(stage, requests, approvals)


def _runner_transport(config: ExecutionConfig, verifier: Verifier) -> OperatorTransport:
    from hyops.adapters.runner_link import RunnerTarget
    from hyops.compose_pull import with_pulled

    targets = {
        ref: RunnerTarget(
            login.address, login.user, Path(login.key_file), Path(login.known_hosts), login.port, host_key_alias=ref
        )
        for ref, login in config.runners.items()
    }
    if config.ssh_client == "openssh":
        from hyops.adapters.ssh_openssh import OpensshRunnerTransport

        return with_pulled(config, OpensshRunnerTransport(targets, verifier), verifier)
    from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport

    return with_pulled(config, AsyncsshRunnerTransport(targets, verifier), verifier)


def runner_transport(config_file: Path) -> tuple[OperatorTransport, list[str]]:
    """For the command line: how to reach the executor's runners, and their names."""
    from hyops.adapters.signer_ed25519 import TrustedVerifier
    from hyops.errors import ConfigError
    from hyops.services.config import ExecutionConfig

    try:
        data = config_file.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"{config_file}: {exc.strerror}", hint="name the executor's configuration with --config"
        ) from exc
    config = ExecutionConfig.read(data, source=str(config_file))
    return _runner_transport(config, TrustedVerifier.load(Path(config.trusted_keys))), sorted(
        [*config.runners, *(config.pull.runner_refs if config.pull else [])]
    )


async def run_execution(config_file: Path) -> None:
    """`hyops service run execution`."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.adapters.starts_files import FileStarts
    from hyops.evidence.collect import Assembler
    from hyops.services.config import ExecutionConfig
    from hyops.services.execution import ExecutionStage, run
    from hyops.services.execution_parts import ExecutionStores

    config = ExecutionConfig.read(config_file.read_bytes(), source=str(config_file))
    homes, clock = config.homes, SystemClock()
    stores = ExecutionStores(
        decisions=record_store(homes.decision, "records"),
        requests=record_store(homes.dispatch, "requests"),
        plans=record_store(homes.dispatch, "plans"),
        approvals=record_store(homes.approval, "approvals"),
        executions=record_store(homes.approval, "executions"),
        attempts=record_store(homes.execution, "attempts"),
        outcomes=record_store(homes.execution, "outcomes"),
        refusals=record_store(homes.execution, "refusals"),
    )
    signer = Ed25519Signer.load(Path(config.signing_key))
    verifier = TrustedVerifier.load(Path(config.trusted_keys))
    policies = {protected.policy.service: protected.policy for protected in config.protected}
    stage = ExecutionStage(
        stores,
        policies=policies,
        initial_generations={p.policy.service: p.initial_generation for p in config.protected},
        transport=_runner_transport(config, verifier),
        starts=FileStarts(Path(homes.execution) / "state" / "starts"),
        signer=signer,
        verifier=verifier,
        clock=clock,
        mode=config.mode,
        hook=Assembler(
            stores,
            inputs=record_store(homes.decision, "inputs"),
            directory=Path(homes.execution) / "state" / "evidence",
            signer=signer,
            clock=clock,
        ),
    )
    await run(stage, [stores.executions, stores.attempts, stores.outcomes])


def agent_memory(state_file: Path) -> StateFile[AgentState]:
    """What a fence agent remembers over a restart."""
    from hyops.adapters.state_file import StateFile
    from hyops.fence.state import AgentState

    return StateFile(state_file, AgentState)


def offline_verifiers(
    keys: Path, allowed_signers: Path | None, approvers: Path | None
) -> tuple[Verifier, ApprovalVerifier | None]:
    """What evidence is verified with: public files only, no network. No allowed signers: no approval is proved."""
    from hyops.adapters.approval_ssh import SshApprovalVerifier
    from hyops.adapters.signer_ed25519 import TrustedVerifier

    verifier = TrustedVerifier.load(keys)
    if allowed_signers is None or approvers is None:
        return verifier, None
    return verifier, SshApprovalVerifier(allowed_signers=allowed_signers, approvers=approvers)


def probe_stream(watchlist: Watchlist, password: str | None, emit: Callable[[Sample], None]) -> Stream:
    """The looks of one vantage point."""
    from hyops.adapters.probes_network import network_probes
    from hyops.adapters.probes_stream import Stream

    return Stream(watchlist, network_probes(password), emit)
