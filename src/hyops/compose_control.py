"""What `hyops control` works on (see `compose`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.adapters.etcd_roles import Done
    from hyops.services.config_control import ControlConfig
    from hyops.services.moving import Moved
    from hyops.services.restoring import Restored


def migrate(
    config_file: Path, source: str, target: str, say: Callable[[str], None], aside_max: int | None = None
) -> Moved:
    """Move all records of the loop, as `services.moving` has it."""
    from hyops.adapters.moving_etcd import EtcdPlace
    from hyops.adapters.moving_files import FilePlace
    from hyops.compose_store import etcd_session
    from hyops.ports.moves import RecordPlace
    from hyops.services.moving import move
    from hyops.services.stage_plan import STAGES

    config = control_config(config_file)
    kinds = {stage: one.kinds for stage, one in STAGES.items()}
    etcd, files = EtcdPlace(etcd_session(config.etcd)), FilePlace(config.homes.model_dump(), kinds)
    places: dict[str, RecordPlace] = {"files": files, "etcd": etcd}
    return move(places[source], places[target], say, aside_max=aside_max)


def etcd_roles(config_file: Path, passwords: Path) -> Done:
    """Set up a user and a role for every stage, and turn etcd's authentication on."""
    from hyops.adapters.etcd_access import gateway_of, login_of, tls_of
    from hyops.adapters.etcd_gateway import EtcdGateway
    from hyops.adapters.etcd_roles import set_up
    from hyops.errors import ConfigError

    access = control_config(config_file).etcd
    if (root := login_of(access)) is None or root.user != "root":
        raise ConfigError(
            f"{config_file}: store.etcd.user: roles are set up by the user root of etcd, with its password_file",
            hint="name root; a password file that is not there yet is made with `openssl rand -base64 24`",
        )

    def without_login() -> EtcdGateway:
        return EtcdGateway(access.endpoints, tls=tls_of(access), attempt_s=5.0, limit_s=20.0)

    def as_root() -> EtcdGateway:
        return gateway_of(access.endpoints, access, attempt_s=5.0, limit_s=20.0)

    return asyncio.run(set_up(without_login, as_root, root, access.env, passwords))


def restore(config_file: Path, execution_config: Path, lost: Sequence[str]) -> Restored:
    """Let the executors dial again on an etcd that was restored from a snapshot (see `services.restoring`)."""
    from hyops.adapters.starts_etcd import EtcdStarts
    from hyops.compose_store import etcd_records, etcd_session
    from hyops.compose_transport import runner_transport
    from hyops.services.restoring import restore as restored

    store = control_config(config_file).etcd
    transport, runners = runner_transport(execution_config)
    executions, outcomes = (
        etcd_records(store, *kind) for kind in (("approval", "executions"), ("execution", "outcomes"))
    )
    starts = EtcdStarts(etcd_session(store))
    return asyncio.run(restored(transport, runners, lost, executions, outcomes, starts))


def control_config(config_file: Path) -> ControlConfig:
    """The administrator's file."""
    from hyops.errors import ConfigError
    from hyops.services.config_control import ControlConfig

    try:
        data = config_file.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{config_file}: {exc.strerror}", hint="name the configuration with --config") from exc
    return ControlConfig.read(data, source=str(config_file))
