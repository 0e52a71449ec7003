"""What one vantage point does: look at every signal at its own pace, one JSON line per look (`hyops probe stream`).

Looks overlap when they are slow, so a time limit of 0.7 s does not slow a pace of 0.25 s down; an older look that
ends after a newer one is dropped. The vantage point judges itself (`self_health`): when it is not well, it has no vote.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable

from hyops.adapters.sampling import Look, Samples
from hyops.adapters.self_health import LAG_CHECK_S, LAG_MAX_S, SelfHealth
from hyops.model.policy import ASKED_BY_THE_SERVICE
from hyops.model.signal import Sample
from hyops.ports.signals import Watched, Watchlist

__all__ = ["LAG_CHECK_S", "LAG_MAX_S", "Look", "Probe", "SelfHealth", "Stream", "phase_of"]

OVERLAP_MAX = 8

Probe = Callable[[Watched, Watchlist], Awaitable[Look]]


class Stream:
    """Runs the probes of one watchlist and hands samples to `emit`, in order per signal."""

    def __init__(self, watchlist: Watchlist, probes: dict[str, Probe], emit: Callable[[Sample], None]) -> None:
        self._watchlist, self._probes, self._emit = watchlist, probes, emit
        self._health = SelfHealth(watchlist.witnesses or ())
        self._samples = Samples(watchlist.vantage, self._health)
        self._group: asyncio.TaskGroup | None = None
        self._paces: dict[tuple[str, str], tuple[Watched, set[asyncio.Task[None]]]] = {}

    async def run(self) -> None:
        """Look for ever."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._group.create_task(self._health.watch())
                self.rewatch(self._watchlist)
        finally:
            self._group = None
            self._paces.clear()

    def rewatch(self, watchlist: Watchlist) -> None:
        """Look at this from now on. What stays as it was goes on without a gap; its numbers go on in any case."""
        self._watchlist = watchlist
        if self._group is None:
            return
        wanted = {watched.key: watched for watched in watchlist.watched}
        for key, (watched, tasks) in list(self._paces.items()):
            if wanted.get(key) != watched:
                del self._paces[key]
                for task in tasks:
                    task.cancel()
        for key, watched in wanted.items():
            if key not in self._paces:
                tasks = set()
                self._paces[key] = watched, tasks
                _kept(tasks, self._group.create_task(self._pace(watched, tasks)))

    async def glance_all(self) -> None:
        """Look at all now, besides their pace: something has just changed."""
        for watched in self._watchlist.watched:
            await self._look(watched)

    async def _pace(self, watched: Watched, tasks: set[asyncio.Task[None]]) -> None:
        """`tasks`: this one and its looks under way."""
        interval_s = watched.signal.interval_s
        due = time.monotonic() + interval_s * phase_of(*watched.key)
        assert self._group is not None
        while True:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            due = max(due + interval_s, time.monotonic())
            if len(tasks) <= OVERLAP_MAX:
                look = self._look(watched)  # what it raises (a broken pipe) ends the stream
                _kept(tasks, self._group.create_task(look))

    async def _look(self, watched: Watched) -> None:
        signal, begun = watched.signal, self._samples.begin()
        try:
            async with asyncio.timeout(signal.timeout_s):
                look = await self._probes[signal.source](watched, self._watchlist)
        except TimeoutError:
            look = Look(0.0, f"no answer within {signal.timeout_s:g} s")
            if signal.about == "target" or signal.source in ASKED_BY_THE_SERVICE:
                look = Look(None, look.said)  # silence of the target proves nothing about its state
        except Exception as exc:  # noqa: BLE001  # an adapter's translation: what cannot be measured is unknown
            look = Look(None, f"{type(exc).__name__}: {exc}")
        sample = self._samples.end(watched, begun, look)
        if sample is not None:
            self._emit(sample)


def _kept(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    """Until it ends, and no longer: a look that is over holds its connection until nobody knows it any more."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def phase_of(*words: str) -> float:
    """Where in its interval a thing is done, from 0 to 1: spread by its name, the same after every start."""
    return zlib.crc32("\0".join(words).encode()) / 2**32
