"""Which run a command is about: a typo is a usage error, and a silent runner is not passed over in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hyops.cli import run
from hyops.errors import RunnerUnreachableError, UsageError
from hyops.ports.look import Look
from hyops.ports.transport import RunStatus

pytestmark = pytest.mark.req("UX-1", "UX-2")
OLD, NEW = "run-20260314T030008Z-1a2b3c4d", "run-20260315T030008Z-1a2b3c4d"


class Runners:
    """Runners with jobs; None: it does not answer."""

    def __init__(self, **jobs: list[RunStatus] | None) -> None:
        self._jobs = jobs
        self.never: set[str] = set()

    @asynccontextmanager
    async def connect(self, ref: str, look: Look) -> AsyncIterator[Any]:
        """A session that lists the jobs."""
        jobs = self._jobs[ref]
        if ref in self.never:
            await asyncio.Event().wait()
        if jobs is None:
            raise RunnerUnreachableError("no route")

        class Session:
            async def differs(self) -> None:
                return None

            async def jobs(self) -> list[RunStatus]:
                return jobs

        yield Session()


def find(run_id: str | None, **jobs: list[RunStatus] | None) -> str:
    """The run that is found."""
    _, status = asyncio.run(run.find(Runners(**jobs), list(jobs), run_id))  # type: ignore[arg-type]
    return status.run_id


def test_a_runner_that_is_not_configured_is_a_usage_error() -> None:
    """Exit 2, naming those that there are; not 22, which says that a link is gone."""
    assert run.chosen(["onprem", "cloud"], None) == ["onprem", "cloud"]
    assert run.chosen(["onprem", "cloud"], "cloud") == ["cloud"]
    with pytest.raises(UsageError, match=r"zzz.*cloud, onprem"):
        run.chosen(["onprem", "cloud"], "zzz")


def test_the_latest_run_is_not_guessed_while_a_runner_is_silent() -> None:
    """It may have the latest one: say so. A run that is named, or open on a runner that answers, is found."""
    old = [RunStatus(OLD, "finished")]
    assert find(None, onprem=old, cloud=[RunStatus(NEW, "finished")]) == NEW
    with pytest.raises(RunnerUnreachableError, match=r"the latest run.*cloud: no route"):
        find(None, onprem=old, cloud=None)
    assert find(OLD, onprem=old, cloud=None) == OLD
    assert find(None, onprem=[RunStatus(OLD, "running")], cloud=None) == OLD
    with pytest.raises(RunnerUnreachableError, match="no route"):
        find(NEW, onprem=old, cloud=None)


@pytest.mark.req("RUN-11")
def test_a_run_that_was_found_waits_for_no_silent_runner() -> None:
    """With its id the first runner that has it decides; the others are let go."""
    runners = Runners(onprem=None, cloud=[RunStatus(NEW, "running")])
    runners.never.add("onprem")

    found = asyncio.run(asyncio.wait_for(run.find(runners, ["onprem", "cloud"], NEW), 60.0))  # type: ignore[arg-type]

    assert found[0] == "cloud"
