"""Virtual time under real asyncio code: a loop that never waits, a clock that reads it, processes that freeze and die.

When nothing is ready the loop's own time jumps to the next timer, so `asyncio.timeout`, `sleep` and every task of the
product run unchanged, an hour in milliseconds, in the same order each time.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

from hyops.testing.clock import EPOCH, FakeClock

T = TypeVar("T")
STARTS_AT_S = 1000.0
SPINS_MAX = 20_000
FINEST = 1_000_000_000  # steps of a second; sums of floats differ in their last digits, and replays must not


class StuckError(RuntimeError):
    """Everybody waits and no timer is set: the schedule can never go on."""


class _Jumping(selectors.SelectSelector):
    """A selector that lets the loop's time pass where another one would wait; nothing ever comes from outside."""

    now = STARTS_AT_S
    spins = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing."""
        if timeout is None:
            raise StuckError("everybody waits, and no timer is set")
        self.spins += 1
        if self.spins > SPINS_MAX:
            self.spins = 0
            raise StuckError("somebody goes round and round without a pause")
        if timeout > 0:
            self.spins = 0
            self.now = round((self.now + timeout) * FINEST) / FINEST
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """One for all worlds of a process; `fresh` empties it."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self.processes: list[Process] = []

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """What is handed to a thread is done at once: nothing in a schedule runs beside it."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as exc:  # noqa: BLE001  # whoever asked is told, as by a thread
            future.set_exception(exc)
        return future

    def time(self) -> float:
        """Seconds, virtual."""
        return self._jumping.now

    def fresh(self) -> VirtualLoop:
        """As it was when it was made: no task, no timer, the first second."""
        for process in self.processes:
            process.kill()
        self.processes.clear()
        for _ in range(100):
            if not (left := asyncio.all_tasks(self)):
                break
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._jumping.now = STARTS_AT_S
        return self

    def let_pass(self, seconds: float) -> None:
        """Everybody lives on for so long."""
        done = self.create_future()
        self.call_later(seconds, done.set_result, None)
        self.run_until_complete(done)


@cache
def the_loop() -> VirtualLoop:
    """The one of this process."""
    loop = VirtualLoop()
    loop.set_task_factory(_in_its_process)
    loop.set_exception_handler(lambda _loop, _context: None)  # what a process dies of is its own affair
    return loop


class VirtualClock(FakeClock):
    """Monotonic time is the loop's; wall time goes with it until somebody sets it."""

    def __init__(self, loop: VirtualLoop, at: datetime = EPOCH) -> None:
        super().__init__(at)
        self._loop, self._wall_off_s = loop, 0.0

    def now(self) -> datetime:
        """Aware UTC time."""
        since_s = self._loop.time() - STARTS_AT_S + self._wall_off_s
        return (EPOCH + timedelta(seconds=since_s)).astimezone(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return round(self._loop.time(), 6)

    async def sleep(self, seconds: float) -> None:
        """Let the others live so long."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        done = self._loop.create_future()
        timer = self._loop.call_later(seconds, done.set_result, None)
        try:
            await done
        finally:
            timer.cancel()

    def advance(self, seconds: float) -> None:
        """Let everybody live so long."""
        self._loop.let_pass(seconds)

    def jump_wall(self, seconds: float) -> None:
        """Somebody set the wall clock."""
        self._wall_off_s += seconds


_INSIDE: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def _in_its_process(
    loop: asyncio.AbstractEventLoop, work: Any, *, context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    """A task that code makes for itself stands still and dies with the process that runs this code."""
    process = (context or contextvars.copy_context()).get(_INSIDE)
    if process is None:
        return asyncio.Task(work, loop=loop, context=context)
    task = process.kept(asyncio.Task(process.within(work), loop=loop, context=context))
    task.add_done_callback(lambda _: work.close())  # of one that was killed before it began
    return task


class DeadError(BaseException):
    """Raised by whatever a dead process touches on its way out: it has no effect any more."""


class Process:
    """Something that can be frozen in the middle of anything, go on with what it remembers, or be killed."""

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name, self._loop, self.dead = name, loop, False
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tasks: set[asyncio.Task[Any]] = set()
        loop.processes.append(self)

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return not self._thawed.is_set()

    def freeze(self) -> None:
        """Stop wherever it waits; what it waits for may come, and it does not see it."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on."""
        self._thawed.set()

    def kill(self) -> None:
        """At once. What its code does on the way out touches nothing (`alive`)."""
        self.dead = True
        for task in list(self._tasks):
            task.cancel()
        self._thawed.set()

    def alive(self) -> None:
        """Return when it lives. Every effect asks this first."""
        if self.dead:
            raise DeadError(self.name)

    def task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something in it; it stands still and dies with it."""
        context = contextvars.copy_context()
        context.run(_INSIDE.set, self)
        return self._loop.create_task(work, context=context)

    def kept(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """The same task, which dies with this process from now on."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self.dead:
            task.cancel()
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that nobody is told of it

    async def within(self, work: Coroutine[Any, Any, T]) -> T:
        """`work`, under this process's gate."""
        try:
            return await _Gated(work, self._thawed)
        except DeadError:
            raise asyncio.CancelledError from None


class _Gated(Awaitable[T]):
    """A coroutine that is resumed only while the gate is open."""

    def __init__(self, work: Coroutine[Any, Any, T], gate: asyncio.Event) -> None:
        self._work, self._gate = work, gate

    def __await__(self) -> Generator[Any, None, T]:
        thrown: BaseException | None = None
        while True:
            try:
                future = self._work.send(None) if thrown is None else self._work.throw(thrown)
            except StopIteration as end:
                value: T = end.value
                return value
            thrown = None
            try:
                yield future
            except BaseException as exc:  # noqa: BLE001  # handed on to whom it was meant for, later if need be
                thrown = exc
            while not self._gate.is_set():
                try:
                    yield from _wait(self._gate)
                except BaseException as exc:  # noqa: BLE001
                    thrown = exc


@types.coroutine
def _wait(gate: asyncio.Event) -> Generator[Any, None, None]:
    yield from gate.wait().__await__()
