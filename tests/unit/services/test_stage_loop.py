"""The loop that every stage runs in: events wake it, and however many there are, the slow pass comes in time."""

from __future__ import annotations

import asyncio

import pytest

from hyops.errors import PrerequisiteError
from hyops.services import loop
from hyops.services.loop import Waker

LIMIT_S = 20.0


async def passes(rescan_s: float, wanted: int, fails: int = 0) -> list[bool]:
    """The slow flag of each pass of a stage that is woken without a pause, until `wanted` slow ones have ended well."""
    waker, enough, seen = Waker(), asyncio.Event(), list[bool]()

    async def step(slow: bool) -> None:
        await asyncio.sleep(0)  # other tasks wake a real stage
        seen.append(slow)
        waker.wake()
        if len(seen) <= fails:
            raise PrerequisiteError("the disk is full")
        if seen[fails:].count(True) >= wanted:
            enough.set()

    task = asyncio.create_task(loop._steps(step, waker, "test", rescan_s))
    async with asyncio.timeout(LIMIT_S):
        await enough.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return seen


@pytest.mark.req("LOOP-1")
def test_a_storm_of_events_does_not_starve_the_slow_pass() -> None:
    """Woken again before each pass ends: slow passes still come, and most passes are quick ones."""
    seen = asyncio.run(passes(0.05, wanted=3))

    assert seen[0] is True
    assert seen.count(False) > seen.count(True) == 3


def test_a_slow_pass_that_fails_is_slow_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rescan at the start fails: the next pass is the rescan, not a quick one."""
    monkeypatch.setattr(loop, "ERROR_PAUSE_S", (0.0, 0.0))
    seen = asyncio.run(passes(3600.0, wanted=1, fails=2))

    assert seen == [True, True, True]
