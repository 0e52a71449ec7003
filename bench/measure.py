"""Timing and the table: medians and p95 of N runs, each beside its baseline from the same run."""

from __future__ import annotations

import math
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Series:
    """Seconds (or another unit) of N runs of one thing."""

    values: tuple[float, ...]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.values)

    def quantile(self, q: float) -> float:
        """The smallest value that at least `q` of the runs did not exceed."""
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(q * len(ordered)) - 1)]

    @property
    def p95(self) -> float:
        """The 95th percentile."""
        return self.quantile(0.95)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: Series
    unit: str = "s"
    baseline: Series | None = None
    baseline_name: str = ""
    goal: str = ""
    reached: bool | None = None
    incumbent: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times the baseline, by medians."""
        return None if self.baseline is None else self.measured.p50 / self.baseline.p50


@dataclass
class Table:
    """Collects rows and prints them as Markdown."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Keep a row and show it at once: a long bench should not be silent."""
        self.rows.append(row)
        print(self.line(row), flush=True)

    @staticmethod
    def line(row: Row) -> str:
        """One Markdown line."""

        def shown(value: float) -> str:
            return f"{value * 1000:.1f} ms" if row.unit == "s" and value < 1 else f"{value:.2f} {row.unit}"

        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x {row.baseline_name} ({shown(row.baseline.p50)})"  # type: ignore[union-attr]
        verdict = {True: "reached", False: "**missed**", None: ""}[row.reached]
        cells = [
            row.what,
            shown(row.measured.p50),
            shown(row.measured.p95),
            str(len(row.measured.values)),
            ratio,
            row.goal,
            verdict,
            row.incumbent,
            row.note,
        ]
        return "| " + " | ".join(cells) + " |"

    def markdown(self) -> str:
        """The whole table."""
        head = "| what | p50 | p95 | N | ratio to a baseline of the same run | goal | | incumbent | note |"
        return "\n".join([head, "|---|---|---|---|---|---|---|---|---|", *(self.line(row) for row in self.rows)]) + "\n"


def timed(action: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(count: int, *actions: Callable[[], object]) -> list[Series]:
    """Run the actions in turn `count` times, so that load on the machine hits all of them alike."""
    values: list[list[float]] = [[] for _ in actions]
    for _ in range(count):
        for index, action in enumerate(actions):
            values[index].append(timed(action))
    return [Series(tuple(v)) for v in values]


def command(*argv: str) -> Callable[[], object]:
    """A whole process as an action; a failing one stops the bench."""

    def run() -> object:
        return subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


def series(values: Sequence[float]) -> Series:
    """A series from what was measured elsewhere."""
    return Series(tuple(values))
