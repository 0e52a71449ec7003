"""`make simulate SCHEDULES=n SEED=n`: plays that many schedules on all cores, and says what held and what was met.

It may be stopped and started again: what was played is kept in a file, chunk by chunk. A schedule that breaks an
invariant is shrunk and printed with the one command that plays it again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simulation.coverage import table, unmet
from simulation.schedule import Schedule, drawn, play, shrunk

CHUNK = 200
SAYS_EVERY_S = 5.0
FAULTS_KEPT = 20


def chunk(first_last: tuple[int, int]) -> dict[str, Any]:
    """Play these seeds; what was met, how many steps it took, and the faults by seed."""
    met: Counter[str] = Counter()
    faults: dict[str, str] = {}
    steps = 0
    for seed in range(*first_last):
        played = play(drawn(seed))
        met += played.met
        steps += played.steps
        if played.fault is not None:
            faults[str(seed)] = played.fault
    return {"first": first_last[0], "met": met, "faults": faults, "steps": steps}


def command(schedule: Schedule) -> str:
    """What plays this schedule again."""
    return (
        f"HYOPS_SEED={schedule.seed} HYOPS_SCHEDULE='{schedule.as_json()}' "
        ".bootstrap/bin/uv run --frozen pytest -q tests/simulation/test_schedules.py -k given"
    )


def smallest(seed: int) -> tuple[Schedule, str]:
    """A failing seed's schedule with the fewest events that still fail, and how."""
    small = shrunk(drawn(seed), lambda schedule: play(schedule).fault is not None)
    return small, play(small).fault or "it does not fail any more"


class Kept:
    """What was played so far, in a file that is replaced as a whole."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        told = json.loads(path.read_text()) if path.exists() else {}
        told = told if told.get("seed") == seed else {"seed": seed}
        self.done = {int(first) for first in told.get("done", [])}
        self.met: Counter[str] = Counter(told.get("met", {}))
        self.faults: dict[str, str] = told.get("faults", {})
        self.steps, self.seconds, self._seed = int(told.get("steps", 0)), float(told.get("seconds", 0.0)), seed

    def add(self, played: dict[str, Any], seconds: float) -> None:
        """One more chunk."""
        self.done.add(played["first"])
        self.met += played["met"]
        self.faults |= played["faults"]
        self.steps += played["steps"]
        self.seconds += seconds
        self._path.parent.mkdir(parents=True, exist_ok=True)
        body = {
            "seed": self._seed,
            "done": sorted(self.done),
            "met": self.met,
            "faults": self.faults,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
        }
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(body))
        os.replace(fresh, self._path)


def main(words: list[str]) -> int:
    """0: all held. 1: something did not. 130: stopped."""
    asked = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    asked.add_argument("--schedules", type=int, default=10_000)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked.add_argument("--state", type=Path, default=Path(".simulate/state.json"))
    given = asked.parse_args(words)
    kept = Kept(given.state, given.seed)
    firsts = [given.seed + n for n in range(0, given.schedules, CHUNK)]
    todo = [(first, min(first + CHUNK, given.seed + given.schedules)) for first in firsts if first not in kept.done]
    print(f"{given.schedules} schedules from seed {given.seed}; {len(firsts) - len(todo)} of {len(firsts)} chunks done")
    stopped = False
    try:
        for played, seconds in _spread(todo, given.jobs):
            kept.add(played, seconds)
            _progress(kept, len(firsts))
    except KeyboardInterrupt:
        stopped = True
    _say_all(kept, given.schedules)
    if stopped:
        print("stopped; the same command goes on from here")
        return 130
    return 1 if kept.faults else 0


def _spread(todo: list[tuple[int, int]], jobs: int) -> Iterator[tuple[dict[str, Any], float]]:
    before = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(max(1, jobs)) as pool:
        for played in pool.imap_unordered(chunk, todo):
            now = time.monotonic()
            yield played, now - before
            before = now


_said_at = [0.0]


def _progress(kept: Kept, chunks: int) -> None:
    now = time.monotonic()
    if now - _said_at[0] < SAYS_EVERY_S and len(kept.done) < chunks:
        return
    _said_at[0] = now
    played = len(kept.done) * CHUNK
    rate = played / kept.seconds if kept.seconds else 0.0
    print(f"{played} schedules, {kept.steps} events, {rate:.0f} schedules/s, {len(kept.faults)} faults", flush=True)


def _say_all(kept: Kept, wanted: int) -> None:
    print(table(kept.met))
    if missing := unmet(kept.met):
        print(f"not met in {len(kept.done) * CHUNK} schedules: {', '.join(missing)}")
    for seed, fault in sorted(kept.faults.items(), key=lambda item: int(item[0]))[:FAULTS_KEPT]:
        small, how = smallest(int(seed))
        print(f"\nseed {seed}: {fault}\n  {len(small.events)} events are enough: {how}\n  {command(small)}")
    print(f"\n{wanted} schedules asked for, {len(kept.faults)} with a fault, {kept.steps} events")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
