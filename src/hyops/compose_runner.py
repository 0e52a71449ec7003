"""What runs on a runner: the parts of one job and the drivers of its plan (see `compose`)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from hyops.compose import lease_store

if TYPE_CHECKING:
    from hyops.model.run import RunSpec
    from hyops.ports.driver import Driver
    from hyops.ports.hostagent import HostAgent
    from hyops.ports.power import PowerSwitch
    from hyops.ports.signer import Signer
    from hyops.runner.config import RunnerConfig
    from hyops.runner.options import Power
    from hyops.services.runner_job import JobParts


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
        "native/second-copy",
    }
)
"""What a plan may name: a driver exists for each (see `drivers`), and a test holds the two together."""


def runner_job(config: RunnerConfig) -> JobParts:
    """The parts of one job process on a runner; drivers are made when its spec has been read."""
    from hyops.adapters.approval_ssh import SshApprovalVerifier
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.handed_secrets import HandedSecrets
    from hyops.adapters.signer_ed25519 import Ed25519Signer, TrustedVerifier
    from hyops.compose_access import access_ends, run_access
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
        access=run_access(config),
        ends=access_ends(config),
        opened=HandedSecrets(config.seal_key, config.runner_ref).opened,
    )


def drivers(config: RunnerConfig, signer: Signer, spec: RunSpec) -> dict[str, Driver]:
    """Module reference -> driver, for the modules that this plan names: nothing else is loaded."""
    wanted = {step.module_ref for step in spec.plan.steps}
    found: dict[str, Driver] = {}
    if "native/noop" in wanted:
        from hyops.adapters.driver_native_noop import NoopDriver

        found["native/noop"] = NoopDriver()
    if "native/second-copy" in wanted:
        from hyops.adapters.clock_system import SystemClock
        from hyops.adapters.driver_second_copy import SecondCopy

        found["native/second-copy"] = SecondCopy(SystemClock())
    if wanted - found.keys():
        found |= _switch_drivers(config, signer, spec)
    return {ref: driver for ref, driver in found.items() if ref in wanted}


def _switch_drivers(config: RunnerConfig, signer: Signer, spec: RunSpec) -> dict[str, Driver]:
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.dns_rfc2136 import Rfc2136Dns
    from hyops.adapters.driver_count_loss import CountLoss
    from hyops.adapters.hostagent_ssh import AgentPlace, SshHostAgent
    from hyops.adapters.ledger import PostgresRowCounter, SshLedger
    from hyops.adapters.probe_write import PsycopgWriteProbe
    from hyops.compose_access import way
    from hyops.cutover.drivers import CutoverPorts, cutover_drivers
    from hyops.fence.driver_fence import FencePorts
    from hyops.fence.driver_promote import fence_drivers
    from hyops.runner.options import RunnerOptions

    options = RunnerOptions.of(config.options, source=f"{config.source}: options")
    login, database, clock = options.targets, options.database, SystemClock()
    words = {"dbname": database.dbname, "user": database.user, "passfile": database.passfile}
    probe = PsycopgWriteProbe(words, table=database.probe_table, vantage=config.runner_ref)

    @functools.cache
    def agent(host: str, address: str) -> HostAgent:
        key_file, known_hosts = Path(login.key_file), Path(login.known_hosts)
        return SshHostAgent(
            AgentPlace(host, address, login.user, key_file, known_hosts, login.port, *way(config, spec))
        )

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
