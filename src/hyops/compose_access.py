"""Which adapter serves which question of an access mode; one plane has one mode, and there is no second (ACC-2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.access.circumstances import Circumstances
    from hyops.access.mode import AccessMode
    from hyops.model.access import AccessOptions, ResolvedAccess
    from hyops.model.run import RunSpec
    from hyops.ports.access import SshPlace
    from hyops.runner.config import RunnerConfig
    from hyops.services.run_access import ResolveAccess


def run_access(config: RunnerConfig) -> ResolveAccess:
    """For a job on a runner: asks the mode of the plan."""

    async def asked(run: Circumstances) -> ResolvedAccess:
        from hyops.access.mode import resolve
        from hyops.adapters.clock_system import SystemClock

        return await resolve(mode_of(config, run), run, SystemClock())

    return asked


def mode_of(config: RunnerConfig, run: Circumstances) -> AccessMode:
    """The one mode of a plane."""
    from hyops.access.bastion import BastionExplicit
    from hyops.access.private import PrivateOverlay, RunnerLocal
    from hyops.adapters.access_probes import HostProbes
    from hyops.model.vocabulary import ExecutionPlane

    options, login, probes = access_options(config), _login(config, run), HostProbes()
    if run.plane is ExecutionPlane.RUNNER_LOCAL:
        return RunnerLocal(options, login, probes)
    if run.plane is ExecutionPlane.PRIVATE_OVERLAY:
        return PrivateOverlay(options, login, probes)
    if run.plane is ExecutionPlane.BASTION_EXPLICIT:
        return BastionExplicit(options, login, probes)
    raise AssertionError(run.plane)


def via(config: RunnerConfig, spec: RunSpec) -> SshPlace | None:
    """The jump host of a run's plane: what the drivers dial through."""
    from hyops.model.vocabulary import ExecutionPlane
    from hyops.services.run_access import circumstances

    if spec.plan.execution_plane is not ExecutionPlane.BASTION_EXPLICIT:
        return None
    run = circumstances(spec, config)
    return mode_of(config, run).via(run)


def access_options(config: RunnerConfig) -> AccessOptions:
    """`options.access` of a runner; ConfigError names what is wrong in it."""
    from hyops.model.access import AccessOptions

    return AccessOptions.of(config.options.get("access", {}), source=f"{config.source}: options.access")


def _login(config: RunnerConfig, run: Circumstances) -> SshPlace:
    """How targets are entered; a run without targets enters none."""
    from hyops.errors import ConfigError
    from hyops.ports.access import SshPlace
    from hyops.runner.options import TargetLogin

    if "targets" not in config.options:
        if run.targets:
            raise ConfigError(f"{config.source}: options.targets: missing, and the plan has targets")
        return SshPlace("", "", 22, "", "", "", "")
    login = TargetLogin.of(config.options["targets"], source=f"{config.source}: options.targets")
    return SshPlace("", "", login.port, login.user, str(Path(login.key_file)), str(Path(login.known_hosts)), "")
