"""From a decision record to the attempt to run it, under a standing approval: three hand-overs between processes.

The clock starts before the decision is written durably and stops when the attempt's file is seen by inotify. Trials
are a random pause apart, so the stages are idle when a decision comes, and none of them is warm from the last one.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from asyncinotify import Inotify, Mask

from bench.measure import Row, Series, Table, series
from bench.stages import Stages

OLD_CHAINS = 2_500
"""Four records each, so 10,000 old records lie in the folders."""
PAUSE_S = (0.05, 0.4)
PAUSE_AFTER_START_S = 1.0
TRIAL_LIMIT_S = 60.0
GOAL_P50_S, GOAL_P99_S = 0.050, 0.250


def run(table: Table, count: int) -> None:
    """Empty folders first, then the same among 10,000 records that are done with."""
    first = after_start(max(3, count // 20))
    table.add(Row("decision record -> attempt, the first after a start", first, incumbent="17.5 s"))
    for old, words in ((0, "empty folders"), (OLD_CHAINS, f"{4 * OLD_CHAINS:,} old records")):
        found, fsync = measure(count, old)
        p99 = found.quantile(0.99)
        table.add(
            Row(
                f"decision record -> attempt, {words}",
                found,
                baseline=fsync,
                baseline_name="write + fsync of a record",
                goal="p50 <= 50 ms, p99 <= 250 ms",
                reached=found.p50 <= GOAL_P50_S and p99 <= GOAL_P99_S,
                incumbent="17.5 s",
                note=f"p99 {p99 * 1000:.0f} ms; four processes, standing approval, OpenSSH verifies",
            )
        )


def after_start(count: int) -> Series:
    """Seconds of the first decision after a start of the stages: nothing was done before that could warm them."""
    found = []
    for number in range(count):
        with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder:
            stages = Stages(Path(folder))
            stages.stand()
            with stages.running():
                time.sleep(PAUSE_AFTER_START_S)
                found.append(trial(stages, str(number)))
    return series(found)


def measure(count: int, old: int) -> tuple[Series, Series]:
    """Seconds from record to attempt, and of a plain durable write in the same folder, taken in turn."""
    with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder:
        stages = Stages(Path(folder))
        approval = stages.stand()
        stages.chains(old, approval)
        with stages.running():
            trial(stages, "first")  # the stages have read what lies there
            pairs = [(trial(stages, str(number)), plain_write(stages)) for number in range(count)]
    return series([a for a, _ in pairs]), series([b for _, b in pairs])


def trial(stages: Stages, name: str) -> float:
    """One decision, from the moment before it is written until its attempt stands."""
    time.sleep(random.uniform(*PAUSE_S))
    attempts = stages.directory("execution", "attempts")
    attempts.mkdir(parents=True, exist_ok=True)
    store, decision = stages.store("decision", "records"), stages.decision(datetime.now(UTC), name)
    encoded = decision.encoded()
    with Inotify(sync_timeout=TRIAL_LIMIT_S) as inotify:
        inotify.add_watch(attempts, Mask.CREATE)
        started = time.perf_counter()
        store.create(decision.decision_id, encoded)
        while (event := inotify.sync_get()) is not None:
            if str(event.name).startswith("attempt-"):
                return time.perf_counter() - started
    raise TimeoutError(f"no attempt within {TRIAL_LIMIT_S:g} s; see {stages.folder}/*.log")


def plain_write(stages: Stages) -> float:
    """The floor: one durable write of as many bytes by this process."""
    data, path = stages.decision(datetime.now(UTC), "floor").encoded(), stages.folder / "floor"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    return time.perf_counter() - started
