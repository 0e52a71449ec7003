"""Standby orders on a runner's disk, and what takeovers made of them (INV-9). Standard library only.

A dispatcher leaves orders here while there is one; nothing of them is believed until a takeover has verified every
signature. What a takeover runs is durable in `takeovers/` before anything starts, so that begun again it is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hyops.errors import PrerequisiteError, RecordError, UnsafePlanError
from hyops.runner import cache, staging
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import RUN_ID, Folders, read_file, write_file

ORDER_MAX = 4 * 1024 * 1024
KEPT_PER_SERVICE = 4  # the newest ones: the one that is current, and some to look at
SUFFIX = ".json"


def keep(config: RunnerConfig, folders: Folders, data: bytes, *, now: float) -> dict[str, Any]:
    """Store one order; returns what `held` tells of it. Older ones of the service go, beyond a few.

    Raises:
        RecordError: it is no order. UnsafePlanError: it is for another runner. PrerequisiteError: a file of its plan
            is not here. DiskFullError: no room; what was here is as it was.
    """
    told = _told(data, "the order")
    if told["runner_ref"] != config.runner_ref:
        raise UnsafePlanError(f"the order is for {told['runner_ref']!r}, not {config.runner_ref!r}")
    files = cache.Cache(folders)
    for digest in told.pop("bundle"):
        if not files.has(digest):
            raise PrerequisiteError(f"bundle file {digest} of the order is not staged")
    staging.need_room(config, len(data), 1)
    with folders.locked():
        write_file(folders.orders / (told["order_id"] + SUFFIX), data)
        cache.drop_offer(folders, told["order_id"])
        for old in _superseded(folders, told["service"]):
            old.unlink(missing_ok=True)
    return told


def held(folders: Folders) -> list[dict[str, Any]]:
    """Every order that lies here, by id; one that cannot be read is named with its `fault`."""
    found = []
    for path in _paths(folders):
        try:
            told = _told(read_file(path, ORDER_MAX + 1), path.name)
            del told["bundle"]
            stored_at = os.lstat(path).st_mtime
        except (OSError, RecordError) as exc:
            told, stored_at = {"order_id": path.stem, "fault": str(exc)[:300]}, 0.0
        found.append({**told, "stored_s": stored_at})
    return found


def read(folders: Folders, order_id: str) -> bytes:
    """The bytes of one order; RecordError when there is none of that name."""
    try:
        return read_file(folders.orders / (_named(order_id) + SUFFIX), ORDER_MAX + 1)
    except OSError as exc:
        raise RecordError(f"order {order_id}: {exc.strerror}", hint="`hyops takeover list` shows what is here") from exc


def write_taken(folders: Folders, order_id: str, number: int, data: bytes) -> bytes:
    """Make the intent of one takeover durable; whoever was first wins, and everybody gets what stands."""
    path = folders.takeovers / f"{_named(order_id)}.{number}{SUFFIX}"
    with folders.locked():
        if not os.path.lexists(path):
            write_file(path, data)
        return read_file(path, 2 * ORDER_MAX)


def tries(folders: Folders, order_id: str) -> list[bytes]:
    """What takeovers of one order were begun with, oldest first."""
    found = []
    number = 1
    while os.path.lexists(path := folders.takeovers / f"{_named(order_id)}.{number}{SUFFIX}"):
        found.append(read_file(path, 2 * ORDER_MAX))
        number += 1
    return found


def taken(folders: Folders, run_id: str) -> bytes:
    """The takeover whose run has this id; RecordError when none has."""
    folders.run(run_id)
    for name in sorted(os.listdir(folders.takeovers)):
        if name.endswith(SUFFIX) and not name.startswith("."):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                data = read_file(folders.takeovers / name, 2 * ORDER_MAX)
                if json.loads(data)["spec"]["run_id"] == run_id:
                    return data
    raise RecordError(f"run {run_id}: no takeover began it here")


def _paths(folders: Folders) -> Iterator[Path]:
    for name in sorted(os.listdir(folders.orders)):
        if name.endswith(SUFFIX) and RUN_ID.fullmatch(name.removesuffix(SUFFIX)):
            yield folders.orders / name


def _superseded(folders: Folders, service: str) -> list[Path]:
    known = []
    for path in _paths(folders):
        try:
            told = _told(read_file(path, ORDER_MAX + 1), path.name)
        except (OSError, RecordError):
            continue  # shown by `held` with its fault, and left for a person to look at
        if told["service"] == service:
            known.append((told["generation"], told["sealed_s"], path))
    return [path for _, _, path in sorted(known, reverse=True)[KEPT_PER_SERVICE:]]


def _told(data: bytes, name: str) -> dict[str, Any]:
    """The few fields that are needed here; nothing of it is verified."""
    if len(data) > ORDER_MAX:
        raise RecordError(f"{name}: more than {ORDER_MAX} bytes")
    try:
        value = json.loads(data)
        request, bundle = value["request"], value["plan"].get("bundle", {})
        told = {
            "order_id": request["dispatch_id"],
            "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
            "service": request["service"],
            "runner_ref": request["runner_ref"],
            "generation": request["generation"],
            "expires_at": request["expires_at"],
            "sealed_s": datetime.fromisoformat(request["timestamp_utc"]).timestamp(),
            "bundle": [str(digest) for digest in bundle.values()],
        }
        if value["schema"] != "hyops/standby-order/v1" or type(told["generation"]) is not int:
            raise ValueError("schema or generation")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as exc:
        raise RecordError(f"{name}: no standby order ({type(exc).__name__}: {exc})"[:300]) from exc
    if not all(isinstance(told[key], str) for key in ("order_id", "service", "runner_ref", "expires_at")):
        raise RecordError(f"{name}: no standby order")
    _named(str(told["order_id"]))
    return told


def _named(order_id: str) -> str:
    if not RUN_ID.fullmatch(order_id):
        raise RecordError(f"{order_id[:80]!r} is not an order's id")
    return order_id
