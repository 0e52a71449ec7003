"""A person's question to a runner: one that is silent is given up within seconds, and named with what was silent.

What runs on a runner goes on for as long as it needs; who only wants to know how things stand is not kept for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from hyops.ports.look import Awaited, Look
from hyops.ports.transport import OperatorSession

T = TypeVar("T")
S = TypeVar("S", bound=OperatorSession)
S_co = TypeVar("S_co", bound=OperatorSession, covariant=True)

LOOK_LIMIT_S = 8.0
"""From the first packet to the last answer. A busy runner on a bad link (a second of delay, a SYN lost twice: 1 s and
2 s) still answers within it; ten seconds are what a person at 03:00 takes for hung."""
AT_ONCE = 32  # runners: as many silent ones cost what one costs, and this host has sessions and memory for them


class Connects(Protocol[S_co]):
    """A transport, whatever its sessions can do beside."""

    def connect(self, runner_ref: str, look: Look | None = None) -> AbstractAsyncContextManager[S_co]:
        """One authenticated connection."""


@contextlib.asynccontextmanager
async def looking(
    transport: Connects[S], runner_ref: str, *, acts: bool = False, limit_s: float | None = None
) -> AsyncIterator[S]:
    """A connection for a question. With `acts` the limit ends with the greeting: what is done after it takes its time.

    Raises:
        RunnerUnreachableError: silent for so long; it says whether TCP, the handshake or the runner's answer was.
    """
    look = Look(LOOK_LIMIT_S if limit_s is None else limit_s)
    limit = asyncio.timeout(look.limit_s)
    try:
        async with limit, transport.connect(runner_ref, look) as session:
            look.awaited = Awaited.ANSWER
            if acts:
                await session.differs()
                limit.reschedule(None)
            yield session
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise look.silent(runner_ref) from exc


async def each(runners: Iterable[str], ask: Callable[[str], Awaitable[T]], *, at_once: int = AT_ONCE) -> list[T]:
    """What `ask` gives for each runner, in their order.

    They are asked beside each other, so that none waits for a silent one. What `ask` raises ends the others too.
    """
    room = asyncio.Semaphore(at_once)

    async def one(runner_ref: str) -> T:
        async with room:
            return await ask(runner_ref)

    asked = [asyncio.ensure_future(one(runner_ref)) for runner_ref in runners]
    try:
        return await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
