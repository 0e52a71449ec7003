"""From a decision record to the attempt to run it, under a standing approval: three hand-overs between processes.

The clock starts before the decision is written durably and stops when the attempt is seen by somebody who watches: by
inotify where records are in files, by a watch of a client's own where they are in an etcd of three members. Trials are
a random pause apart, so the stages are idle when a decision comes, and none of them is warm from the last one.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from asyncinotify import Inotify, Mask

from bench.etcd import MEMBERS, Arrivals, cluster
from bench.measure import Row, Series, Table, series
from bench.stages import Stages
from hyops.adapters.etcd_records_keys import Keys
from hyops.model.etcd import EtcdStore
from hyops_lab.wiring import service

OLD_CHAINS = 2_500
"""Four records each, so 10,000 old records lie in the store."""
PAUSE_S = (0.05, 0.4)
PAUSE_AFTER_START_S = 1.0
TRIAL_LIMIT_S = 60.0
FIRST_LIMIT_S = 300.0
"""The first one waits until the stages have read, one by one, all that lies there."""
GOAL_P50_S, GOAL_P99_S = {"files": 0.050, "etcd": 0.025}, 0.250
SEEN = Callable[[float], float]
"""Waits that many seconds for the next attempt; returns when it was seen, by `time.perf_counter`."""


def run(table: Table, count: int) -> None:
    """The first one after a start; then on files and on etcd, each without old records and among 10,000 of them."""
    first = after_start(max(3, count // 20))
    table.add(Row("decision record -> attempt, the first after a start", first, incumbent="17.5 s"))
    for place, words in (("files", "files"), ("etcd", f"etcd of {MEMBERS} members")):
        for old, among in ((0, "no old records"), (OLD_CHAINS, f"{4 * OLD_CHAINS:,} old records")):
            found, floor = measure(count, old, place)
            p50_s, p99 = GOAL_P50_S[place], found.quantile(0.99)
            table.add(
                Row(
                    f"decision record -> attempt, {words}, {among}",
                    found,
                    baseline=floor,
                    baseline_name="write + fsync of a record" if place == "files" else "one creation in the same etcd",
                    goal=f"p50 <= {p50_s * 1000:g} ms, p99 <= {GOAL_P99_S * 1000:g} ms",
                    reached=found.p50 <= p50_s and p99 <= GOAL_P99_S,
                    incumbent="17.5 s",
                    note=f"p99 {p99 * 1000:.0f} ms; four processes, standing approval, OpenSSH verifies",
                )
            )


def after_start(count: int) -> Series:
    """Seconds of the first decision after a start of the stages: nothing was done before that could warm them."""
    found = []
    for number in range(count):
        with standing("files") as (stages, _), stages.running(), attempts(stages) as seen:
            time.sleep(PAUSE_AFTER_START_S)
            found.append(trial(stages, str(number), seen))
    return series(found)


def measure(count: int, old: int, place: str) -> tuple[Series, Series]:
    """Seconds from record to attempt, and of one durable write to the same place, taken in turn."""
    with standing(place, old) as (stages, floor), stages.running(), attempts(stages) as seen:
        trial(stages, "first", seen, FIRST_LIMIT_S)  # the stages have read what lies there
        pairs = [(trial(stages, str(number), seen), floor(number)) for number in range(count)]
    return series([a for a, _ in pairs]), series([b for _, b in pairs])


@contextmanager
def standing(place: str, old: int = 0) -> Iterator[tuple[Stages, Callable[[int], float]]]:
    """Four stages with what they need and `old` chains of records; and what one durable write there takes."""
    with tempfile.TemporaryDirectory(prefix="hyops-bench-") as name:
        folder = Path(name)
        if place == "files":
            stages = Stages(folder)
            stages.chains(old, stages.stand())
            yield stages, lambda _: plain_write(stages)
            return
        with cluster(folder / "etcd") as endpoints:
            stages = Stages(folder, etcd=EtcdStore(endpoints=endpoints, env=service.ENV))
            stages.chains(old, stages.stand())
            yield stages, lambda number: creation(stages, number)


@contextmanager
def attempts(stages: Stages) -> Iterator[SEEN]:
    """Whoever waits for an attempt to stand, as an eye outside the four stages."""
    if stages.etcd is not None:
        with Arrivals(stages.etcd.endpoints, Keys(stages.etcd.env, "execution", "attempts")) as arrivals:
            yield arrivals.next
        return
    folder = stages.directory("execution", "attempts")
    folder.mkdir(parents=True, exist_ok=True)
    with Inotify() as inotify:
        inotify.add_watch(folder, Mask.CREATE)

        def seen(limit_s: float) -> float:
            inotify.sync_timeout = limit_s
            while (event := inotify.sync_get()) is not None:
                if str(event.name).startswith("attempt-"):
                    return time.perf_counter()
            raise TimeoutError(f"no attempt within {limit_s:g} s")

        yield seen


def trial(stages: Stages, name: str, seen: SEEN, limit_s: float = TRIAL_LIMIT_S) -> float:
    """One decision, from the moment before it is written until its attempt stands."""
    time.sleep(random.uniform(*PAUSE_S))
    store, decision = stages.store("decision", "records"), stages.decision(datetime.now(UTC), name)
    encoded = decision.encoded()
    started = time.perf_counter()
    store.create(decision.decision_id, encoded)
    try:
        return seen(limit_s) - started
    except TimeoutError as exc:
        logs = [f"{log.name}: {log.read_text()[-1000:]}" for log in sorted(stages.folder.glob("*.log"))]
        raise TimeoutError("\n".join([str(exc), *logs])) from exc


def plain_write(stages: Stages) -> float:
    """The floor of files: one durable write of as many bytes by this process."""
    data, path = stages.decision(datetime.now(UTC), "floor").encoded(), stages.folder / "floor"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    return time.perf_counter() - started


def creation(stages: Stages, number: int) -> float:
    """The floor of etcd: one such record created by this process, of a kind that no stage reads."""
    store, decision = stages.store("bench", "floor"), stages.decision(datetime.now(UTC), f"floor {number}")
    encoded = decision.encoded()
    started = time.perf_counter()
    store.create(decision.decision_id, encoded)
    return time.perf_counter() - started
