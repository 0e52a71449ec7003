"""What a runner refuses of a new run without reading records (RUN-11, EXE-3, GEN-1). Standard library only.

Nothing here is signed yet, so nothing that is refused or let through changes what the runner remembers of a service.
"""

from __future__ import annotations

import time
from typing import Any

from hyops.errors import PrerequisiteError, RunnerBusyError, UnsafePlanError
from hyops.runner import cache, gc, staging, telling
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders

NEARLY_FULL = 0.9  # of `runs_max`; from here on every start makes room first
SHOWN_MAX = 20  # open runs in an error
ROOM_RUNS = 20  # removed by one start at most, so that it is not late


def admit_cheaply(config: RunnerConfig, found: Folders, spec: dict[str, Any]) -> None:
    """Return when a spec may be staged here; the caller holds the lock, and the job judges the rest."""
    service = spec["service"]
    found.refuse_old(service, epoch=spec["epoch"], generation=spec["generation"])
    found.refuse_leap(service, epoch=spec["epoch"])
    if spec["plan"].get("runner_ref") != config.runner_ref:
        raise UnsafePlanError(f"the plan is for {spec['plan'].get('runner_ref')!r}, not {config.runner_ref!r}")
    runs = found.run_ids()
    nearly_full = len(runs) >= config.runs_max * NEARLY_FULL
    if nearly_full and gc.make_room(found, runs, now=time.time(), keep_s=config.keep_finished_s, most=ROOM_RUNS):
        runs = found.run_ids()
    if len(runs) >= config.runs_max:
        raise PrerequisiteError(
            f"{len(runs)} runs lie here, of at most {config.runs_max}, and none of them may go yet",
            hint="`hyops runner gc --dry-run` says why each one stays",
        )
    telling.refuse_beside_open(found, service)
    for name, digest in spec["plan"].get("bundle", {}).items():
        if not cache.Cache(found).has(str(digest)):
            raise PrerequisiteError(f"bundle file {name!r} ({digest}) is not staged")
    staging.need_room(config, 0)
    refuse_busy(config, found)


def refuse_busy(config: RunnerConfig, found: Folders) -> None:
    """Return when one more run may be open here; the caller holds the lock.

    One that is interrupted counts: its job may be started again at any moment.
    """
    opened = [f"{run['run_id']} ({run['state']})" for run in telling.open_statuses(found)]
    if len(opened) >= config.runs_at_once:
        shown = ", ".join(opened[:SHOWN_MAX]) + (", ..." if len(opened) > SHOWN_MAX else "")
        raise RunnerBusyError(
            f"{config.runner_ref}: {len(opened)} runs are open, of at most {config.runs_at_once} at once: {shown}"
        )
