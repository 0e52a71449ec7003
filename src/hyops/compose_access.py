"""Which adapter serves which question of an access mode; one plane has one mode, and there is no second (ACC-2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.access.circumstances import Circumstances
    from hyops.access.mode import AccessMode
    from hyops.adapters.access_grants import FileGrants
    from hyops.model.access import AccessDesk, AccessOptions, ResolvedAccess
    from hyops.model.run import RunSpec
    from hyops.ports.access import Edge, EphemeralRule, OutsideProbe, SshPlace
    from hyops.runner.config import RunnerConfig
    from hyops.services.access_edge import EdgeDesk
    from hyops.services.access_ends import AccessEnds
    from hyops.services.run_access import ResolveAccess

EDGE = "edge"  # the name that its host key is pinned under


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
    if run.plane is ExecutionPlane.GCP_IAP:
        from hyops.access.iap import GcpIap
        from hyops.adapters.access_gcp import ComputeApi

        return GcpIap(options, login, probes, cloud=ComputeApi())
    from hyops.access.public import PublicEphemeral
    from hyops.adapters.access_grants import FileGrants
    from hyops.adapters.clock_system import SystemClock

    grants = FileGrants(Path(options.grants_dir)).all if options.grants_dir else list
    opens = None if options.edge is None else access_ends(config).open
    return PublicEphemeral(options, login, probes, grants=grants, clock=SystemClock(), opens=opens)


def access_ends(config: RunnerConfig) -> AccessEnds:
    """What a runner opened at its edge, and how it ends."""
    from hyops.adapters.access_grants import FileGrants
    from hyops.runner.ways import FOLDER
    from hyops.services.access_ends import AccessEnds

    return AccessEnds(lambda: _edge_of(config), FileGrants(config.root / FOLDER))


def _edge_of(config: RunnerConfig) -> Edge | None:
    from hyops.adapters.access_edge import SshEdge
    from hyops.ports.access import SshPlace

    there = access_options(config).edge
    if there is None:
        return None
    return SshEdge(
        SshPlace(EDGE, there.address, there.port, there.user, there.key_file, there.known_hosts, pinned_as=EDGE)
    )


def edge_desk(desk: AccessDesk) -> EdgeDesk:
    """The edge's own side of it."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.services.access_edge import EdgeDesk

    return EdgeDesk(desk, edge(desk), outside(desk), grants(desk).keep, SystemClock().now)


def grants(options: AccessDesk) -> FileGrants:
    """The records of what `hyops access` opened."""
    from hyops.adapters.access_grants import FileGrants

    return FileGrants(Path(options.grants_dir))


def edge(desk: AccessDesk) -> EphemeralRule:
    """Who makes and removes the rule."""
    from hyops.adapters.access_nft import NftGrants

    return NftGrants([(guarded.address, guarded.port) for guarded in desk.guarded])


def outside(desk: AccessDesk) -> OutsideProbe:
    """Who looks from outside."""
    from hyops.adapters.access_outside import SshOutside
    from hyops.ports.access import SshPlace

    there = desk.vantage
    name = "outside"
    return SshOutside(
        SshPlace(name, there.address, there.port, there.user, there.key_file, there.known_hosts, pinned_as=name)
    )


def way(config: RunnerConfig, spec: RunSpec) -> tuple[SshPlace | None, tuple[str, ...]]:
    """What a driver's SSH goes through on the run's plane: a jump host, or a command that carries it."""
    from hyops.services.run_access import circumstances

    return way_in(config, circumstances(spec, config))


def way_in(config: RunnerConfig, run: Circumstances) -> tuple[SshPlace | None, tuple[str, ...]]:
    """The same for what has no run of its own; PrerequisiteError: the plane's way is not defined here."""
    from hyops.access.iap import GcpIap, tunnel_argv

    mode = mode_of(config, run)
    if isinstance(mode, GcpIap) and mode.options.iap is not None:
        return None, tunnel_argv(mode.options.iap, _login(config, run).port)
    return mode.via(run), ()


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
