"""What the engine adds to a step: a plan of k no-op steps against a plan of one, journal and fsync included."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench.measure import Row, Table, interleaved, series
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.driver_native_noop import NoopDriver
from hyops.engine.journal import Journal
from hyops.engine.run import Run
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome
from hyops.testing.runs import plan_of, spec_of, step

STEPS = 21
GOAL_S = 0.020


def run(table: Table, count: int) -> None:
    """Seconds a step, in a chain where each waits for the one before."""
    with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder:
        one, many = spec(1), spec(STEPS)
        numbers = iter(range(10 * count))
        first, whole = interleaved(
            count,
            lambda: execute(one, Path(folder) / f"{next(numbers)}"),
            lambda: execute(many, Path(folder) / f"{next(numbers)}"),
        )
    found = series([(b - a) / (STEPS - 1) for a, b in zip(first.values, whole.values, strict=True)])
    table.add(
        Row(
            "a native step's own overhead",
            found,
            baseline=first,
            baseline_name="a whole run of one step",
            goal="<= 20 ms",
            reached=found.p50 <= GOAL_S,
            incumbent="0.94 s",
            note=f"({STEPS} steps - 1 step) / {STEPS - 1}; each step has an intent and an outcome, fdatasynced",
        )
    )


def spec(steps: int) -> RunSpec:
    """A chain of no-op steps."""
    names = [f"s{number}" for number in range(steps)]
    chain = [step(name, *names[max(0, n - 1) : n], module="native/noop") for n, name in enumerate(names)]
    return spec_of(plan_of(chain), at=datetime.now(UTC))


def execute(spec: RunSpec, folder: Path) -> None:
    """One run with a journal of its own."""
    folder.mkdir()
    with Journal(folder / "journal.jsonl") as journal:
        journal.append("run-opened", {"admitted": True}, at="2026-01-01T00:00:00.000000Z", t=0.0)
        finish = asyncio.run(Run(spec, journal, {"native/noop": NoopDriver()}, SystemClock()).execute())
    assert finish.outcome is Outcome.SUCCEEDED
