"""What a runner tells of its runs; a run that cannot be read is named with its fault, and hides no other (RUN-5).

Standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyops.errors import ConfigError, DiskFullError, Effect, FailedError, PrerequisiteError, RecordError
from hyops.runner import folders as disk
from hyops.runner import room
from hyops.runner.folders import Folders, read_file

DAMAGED_HINT = "look at the file in the run's folder on the runner, and put it back as it was; nothing was changed"
FOREIGN_HINT = "look at it on the runner: give the folder back to hyops with mode 0700, or move what is no run away"
FOLDER_HINT = f"{FOREIGN_HINT}; a run may lie in it, so until then nothing starts on this runner"
SEEN_HINT = "mend the file as it says; until then this runner starts nothing of the service"
OPEN = ("staged", "running", "interrupted")
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def run_status(folders: Folders, run_id: str, memory: Memory | None = None) -> dict[str, Any]:
    """A run's status as it travels. `facts.fault` says what of it cannot be read, `facts.hint` what to do.

    Raises:
        RecordError: not a run id. ConfigError: its place is taken by something that is not ours.
    """
    return _looked(folders, run_id, memory)[0]


class Memory:
    """What this runner has seen of each service, asked once for many runs: where the file that says so is lost, every
    run is read to tell."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._told: dict[str, int | RecordError] = {}

    def epoch(self, service: str) -> int:
        """The highest; raises RecordError as `Folders.seen` does."""
        if service not in self._told:
            try:
                self._told[service] = self._folders.seen(service).epoch
            except RecordError as exc:
                self._told[service] = exc
        if isinstance(told := self._told[service], RecordError):
            raise told
        return told


def _looked(folders: Folders, run_id: str, memory: Memory | None = None) -> tuple[dict[str, Any], bool]:
    """Its status, and whether its state and its spec were read, whatever stands in them."""
    folder = folders.run(run_id)
    found: dict[str, Any] = {"run_id": run_id, "state": "interrupted", "epoch": 0}
    try:
        found["state"] = state = folders.state(run_id)
    except OSError as exc:  # a link instead of its lock, for one: nobody may take it for over
        return _faulty(found, _named(exc, folder), DAMAGED_HINT), False
    was_read = True
    if state == "absent":
        if os.path.lexists(folders.tombstone(run_id)):
            found["facts"] = {"removed": "its result was collected; `hyops runner gc` removed it"}
        return found, True
    try:
        _of_spec(found, memory or Memory(folders), folder / "spec.json")
    except FileNotFoundError:
        was_read = False  # the journal and the result speak for it
    except (OSError, *UNREADABLE) as exc:
        was_read = not isinstance(exc, OSError)
        _faulty(found, f"{folder / 'spec.json'}: damaged ({_why(exc)})", DAMAGED_HINT)
    if state == "finished":
        try:
            result = _object(folder / "result.json")
            outcome, ended_at = result["outcome"], result["ended_at"]
            if not isinstance(outcome, str) or not isinstance(ended_at, str):
                raise ValueError("outcome or ended_at is no text")
            found["outcome"] = outcome
            found.setdefault("facts", {})["ended_at"] = ended_at
        except (OSError, *UNREADABLE) as exc:
            _faulty(found, f"{folder / 'result.json'}: damaged ({_why(exc)})", DAMAGED_HINT)
    if state in ("staged", "interrupted") and (why := room.lacking(folder)) is not None:
        _faulty(found, f"{folder}: {why}; its job cannot go on", DiskFullError.hint)
    return found, was_read


def all_statuses(folders: Folders) -> list[dict[str, Any]]:
    """Every run, and with it whatever stands in a run's place without being one of ours, oldest name first."""
    return _statuses(folders)


def open_statuses(folders: Folders) -> list[dict[str, Any]]:
    """The same of open runs alone; of those that are over nothing is read."""
    return [status for status in _statuses(folders, but_over=True) if status["state"] in OPEN]


def _statuses(folders: Folders, *, but_over: bool = False) -> list[dict[str, Any]]:
    memory = Memory(folders)
    told = [_foreign(folders, run_id, why) for run_id, why in folders.foreign().items()]
    for run_id in folders.run_ids():
        if but_over and folders.is_over(run_id):
            continue
        try:
            told.append(run_status(folders, run_id, memory))
        except ConfigError as exc:  # it became foreign in between
            told.append(_foreign(folders, run_id, exc.message))
    return sorted(told, key=lambda status: str(status["run_id"]))


def refuse_beside_open(folders: Folders, service: str, *, but: str = "") -> None:
    """Return when no run of the service is open here, but for `but`; raises PrerequisiteError otherwise (EXE-3).

    One of which nobody can tell the service may be of it, and so may one that lies in a folder which is not ours alone.
    Only one whose spec was read and is none never will, unless it runs: its job reads that first. A file or a link in a
    run's place holds no job.
    """
    memory = Memory(folders)
    for run_id in folders.places():
        if run_id == but or folders.is_over(run_id):
            continue
        try:
            status, was_read = _looked(folders, run_id, memory)
        except ConfigError as exc:
            if not disk.is_folder(folders.runs / run_id):
                continue
            status, was_read = _foreign(folders, run_id, exc.message), False
            if status["state"] == "absent":
                status["state"] = "interrupted"  # as far as anybody knows
        state, facts = str(status["state"]), status.get("facts", {})
        of = facts.get("service")
        if state not in OPEN:
            continue
        if of == service:
            raise PrerequisiteError(
                f"run {run_id} of {service} is open here ({state}); one at a time (EXE-3)",
                hint="follow it, resume it, or cancel it",
            )
        if of is None and (state == "running" or not was_read):
            word = "is running" if state == "running" else "may be open"
            raise PrerequisiteError(
                f"run {run_id} {word} here and may be of {service}: {facts.get('fault', 'its spec is gone')} (EXE-3)",
                hint=str(facts.get("hint", DAMAGED_HINT)),
            )


def service_of(status: Mapping[str, Any]) -> str:
    """The service of a run; raises RecordError when its spec does not tell it."""
    facts = status.get("facts", {})
    if "service" not in facts:
        raise RecordError(
            f"run {status['run_id']}: {facts.get('fault', 'it has no spec')}; its service is not known",
            hint=str(facts.get("hint", DAMAGED_HINT)),
        )
    return str(facts["service"])


def failure(header: Mapping[str, Any], exc: Exception) -> FailedError:
    """A request that ended in what nobody foresaw: named, and nobody knows what it has touched."""
    asked = f"{str(header.get('verb'))[:20]} {str(header.get('run_id', ''))[:80]}".strip()
    return FailedError(f"{asked}: {type(exc).__name__}: {exc}"[:500], effect=Effect.UNKNOWN)


def _of_spec(found: dict[str, Any], memory: Memory, path: Path) -> None:
    spec = _object(path)
    epoch, service = spec["epoch"], spec["service"]
    if type(epoch) is not int or not isinstance(service, str):
        raise ValueError("epoch or service is mistyped")
    facts = {
        "service": service,
        "blueprint_ref": spec["plan"]["blueprint_ref"],
        "plan_digest": spec["execution"]["plan_digest"],
    }
    if isinstance(taken := spec["execution"].get("takeover"), dict):
        facts["taken_over_by"] = str(taken.get("by"))
    found["epoch"], found["facts"] = epoch, facts
    try:
        facts["epoch_seen"] = memory.epoch(service)
    except RecordError as exc:  # it refuses every start; a status shows it and goes on
        _faulty(found, exc.message, SEEN_HINT)


def _foreign(folders: Folders, run_id: str, why: str) -> dict[str, Any]:
    place = folders.runs / run_id
    state, hint = "running" if _lives(place) else "absent", FOLDER_HINT if disk.is_folder(place) else FOREIGN_HINT
    return _faulty({"run_id": run_id, "state": state, "epoch": 0}, why, hint)


def _lives(folder: Path) -> bool:
    """Whether a job of ours holds a folder that was opened to others since it began."""
    try:
        return disk.is_folder(folder) and os.lstat(folder).st_uid == os.geteuid() and disk.is_alive(folder)
    except OSError:
        return False


def _faulty(found: dict[str, Any], fault: str, hint: str) -> dict[str, Any]:
    """Add a fault, and what to do about it."""
    facts = found.setdefault("facts", {})
    facts["fault"] = f"{facts['fault']}; {fault}" if "fault" in facts else fault
    facts["hint"] = f"{facts['hint']}; {hint}" if facts.get("hint", hint) != hint else hint
    return found


def _object(path: Path) -> dict[str, Any]:
    value = json.loads(read_file(path, disk.FILE_MAX))
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _why(exc: BaseException) -> str:
    return str(exc.strerror) if isinstance(exc, OSError) else f"{type(exc).__name__}: {exc}"[:200]


def _named(exc: OSError, folder: Path) -> str:
    return f"{exc.filename or folder}: {exc.strerror}"
