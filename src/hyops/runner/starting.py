"""A run begins on its runner, asked for over a link or by a takeover on the spot: one way for both (RUN-5, EXE-3).

What is cheap and belongs to the runner as a whole is checked here, under its lock; whether the run may make effects is
judged by the job itself (`admission`), before its first act. Standard library only.
"""

from __future__ import annotations

import json
from typing import Literal

from hyops.errors import PrerequisiteError
from hyops.runner import cache, decided, door, gc, launch, offer, room, telling, versions
from hyops.runner import folders as disk
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders, read_file


def start(
    config: RunnerConfig, folders: Folders, spec_bytes: bytes, secrets: dict[str, str]
) -> Literal["started", "existing"]:
    """Start once, and wait until the job has admitted the run; a refusal is raised as the job's own error."""
    spec = offer.spec(spec_bytes)
    run_id = str(spec["run_id"])
    folder = folders.run(run_id)
    with folders.locked():
        known = decided.size(folder / "journal.jsonl")  # before the state: what a job adds in between is news
        state = folders.state(run_id)
        if state == "absent":
            offer.only_run(spec)
            offer.fitting_secrets(spec, secrets, sealed_only=config.seal_key is not None)
            gc.refuse_reaped(folders, run_id)
            door.admit_cheaply(config, folders, spec)
            folders.raise_seen_locked(spec["service"])  # the file alone: its numbers are the job's to raise
            folder.mkdir(mode=0o700, exist_ok=True)
            disk.check_ours(folder)
            disk.sync_folder(folders.runs)
            room.write_first(folder / "spec.json", spec_bytes)
            cache.drop_offer(folders, run_id)
        else:
            folders.refuse_old(spec["service"], epoch=spec["epoch"], generation=2**53)
            folders.refuse_leap(spec["service"], epoch=spec["epoch"])
            offer.same_run(json.loads(read_file(folder / "spec.json", offer.SPEC_MAX)), spec)
            if state not in ("finished", "running"):
                telling.refuse_beside_open(folders, spec["service"], but=run_id)
                versions.refuse_journal(folder)
                offer.fitting_secrets(spec, secrets, sealed_only=config.seal_key is not None)
        if state not in ("finished", "running"):
            _launch(config, folders, run_id, secrets, fresh=state == "absent")
    if state in ("finished", "running"):
        return "existing"
    decided.admitted(folder, known, config.start_wait_s, decided.probing_s(config.options))
    if state != "absent" and decided.was_admitted(folder):  # by what it was staged with; now by this start as well
        folders.raise_seen(spec["service"], epoch=spec["epoch"])
    return "started" if state == "absent" else "existing"


def _launch(config: RunnerConfig, folders: Folders, run_id: str, secrets: dict[str, str], *, fresh: bool) -> None:
    """Start the job. A fresh run that certainly could not be started is taken back: it must not start later."""
    try:
        folders.put_secrets(run_id, secrets)
        launch.launch(config, folders, run_id)
    except PrerequisiteError:
        if fresh:
            folders.drop_secrets(run_id)
            (folders.run(run_id) / "spec.json").unlink()
            disk.sync_folder(folders.run(run_id))
        raise
