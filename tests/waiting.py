"""The waits of the tests: the only module of theirs that sleeps, so that each pause has a limit or a reason.

First choice is none of these: a fake clock, an `asyncio.Event` that the fake sets, a process that is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 180.0
"""For anything that must come, on however slow or busy a machine: only what never comes is a fault."""


def wait_for(check: Callable[[], bool], what: str, limit_s: float = PATIENCE_S) -> None:
    """A server that starts has no event to wait for; this looks until it answers or the limit has passed."""
    end = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come up within {limit_s:g} s")
        time.sleep(0.02)


async def until(check: Callable[[], bool], what: str, limit_s: float) -> float:
    """How long it took until `check` held, for what works beside us in real time and tells nobody."""
    started = time.monotonic()
    while not check():
        assert time.monotonic() - started < limit_s, f"{what}: not within {limit_s:g} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def throughout(check: Callable[[], None], seconds: float) -> None:
    """`check` raises nothing, all the time: that a thing does not happen shows only in time in which it could."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check()
        await asyncio.sleep(0.02)


def stand_still(seconds: float, why: str) -> None:
    """This thread and its event loop do nothing, because what is tested is that time passes: `why` says for whom."""
    assert why
    time.sleep(seconds)


async def let_pass(seconds: float, why: str) -> None:
    """This task waits and others go on, because a clock that is not ours has to move: `why` says whose."""
    assert why
    await asyncio.sleep(seconds)
