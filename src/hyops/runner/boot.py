"""What a runner does when its host comes up: open runs go on (RUN-5). Standard library only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from hyops.errors import HyopsError, PrerequisiteError
from hyops.runner import gc, launch, staging, telling, versions
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders


def resume_all(config: RunnerConfig, left: Callable[[HyopsError], None] | None = None) -> list[str]:
    """Start the job of every open run: the boot unit's work. One that cannot go on is `left`, and stops no other."""
    folders = Folders(config.root, config.secrets_dir)
    folders.make()
    with folders.locked():
        gc.empty_trash(folders)
    staging.sweep(folders, now=time.time())
    opened = [run for run in telling.open_statuses(folders) if run["state"] != "running"]
    resumed = []
    for run in opened:
        run_id = str(run["run_id"])
        try:
            versions.refuse_journal(folders.run(run_id))
            with folders.locked():
                telling.refuse_beside_open(folders, telling.service_of(run), but=run_id)
            launch.launch(config, folders, run_id)
        except (HyopsError, OSError) as exc:
            (left or _say_left)(exc if isinstance(exc, HyopsError) else _unreadable(run_id, exc))
        else:
            resumed.append(run_id)
    return resumed


def _say_left(exc: HyopsError) -> None:
    print(f"hyops: not resumed: {exc.message}; next: {exc.hint}", file=sys.stderr)  # noqa: T201  # the answer itself


def _unreadable(run_id: str, exc: OSError) -> HyopsError:
    return PrerequisiteError(f"{run_id}: {exc.filename or 'its files'}: {exc.strerror}", hint=telling.DAMAGED_HINT)


def run(config: RunnerConfig) -> int:
    """Exit code of the boot unit: what stays behind shows in `systemctl --failed`."""
    left: list[HyopsError] = []
    for run_id in resume_all(config, left.append):
        print(f"resumed {run_id}")  # noqa: T201  # the answer itself
    for exc in left:
        _say_left(exc)
    return left[-1].exit_code if left else 0
