"""The fault matrix of a full run: fault, expected, seen, trials, seed; printed, and written as a page of the docs.

And how workers of one run help each other (`workers`), and that no test selects a root for the next one.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import workers
from fault_size import FULL, SEED, TRIALS
from hyops.cli.root import SELECTING
from hyops.testing.requirements import RULES, read_rules

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "fault-matrix.md"
PHASES_THAT_COUNT = {"passed": ("call",), "failed": ("setup", "call", "teardown"), "skipped": ("setup", "call")}

shows = pytest.StashKey[dict[str, list[str]]]()
seen = pytest.StashKey[dict[str, Counter[str]]]()


@pytest.fixture(autouse=True)
def _no_root_selected() -> Iterator[None]:
    """A job that a test ran in this process has selected one for those after it."""
    yield
    for name in SELECTING:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _no_session_left() -> Iterator[None]:
    """A command that a test ran in this process keeps its session with etcd: the etcd of that test is gone."""
    yield
    store = sys.modules.get("hyops.compose_store")
    while store is not None and store.SESSIONS:
        store.SESSIONS.popitem()[1].close()


def pytest_configure(config: pytest.Config) -> None:
    """Start with an empty matrix, and with no root selected by whoever runs the tests."""
    for name in SELECTING:
        os.environ.pop(name, None)
    workers.keep_compiled()
    if workers.WORKER:
        config.pluginmanager.register(workers.Worker())
    config.stash[shows], config.stash[seen] = {}, defaultdict(Counter)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remember which faults each test shows."""
    for item in items:
        numbers = [str(number) for mark in item.iter_markers("fault") for number in mark.args]
        config.stash[shows][item.nodeid] = numbers


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    """Count how each test ended; a skipped trial is no trial."""
    report: pytest.TestReport = yield  # type: ignore[misc]
    if report.when in PHASES_THAT_COUNT[report.outcome]:
        for number in item.config.stash[shows][item.nodeid]:
            item.config.stash[seen][number][report.outcome] += 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print and write the matrix of a full run."""
    if not FULL:
        return
    expected = read_rules(ROOT / RULES).faults
    rows = [
        f"| {number} | {text} | {told(config.stash[seen][number])} | {config.stash[seen][number].total()} |"
        for number, text in expected.items()
    ]
    page = [
        "# Fault matrix",
        "",
        f"The last full run of `make faults`: seed {SEED}, {TRIALS} trials where a fault is tried repeatedly.",
        "",
        "| Fault | Expected | Seen | Tests and trials |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
    PAGE.write_text("\n".join(page) + "\n", encoding="utf-8")
    terminalreporter.section("fault matrix")
    terminalreporter.write_line("\n".join(page[2:]))


def told(counted: Counter[str]) -> str:
    """`as expected`, or what came instead."""
    if not counted:
        return "not tried"
    if set(counted) == {"passed"}:
        return "as expected"
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counted.items()))
