"""Standby orders on a runner's disk, and what takeovers made of them (INV-9). Standard library only.

An executor leaves orders here while there is one. It is not believed: an order is kept once the signatures under it
were verified by the keys that this runner trusts, and it takes the place of older ones of the same signers alone, so
that who holds the executor's link can push no genuine order out. A takeover judges what lies here all over again.
What it runs is durable in `takeovers/` before anything starts, so that begun again it is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hyops.errors import PrerequisiteError, RecordError, StaleGenerationError, UnsafePlanError
from hyops.runner import cache, staging
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import RUN_ID, Folders, read_file, write_file

ORDER_MAX = 4 * 1024 * 1024
KEPT = 4  # of one service by the same signers, the newest ones: the one that is current, and some to look at
SUFFIX = ".json"
Judge = Callable[[bytes], None]
"""Returns when the bytes are an order as its stages sealed it; raises RecordError or UnsafePlanError otherwise."""


def keep(config: RunnerConfig, folders: Folders, data: bytes, judge: Judge) -> dict[str, Any]:
    """Store one order; returns what `held` tells of it. Older ones of its service and signers go, beyond a few.

    Raises:
        RecordError: it is no order, or not signed by keys that may. UnsafePlanError: it is for another runner, not as
            it was sealed, or another one of that id lies here. StaleGenerationError: newer ones have its place.
            PrerequisiteError: a file of its plan is not here. DiskFullError: no room. What was here is as it was.
    """
    told = _told(data, "the order")
    if told["runner_ref"] != config.runner_ref:
        raise UnsafePlanError(f"the order is for {told['runner_ref']!r}, not {config.runner_ref!r}")
    judge(data)
    files = cache.Cache(folders)
    for digest in told["bundle"]:
        if not files.has(digest):
            raise PrerequisiteError(f"bundle file {digest} of the order is not staged")
    staging.need_room(config, len(data), 1)
    path = folders.orders / (told["order_id"] + SUFFIX)
    with folders.locked():
        if not _stands(path, data, judge):
            older = _replaced_by(told, path, folders, judge)
            write_file(path, data)
            for old in older:
                old.unlink(missing_ok=True)
        cache.drop_offer(folders, told["order_id"])
    return _public(told)


def held(folders: Folders) -> list[dict[str, Any]]:
    """Every order that lies here, by id; one that cannot be read is named with its `fault`."""
    found = []
    for path in _paths(folders):
        try:
            told = _public(_told(read_file(path, ORDER_MAX + 1), path.name))
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


def tries(folders: Folders, order_id: str) -> list[tuple[str, bytes]]:
    """What takeovers of one order were begun with, oldest first: the file's name and its bytes.

    Raises:
        RecordError: one of them cannot be read; names it.
    """
    found = []
    number = 1
    while os.path.lexists(path := folders.takeovers / f"{_named(order_id)}.{number}{SUFFIX}"):
        try:
            found.append((str(path), read_file(path, 2 * ORDER_MAX)))
        except OSError as exc:
            raise RecordError(f"{path}: {exc.strerror}") from exc
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


def _stands(path: Path, data: bytes, judge: Judge) -> bool:
    """Whether exactly this order lies here; what a disk has damaged does not stand, and may be brought anew.

    Raises:
        UnsafePlanError: another genuine order has its id.
    """
    try:
        known = read_file(path, ORDER_MAX + 1)
        if known != data:
            judge(known)
    except (OSError, RecordError, UnsafePlanError):
        return False
    if known != data:
        raise UnsafePlanError(
            f"another order {path.stem} lies here, with other bytes; it stays",
            hint=f"an id is given once: see what sealed it twice; `hyops takeover show {path.stem}` prints this one",
        )
    return True


def _replaced_by(told: dict[str, Any], path: Path, folders: Folders, judge: Judge) -> list[Path]:
    """Which orders go when this one comes: the oldest of its own service and signers, generation before age.

    What does not verify counts for nothing and stays, for a person to look at: `held` shows it.

    Raises:
        StaleGenerationError: so many newer ones are here that it would be the one to go.
    """
    known = [(told["generation"], told["sealed_s"], path)]
    for other in _paths(folders):
        try:
            data = read_file(other, ORDER_MAX + 1)
            of = _told(data, other.name)
            if other != path and _replaces(told, of):
                judge(data)
                known.append((of["generation"], of["sealed_s"], other))
        except (OSError, RecordError, UnsafePlanError):
            continue
    gone = [old for _, _, old in sorted(known, reverse=True)[KEPT:]]
    if path in gone:
        raise StaleGenerationError(
            f"order {path.stem} of generation {told['generation']} is older than the {KEPT} that are kept here for "
            f"{told['service']}",
            hint="`hyops takeover list` on the runner shows them; an executor that was set back has not learnt yet "
            "where the service is: `hyops takeover adopt`",
        )
    return gone


def _replaces(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether it is among those whose place it may take."""
    return (one["service"], one["signers"]) == (other["service"], other["signers"])


def _public(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key not in ("bundle", "signers")}


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
            "signers": [(value[part].get("signature") or {}).get("keyid") for part in ("decision", "request")],
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
