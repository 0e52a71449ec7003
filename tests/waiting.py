"""The waits of the tests: the only module of theirs that sleeps, so that each pause has a limit or a reason.

First choice is none of these: a fake clock, an `asyncio.Event` that the fake sets, a process that is waited for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 180.0
"""For anything that must come, on however slow or busy a machine: only what never comes is a fault."""


def wait_for(check: Callable[[], bool], what: str, limit_s: float = PATIENCE_S) -> None:
    """A server that starts has no event to wait for; this looks until it answers or the limit has passed."""
    end = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come up within {limit_s:g} s")
        time.sleep(0.02)


def freeze(pid: int) -> None:
    """SIGSTOP, and return when it has taken hold: on a busy machine another thread runs on for a while after it."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    wait_for(lambda: all(_state(task) in "TtZ" for task in tasks.iterdir()), f"process {pid} standing still")


def _state(task: Path) -> str:
    """One letter of proc(5); a thread that is gone counts as one that has ended."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


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
