"""A failed run that had promoted goes on (fault 27): what is asked for, refused and kept in its folder (RUN-5, GEN-1).

`reopen.json` beside the run says that it was asked to go on: from then on the run is open, whatever else lies there, so
a crash at any line leaves a run that is resumed like every other. The job asks every step's preflight first; where that
refuses, `reopen-refused.json` says why, and the run stays as it ended. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyops.errors import HyopsError, PrerequisiteError, RecordError, StaleGenerationError
from hyops.model import wire
from hyops.runner import folders as disk
from hyops.runner import telling
from hyops.runner.folders import REOPEN, Folders, read_file, write_file

REFUSED = "reopen-refused.json"
WORDS_MAX = 1000


def ask(folders: Folders, run_id: str, *, by: str, reason: str) -> None:
    """Mark a finished run as to be continued; the caller holds the lock and launches the job.

    Raises:
        PrerequisiteError: its end is not one that a run goes on from, or another run of the service is open here.
        StaleGenerationError: this runner knows of a later generation of the service.
    """
    folder = folders.run(run_id)
    ended = _ended(folder)
    if ended.get("outcome") != "failed" or not _promoted(ended):
        raise PrerequisiteError(
            f"run {run_id} is finished ({ended.get('outcome')}): there is nothing to resume",
            hint="`hyops run show` says how it ended; only a run that failed after its promotion goes on. Ask for a "
            "new one with `hyops decision request`",
        )
    service, newest = str(ended["service"]), ended["generation_after"]
    seen = folders.seen(service).generation
    if seen > newest:
        raise StaleGenerationError(f"run {run_id} made generation {newest} of {service}, which is at {seen} by now")
    telling.refuse_beside_open(folders, service, but=run_id)
    for name in (REFUSED, "cancel.json"):  # both are about the life that has ended
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    write_file(folder / REOPEN, json.dumps({"by": by[:WORDS_MAX], "reason": reason[:WORDS_MAX]}).encode())


def asked(folder: Path) -> dict[str, str] | None:
    """Who asked for the run to go on, and why; None when nobody did."""
    try:
        value = json.loads(read_file(folder / REOPEN, 8192))
        return {"by": str(value["by"]), "reason": str(value["reason"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise RecordError(f"{folder / REOPEN}: damaged ({exc})", hint="remove it, then resume the run") from exc


def keep_result(folder: Path) -> str | None:
    """Set the result of the end before aside as `result.N.json`; its name. None when that was done before a crash."""
    number = 1 + sum(1 for name in os.listdir(folder) if name.startswith("result.") and name != "result.json")
    name = f"result.{number}.json"
    try:
        os.rename(folder / "result.json", folder / name)
    except FileNotFoundError:
        return None
    disk.sync_folder(folder)
    return name


def done(folder: Path) -> None:
    """The journal says by now that the run goes on."""
    with contextlib.suppress(FileNotFoundError):
        (folder / REOPEN).unlink()
    disk.sync_folder(folder)


def refuse(folder: Path, error: HyopsError) -> None:
    """It may not go on: say why, and leave it as it ended."""
    write_file(folder / REFUSED, json.dumps(error.as_json()).encode())
    done(folder)


def refused(folder: Path) -> HyopsError | None:
    """Why the last request was refused; None when it was not."""
    try:
        return wire.error_of(json.loads(read_file(folder / REFUSED, disk.FILE_MAX)))
    except FileNotFoundError:
        return None


def _ended(folder: Path) -> dict[str, Any]:
    value = json.loads(read_file(folder / "result.json", disk.FILE_MAX))
    return value if isinstance(value, dict) else {}


def _promoted(ended: Mapping[str, Any]) -> bool:
    """It named a new primary under the generation that it made itself: only the rest of the switch is left."""
    after, before = ended.get("generation_after"), ended.get("generation_before")
    return ended.get("primary_after") is not None and type(before) is int and after == before + 1
