"""The executor as a daemon: one task for each open attempt, in its turn, and again until it is closed (EXE-1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hyops.errors import HyopsError, foreign
from hyops.model.execution import Attempt
from hyops.ports.records import RecordStore
from hyops.services.execution import ExecutionStage
from hyops.services.lanes import Lanes
from hyops.services.loop import LeftOpenError, Waker, log, run_stage

RETRY_S = (0.25, 15.0)
HOOKS, YIELDS = "hooks", "yields "


async def in_turn(stage: ExecutionStage, lanes: Lanes, attempt: Attempt) -> bool:
    """One try to bring an attempt to its end, when its runner has room; True when it is closed.

    Room is waited for as long as the attempt may be started: one that has expired asks at once, and is closed.
    One that is to give way does not wait either: `run` closes it beside its place in the queue.
    """
    rank = stage.rank(attempt)
    if lanes.is_full(attempt.runner_ref):
        stage.queued(attempt, lanes.ahead(attempt.runner_ref, rank))
    async with lanes.room(attempt.runner_ref, rank, stage.expires_in_s(attempt)):
        return await stage.dial(attempt)


async def run(stage: ExecutionStage, watched: list[RecordStore], at_once: Callable[[str], int]) -> None:
    """Serve until told to stop, with at most `at_once(runner_ref)` runs on a runner at a time."""
    waker, lanes = Waker(), Lanes(at_once)
    following: dict[str, asyncio.Task[None]] = {}

    async def follow(attempt: Attempt) -> None:
        pause_s = RETRY_S[0]
        while not await _survived(in_turn(stage, lanes, attempt), "dial failed", attempt_id=attempt.attempt_id):
            pause_s = await _until_again(stage, attempt, pause_s)
        waker.wake()

    async def make_way(attempt: Attempt) -> None:
        if await _survived(stage.dial(attempt), "not closed", attempt_id=attempt.attempt_id):
            waker.wake()

    async def catch_up() -> None:
        if left := await stage.finish_hooks():
            log("evidence is left to be made", outcomes=left)

    async def step(slow: bool) -> None:
        for attempt in await stage.step(slow):
            if _idle(following, attempt.attempt_id):
                following[attempt.attempt_id] = asyncio.create_task(follow(attempt))
            elif stage.gives_way(attempt) and _idle(following, f"{YIELDS}{attempt.attempt_id}"):
                following[f"{YIELDS}{attempt.attempt_id}"] = asyncio.create_task(make_way(attempt))
        if slow and _idle(following, HOOKS):
            following[HOOKS] = asyncio.create_task(catch_up())
        try:
            stage.refuse_stuck()
        except HyopsError as exc:
            raise LeftOpenError(exc) from exc

    try:
        await run_stage(step, watched, name="execution", waker=waker)
    finally:
        for task in following.values():
            task.cancel()
        await asyncio.gather(*following.values(), return_exceptions=True)


def _idle(tasks: dict[str, asyncio.Task[None]], name: str) -> bool:
    return name not in tasks or tasks[name].done()


async def _until_again(stage: ExecutionStage, attempt: Attempt, pause_s: float) -> float:
    """Wait for whoever dials instead, as long as that takes, or for the pause; returns the next one."""
    try:
        async with asyncio.timeout(RETRY_S[1]):  # the safety net under the event
            if await stage.turn(attempt):
                return RETRY_S[0]
    except TimeoutError:
        return RETRY_S[0]
    except HyopsError as exc:
        log("not told when it is freed", attempt_id=attempt.attempt_id, message=exc.message)
    await asyncio.sleep(pause_s)
    return min(pause_s * 2, RETRY_S[1])


async def _survived(work: Awaitable[bool | None], event: str, **facts: object) -> bool:
    """Whether it came to an end; what goes wrong is logged, and the records stay open for another try."""
    try:
        with foreign():
            return await work is not False
    except HyopsError as exc:
        log(event, error=type(exc).__name__, message=exc.message, **facts)
        return False
