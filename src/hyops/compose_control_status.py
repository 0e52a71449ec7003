"""What `hyops control status` looks at (see `compose`): each member for itself, then all that the quorum knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hyops.compose_clock import doubts, surely
from hyops.compose_control import control_config
from hyops.compose_health import unwritable

if TYPE_CHECKING:
    from hyops.model.etcd import EtcdStore
    from hyops.services.config_control import ControlConfig
    from hyops.services.control_status import ControlStatus, Member
    from hyops.services.queues import StoreOf

MEMBER_LIMIT_S = 1.5
E = TypeVar("E")


def control_status(config_file: Path) -> ControlStatus:
    """The whole loop; where the quorum is lost, what is still known, and `lost` says why."""
    config = _looked_at(config_file)
    return _on_files(config) if config.store is None else _on_etcd(config, config.store.etcd)


def _looked_at(config_file: Path) -> ControlConfig:
    """The administrator's file; or that of an executor, which names the same homes and the same place in etcd."""
    import json

    from hyops.services.config_control import ControlConfig
    from hyops.services.config_execution import ExecutionConfig

    try:
        data = config_file.read_bytes()
        value = json.loads(data)
    except (OSError, ValueError):
        return control_config(config_file)  # which says what is wrong with it
    if not isinstance(value, dict) or value.get("kind") != "DecisionExecutor":
        return control_config(config_file)
    known = ExecutionConfig.read(data, source=str(config_file))
    return ControlConfig(api_version="hybridops/v1", kind="Control", homes=known.homes, store=known.store)


def _on_files(config: ControlConfig) -> ControlStatus:
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.moving_files import FilePlace
    from hyops.adapters.starts_files import FileStarts
    from hyops.services.control_status import ControlStatus, queues_of

    starts, unknown = FileStarts(Path(config.homes.execution) / "state" / "starts"), list[str]()
    serving = [
        dict.fromkeys(("host", "pid", "version", "since", "clock", "mirror")) | {"stage": stage}
        for stage in FilePlace(config.homes.model_dump()).served()
    ]
    dials = {name: {"host": "this host", "pid": None, "since": None} for name in starts.dials()}
    queues = queues_of(_stores(config, None), SystemClock().now(), starts.hindrance, dials, surely(config.homes))
    epoch = _or_unknown(starts.last_epoch, unknown)
    return ControlStatus(
        "files",
        epoch=epoch,
        serving=serving,
        dials=dials,
        queues=queues,
        unknown=unknown,
        warnings=[*doubts(config.homes), *unwritable(config.homes, kept_there=False)],
    )


def _or_unknown(epoch: Callable[[], E], unknown: list[str]) -> E | None:
    """The epoch; where it is damaged or lost, why it is not known, beside everything else."""
    from hyops.errors import RecordError

    try:
        return epoch()
    except RecordError as exc:
        unknown.append(f"epoch: {exc.message}; no run is started before somebody mends that: {exc.hint}")
        return None


def _on_etcd(config: ControlConfig, store: EtcdStore) -> ControlStatus:
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.etcd_presence import who_serves_what
    from hyops.adapters.starts_etcd import EtcdStarts
    from hyops.compose_store import etcd_session
    from hyops.errors import PrerequisiteError, StoreLostError
    from hyops.services.control_status import ControlStatus, queues_of
    from hyops.services.serving import seen, untold, warnings

    place, members = f"etcd, env {store.env}", asyncio.run(_members(store))
    session = etcd_session(store)
    starts, now = EtcdStarts(session), SystemClock().now()
    try:
        began = time.monotonic()
        unknown = list[str]()
        epoch = _or_unknown(starts.epoch, unknown)
        latency_ms = round((time.monotonic() - began) * 1000, 1)
        dials = starts.dials()
        serving: list[dict[str, Any]] | None = None
        try:
            asked_at = SystemClock().now()
            serving = seen(who_serves_what(session), asked_at, SystemClock().now())
            unknown += untold(serving)
        except StoreLostError:
            raise
        except PrerequisiteError as exc:  # the user of one stage does not see the others
            unknown.append(f"which stages serve: {exc.message}; the administrator's file names a user who sees them")
        return ControlStatus(
            place,
            members,
            None,
            latency_ms,
            epoch.revision if epoch is not None else None,
            epoch.number if epoch is not None else None,
            epoch is not None and epoch.foreign,
            serving,
            dials,
            queues_of(_stores(config, store), now, starts.hindrance, dials, surely(config.homes)),
            unknown,
            [*warnings(serving or []), *doubts(config.homes), *unwritable(config.homes, kept_there=True)],
        )
    except StoreLostError as exc:
        return ControlStatus(place, members, lost=exc.message)


async def _members(store: EtcdStore) -> list[Member]:
    return list(await asyncio.gather(*(_member(endpoint, store) for endpoint in store.endpoints)))


async def _member(endpoint: str, store: EtcdStore) -> Member:
    """Asked for itself alone, and without a login, which takes a quorum."""
    from hyops.adapters.etcd_access import tls_of
    from hyops.adapters.etcd_gateway import EtcdGateway, EtcdRefusedError
    from hyops.ports.lease import QuorumLostError
    from hyops.services.control_status import Member

    gateway = EtcdGateway([endpoint], tls=tls_of(store), attempt_s=MEMBER_LIMIT_S, limit_s=MEMBER_LIMIT_S)
    began = time.monotonic()
    try:
        said: dict[str, Any] = await gateway.call("/v3/maintenance/status", {})
        leads = str(said.get("leader", "0")) == str(said.get("header", {}).get("member_id", "-"))
        what = "leader" if leads else "no leader" if str(said.get("leader", "0")) == "0" else "follower"
        why, answers = f"{what}, etcd {said.get('version', '?')}", True
    except EtcdRefusedError as exc:
        why, answers = str(exc), True
    except QuorumLostError as exc:
        why, answers = str(exc), False
    finally:
        await gateway.close()
    return Member(endpoint, answers, round((time.monotonic() - began) * 1000, 1), why)


def _stores(config: ControlConfig, store: EtcdStore | None) -> StoreOf:
    from hyops.compose import record_store
    from hyops.services.config import Home
    from hyops.services.seen import OneLook

    homes = {stage: Home.kept_in(folder, stage, store) for stage, folder in config.homes.model_dump().items()}
    return cache(lambda stage, kind: OneLook(record_store(homes[stage], kind)))
