"""What the workers of one run (`pytest -n 4`) share, so that none of it is made four times.

The dearest part of a start is pytest's rewriting of `assert` in two hundred modules. Its results are kept beside the
modules, but workers that begin together and walk the tree in the same order all make the same file at the same time.
"""

from __future__ import annotations

import gc
import os
import random
import sys

import pytest

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")


def keep_compiled() -> None:
    """Have the run and all of its processes keep what they compile, whatever the environment says about it."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


class Worker:
    """Walks the tree in an order of its own, and hands the tests over in the order of everybody."""

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> object:
        """Shuffle what is in a folder, with the worker's name for a seed."""
        report: pytest.CollectReport = yield  # type: ignore[misc]
        if isinstance(collector, pytest.Directory):
            random.Random(f"{WORKER} {collector.nodeid}").shuffle(report.result)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """By path; within a module as they stand there."""
        items.sort(key=lambda item: item.path)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        """Modules and tests stay until the end: the collector need not walk over them each time."""
        gc.collect()
        gc.freeze()
