"""What a runner says of itself before anything is asked of it, its time included. Standard library only."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from hyops.errors import ConfigError, RunnerAbsentError
from hyops.runner import kernel_clock, telling, versions
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders


def configured(path: Path) -> RunnerConfig:
    """The configuration that makes this host a runner.

    Raises:
        RunnerAbsentError: there is none. ConfigError: it is wrong, and a runner may stand here.
    """
    try:
        return RunnerConfig.load(path)
    except ConfigError as exc:
        if not isinstance(exc.__cause__, FileNotFoundError):
            raise
        why = f"{path} is not there: hyops is installed on that host, and nobody made it a runner"
        raise RunnerAbsentError(why) from exc


def said(config: RunnerConfig, folders: Folders, *, ntp: bool) -> dict[str, Any]:
    """The greeting; with `ntp` also whether the kernel says that the clock is kept."""
    free = os.statvfs(config.root)
    return {
        "runner_ref": config.runner_ref,
        "site": config.site,
        **versions.hello(),
        "disk_free_bytes": free.f_bavail * free.f_frsize,
        "open_runs": [str(run["run_id"]) for run in telling.open_statuses(folders)],
        **({"ntp": kernel_clock.synced()} if ntp else {}),
        "time_s": time.time(),  # last, so that what was looked up counts as the way here
    }
