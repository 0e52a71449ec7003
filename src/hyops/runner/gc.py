"""Removes runs whose result is home, and remembers that they ran (RUN-5, INV-4, INV-7).

A run goes only when it is finished with a known outcome, its return was verified at the other side, and that was long
enough ago; everything else stays, with the reason. In this order, each step durable: a tombstone, the folder renamed
into the trash, the trash deleted. Killed between any two, the run reads as finished or as removed, and as nothing else.
A tombstone outlives its execution's approval, so what ran once is not taken again. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from hyops.errors import PrerequisiteError, UnsafePlanError
from hyops.runner import folders as disk
from hyops.runner import staging
from hyops.runner.cache import Cache
from hyops.runner.folders import Folders, State, read_file, write_file

KNOWN_OUTCOMES = ("succeeded", "failed", "refused", "cancelled")  # `unknown` waits for people (VOC-5)
COLLECTED = "collected.json"
_DAY_S = 86400.0

Boundary = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """Whether a run goes, and why, in words."""

    run_id: str
    goes: bool
    why: str


@dataclass(frozen=True)
class Sight:
    """What bears on one run. `collected_at` is seconds since 1970; None: the other side has not confirmed it."""

    run_id: str
    state: State
    lives: bool = False
    outcome: str = ""
    collected_at: float | None = None
    fault: str = ""


def judge(sight: Sight, *, now: float, keep_s: float) -> Verdict:
    """Whether a run may go: pure, and `no` for whatever is not surely over."""
    if sight.state != "finished":
        return Verdict(sight.run_id, False, f"it is {sight.state}")
    if sight.lives:
        return Verdict(sight.run_id, False, "its process still lives")
    if sight.fault:
        return Verdict(sight.run_id, False, sight.fault)
    if sight.outcome not in KNOWN_OUTCOMES:
        return Verdict(sight.run_id, False, f"its outcome is {sight.outcome or 'missing'}: somebody must look at it")
    if sight.collected_at is None:
        return Verdict(sight.run_id, False, f"{sight.outcome}, not collected")
    age_s = now - sight.collected_at
    told = f"{sight.outcome}, collected {age_s / _DAY_S:.1f} days ago"
    if age_s < keep_s:
        return Verdict(sight.run_id, False, f"{told}, kept for {keep_s / _DAY_S:g} days")
    return Verdict(sight.run_id, True, told)


def look(folders: Folders, run_id: str) -> Sight:
    """Read what bears on a run; what cannot be read is a fault, never an absence."""
    folder = folders.run(run_id)
    try:
        state = folders.state(run_id)
    except OSError as exc:
        return Sight(run_id, "interrupted", fault=f"its files cannot be read ({exc})")
    if state != "finished":
        return Sight(run_id, state)
    try:
        result = read_file(folder / "result.json", disk.FILE_MAX)
        outcome = str(json.loads(result)["outcome"])
        tombstone_of(folders, run_id)
        at = _collected_at(folders, run_id, result)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as exc:
        return Sight(run_id, state, fault=f"its files cannot be read ({type(exc).__name__}: {exc})")
    return Sight(run_id, state, disk.is_alive(folder), outcome, at)


def note_collected(folders: Folders, run_id: str, digest: str, *, now: float) -> None:
    """Remember that the other side has verified the return whose result has this digest.

    Raises:
        PrerequisiteError: the run is not finished. UnsafePlanError: the result here is another one.
    """
    with folders.locked():
        if (state := folders.state(run_id)) != "finished":
            raise PrerequisiteError(f"run {run_id} is {state}: there is no result that could have been collected")
        mine = _digest(read_file(folders.run(run_id) / "result.json", disk.FILE_MAX))
        if digest != mine:
            raise UnsafePlanError(f"run {run_id}: {digest[:80]} was collected, but the result here is {mine}")
        data = json.dumps({"at": now, "result_digest": digest}).encode()
        write_file(folders.run(run_id) / COLLECTED, data)


def sweep(
    folders: Folders,
    *,
    now: float,
    keep_s: float,
    remember_s: float,
    dry_run: bool = False,
    at: Boundary = lambda name: None,
) -> list[Verdict]:
    """Judge every run and remove those that go; returns all verdicts, oldest name first."""
    with folders.locked():
        verdicts = [judge(look(folders, run_id), now=now, keep_s=keep_s) for run_id in folders.run_ids()]
        if not dry_run:
            bury(folders, [v.run_id for v in verdicts if v.goes], now=now, at=at)
            forget(folders, now=now, remember_s=remember_s)
        return verdicts


@dataclass(frozen=True)
class CacheSwept:
    """What the cache of bundle files holds, and what of it went or would go."""

    files: int
    size_bytes: int
    gone_files: int
    gone_bytes: int


def sweep_cache(folders: Folders, *, now: float, bytes_max: int, keep_s: float, dry_run: bool = False) -> CacheSwept:
    """Remove what no run needs and is old or too much, and what a killed staging has left."""
    if not dry_run:
        staging.sweep(folders, now=now)
    held = Cache(folders)
    with folders.locked():
        before = held.entries()
        gone = held.evict(now=now, bytes_max=bytes_max, keep_s=keep_s, dry_run=dry_run)
    return CacheSwept(len(before), sum(e.size_bytes for e in before), len(gone), sum(e.size_bytes for e in gone))


def make_room(folders: Folders, runs: list[str], *, now: float, keep_s: float, most: int) -> int:
    """For a caller that holds the lock: remove at most so many runs, the oldest first; returns how many went."""
    chosen: list[str] = []
    for run_id in runs:
        if len(chosen) < most and judge(look(folders, run_id), now=now, keep_s=keep_s).goes:
            chosen.append(run_id)
    bury(folders, chosen, now=now)
    return len(chosen)


def bury(folders: Folders, run_ids: list[str], *, now: float, at: Boundary = lambda name: None) -> None:
    """Remove runs that were judged, under the lock. `at` is told each boundary between two steps."""
    empty_trash(folders)  # first, for on a full disk the tombstones need the room
    at("before")
    for run_id in run_ids:
        stone = tombstone_of(folders, run_id) | {"reaped_at": now}
        write_file(folders.tombstone(run_id), json.dumps(stone).encode())
        at("tombstone")
        folders.drop_secrets(run_id)
        os.rename(folders.run(run_id), folders.trash / run_id)
        at("renamed")
        disk.sync_folder(folders.runs)
        disk.sync_folder(folders.trash)
        at("durable")
    empty_trash(folders, at=at)


def empty_trash(folders: Folders, *, at: Boundary = lambda name: None) -> None:
    """Delete what was renamed there, now or before a crash; nothing reads it any more."""
    for name in sorted(os.listdir(folders.trash)):
        for entry in sorted(os.listdir(folders.trash / name)):
            if not (folders.trash / name / entry).is_dir():
                (folders.trash / name / entry).unlink()
                at("deleting")
        shutil.rmtree(folders.trash / name)
        at("deleted")


def tombstone_of(folders: Folders, run_id: str) -> dict[str, Any]:
    """What is remembered of a run: enough to refuse it again, and to witness how far its service had come."""
    spec = json.loads(read_file(folders.run(run_id) / "spec.json", disk.FILE_MAX))
    result = json.loads(read_file(folders.run(run_id) / "result.json", disk.FILE_MAX))
    return {
        "run_id": run_id,
        "service": str(spec["service"]),
        "generation": max(int(spec["generation"]), int(result.get("generation_after") or 0)),
        "epoch": int(spec["epoch"]),
        "expires_at": spec["execution"].get("expires_at"),
        "outcome": result["outcome"],
        "ended_at": result["ended_at"],
    }


def refuse_reaped(folders: Folders, run_id: str) -> None:
    """Return unless the run was here and was removed; the tombstone's existence decides, whatever it holds."""
    stone = folders.tombstone(run_id)
    if not os.path.lexists(stone):
        return
    try:
        told = json.loads(read_file(stone, disk.FILE_MAX))
        ended = f"ended {told['outcome']} at {told['ended_at']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        ended = "is over"
    raise UnsafePlanError(
        f"run {run_id} {ended} and was removed from this runner; an execution runs once",
        hint="its result is in the evidence; to act again, ask for a new decision and have it approved",
    )


def forget(folders: Folders, *, now: float, remember_s: float) -> None:
    """Remove old tombstones of executions that have expired, which refuses them for good.

    The last one of every service stays: it witnesses that the service was served here. An unreadable one stays too.
    """
    newest: dict[str, float] = {}
    old: list[tuple[str, str, float]] = []
    for run_id in folders.reaped_ids():
        try:
            told = json.loads(read_file(folders.tombstone(run_id), disk.FILE_MAX))
            service, reaped_at = str(told["service"]), _moment(told["reaped_at"], "tombstone")
            expired = datetime.fromisoformat(told["expires_at"]).timestamp() < now
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue
        newest[service] = max(reaped_at, newest.get(service, reaped_at))
        if expired and now - reaped_at > remember_s:
            old.append((run_id, service, reaped_at))
    for run_id, service, reaped_at in old:
        if reaped_at < newest[service]:
            folders.tombstone(run_id).unlink()


def as_json(verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as they travel."""
    return [asdict(verdict) for verdict in verdicts]


def _collected_at(folders: Folders, run_id: str, result: bytes) -> float | None:
    """When the return of exactly this result was confirmed; None when it was not."""
    try:
        told = json.loads(read_file(folders.run(run_id) / COLLECTED, 4096))
    except FileNotFoundError:
        return None
    if told["result_digest"] != _digest(result):
        raise ValueError(f"{COLLECTED} is about another result")
    return _moment(told["at"], COLLECTED)


def _moment(said: object, source: str) -> float:
    """Seconds since the epoch; ValueError for what is none, OverflowError for more than a float holds."""
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(at := float(said)):
        raise ValueError(f"{source} has no time")
    return at


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
