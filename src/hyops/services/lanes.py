"""Room for runs on each runner, given away in the order of the queue (RUN-11, EXE-1).

The runner has the last word: it refuses what is too much for it. Without lanes, though, whoever happens to ask at the
right moment would get the room that a run has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from itertools import count

from hyops.control.queue import Rank


class Lanes:
    """At most `at_once(runner_ref)` holders a runner; whoever waits with the smallest rank is next."""

    def __init__(self, at_once: Callable[[str], int]) -> None:
        self._at_once = at_once
        self._held: defaultdict[str, int] = defaultdict(int)
        self._waiting: defaultdict[str, list[tuple[Rank, int, asyncio.Future[None]]]] = defaultdict(list)
        self._tickets = count()

    @contextlib.asynccontextmanager
    async def room(self, runner_ref: str, rank: Rank, wait_s: float) -> AsyncIterator[None]:
        """Wait for room on a runner, at most `wait_s`, and give it back at the end, however that comes."""
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting[runner_ref], (rank, next(self._tickets), turn))
        asyncio.get_running_loop().call_soon(self._give, runner_ref)  # those who come in one pass are ranked together
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(wait_s, 0.0)):
                    await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._held[runner_ref] -= 1
            turn.cancel()
            self._give(runner_ref)

    def is_full(self, runner_ref: str) -> bool:
        """Whether whoever comes now has to wait."""
        return self._held[runner_ref] >= self._at_once(runner_ref)

    def ahead(self, runner_ref: str, rank: Rank) -> int:
        """How many go before this rank: those that have room, and those that wait with a smaller one."""
        before = [entry for entry in self._waiting[runner_ref] if not entry[2].done() and entry[0] < rank]
        return self._held[runner_ref] + len(before)

    def _give(self, runner_ref: str) -> None:
        waiting = self._waiting[runner_ref]
        while waiting and self._held[runner_ref] < self._at_once(runner_ref):
            turn = heapq.heappop(waiting)[2]
            if not turn.done():
                self._held[runner_ref] += 1
                turn.set_result(None)
