"""Waits until a launched job has said whether its run goes on, or has closed it (RUN-5). Standard library only.

A job that lives and has not said so yet asks the prerequisites of its access mode, each within a limit of its own. That
is waited for too; and where it lasts longer than an answer may, the run has been started, and its journal will tell.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyops.errors import HyopsError, RunnerUnreachableError
from hyops.model import wire
from hyops.runner import folders as disk
from hyops.runner import launch, offer, reopen, room
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders, is_alive, read_file

READY_WAIT_S = 5.0  # as `model.access` has it, which would bring more than the standard library
LOGINS_MAX = 3  # a target, a source and a jump host, each within `ready_wait_s`
LOOKS_S = 20.0  # routes, peers, hops and a cloud's API together
RELAUNCH_S = 5.0  # for a job that was launched to show that it lives: systemd may still count the dead one
PROBING_S_MAX = 40.0  # with `start_wait_s` less than the minute that a dispatcher waits for an answer


def probing_s(options: Mapping[str, Any]) -> float:
    """How long the probes of a runner's access may take by their own limits, as far as an answer can wait."""
    access = options.get("access")
    told = access.get("ready_wait_s", READY_WAIT_S) if isinstance(access, Mapping) else READY_WAIT_S
    ready_s = float(told) if isinstance(told, int | float) else READY_WAIT_S  # what is wrong there the job refuses
    return min(LOGINS_MAX * ready_s + LOOKS_S, PROBING_S_MAX)


def admitted(folder: Path, known: int, limit_s: float, probes_s: float) -> None:
    """Wait until the job has opened, resumed or refused its run; a refusal is raised as the job's own error.

    `known` is the journal's size before the job was launched: what stands there is not this job's word. A job that has
    said nothing within `limit_s` and lives gets `probes_s` more; one that lives still has been started.

    Raises:
        DiskFullError: there was no room for its first word. RunnerUnreachableError: it said nothing, nobody knows why.
    """
    from hyops.runner.follow import wait_until

    def said() -> bool:
        if (folder / "result.json").exists():
            return True
        if size(folder / "journal.jsonl") <= known:
            return False
        line, complete, _ = read_file(folder / "journal.jsonl", offer.SPEC_MAX).partition(b"\n")
        return bool(complete) and json.loads(line)["body"].get("admitted") is not False

    died = _died_on_a_full_disk(folder)
    if not wait_until(folder, lambda: said() or died(), limit_s):
        if is_alive(folder):
            wait_until(folder, lambda: said() or not is_alive(folder), probes_s)
        if not said() and is_alive(folder):
            return
    if not said():
        raise _silence(folder, f"the job did not open its run within {limit_s:g} s")
    whole, _, _ = read_file(folder / "journal.jsonl", disk.FILE_MAX).rpartition(b"\n")  # the job may be writing
    error = json.loads(whole.splitlines()[-1])["body"].get("error")
    if isinstance(error, dict):
        raise wire.error_of(error)


def was_admitted(folder: Path) -> bool:
    """Whether the job has said that the run may make effects here; not while it still asks."""
    if not size(folder / "journal.jsonl"):
        return False
    line, complete, _ = read_file(folder / "journal.jsonl", offer.SPEC_MAX).partition(b"\n")
    return bool(complete) and json.loads(line)["body"].get("admitted") is True


def reopened(folder: Path, known: int, limit_s: float) -> None:
    """Wait until the job has written that the ended run goes on, or why it may not, which is raised."""
    from hyops.runner.follow import wait_until

    def said() -> bool:
        return size(folder / "journal.jsonl") > known or not (folder / disk.REOPEN).exists()

    died = _died_on_a_full_disk(folder)
    if not wait_until(folder, lambda: said() or died(), limit_s) or not said():
        raise _silence(folder, f"the job said nothing within {limit_s:g} s")
    if (error := reopen.refused(folder)) is not None:
        raise error


def cancelled(folder: Path) -> str | None:
    """The reason of a cancellation that lies beside the run."""
    try:
        return str(json.loads(read_file(folder / "cancel.json", 8192))["reason"])
    except FileNotFoundError:
        return None


def closed(config: RunnerConfig, folders: Folders, run_id: str) -> bool:
    """Whether a job closes its cancelled run in time: the one that lives, or one that is launched for it.

    One that dies of being asked had not begun yet, so nothing was touched; the next one closes the run.
    """
    from hyops.runner.follow import wait_until

    folder, end = folders.run(run_id), time.monotonic() + config.cancel_wait_s
    ended = (folder / "result.json").exists

    def lives() -> bool:
        return folders.state(run_id) == "running"

    while not ended() and (left_s := end - time.monotonic()) > 0:
        if lives():
            wait_until(folder, lambda: ended() or not lives(), left_s)
        else:
            launch.launch(config, folders, run_id)
            wait_until(folder, lambda: ended() or lives(), min(RELAUNCH_S, left_s))
    return ended()


def size(path: Path) -> int:
    """Bytes of a file; 0 when it is not there."""
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def _died_on_a_full_disk(folder: Path) -> Callable[[], bool]:
    """Whether a job was seen to live there, lives no more, and could not have written its first word."""
    seen = [False]

    def died() -> bool:
        lives = is_alive(folder)
        seen[0] |= lives
        return seen[0] and not lives and room.lacking(folder) is not None

    return died


def _silence(folder: Path, otherwise: str) -> HyopsError:
    """Why a job said nothing: a full disk, where no job lives that may be writing just now."""
    if not is_alive(folder) and (why := room.lacking(folder) or room.refused(folder)) is not None:
        return room.full(folder, why)
    return RunnerUnreachableError(otherwise, job_said=_job_said(folder))


def _job_said(folder: Path) -> str:
    said = read_file(folder / "job.err", 2000) if size(folder / "job.err") else b""
    return said.decode(errors="replace")[-600:]
