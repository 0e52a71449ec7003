"""What the service itself asks of Prometheus, for all its services: the same query once, at an even, jittered pace.

Signals that ask the same of the same server (`asked_as`) share one request, and each finds its own series in the answer
by `select`. A server that is slow has its own pool and its own limit, so it delays nobody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from hyops.adapters.http_client import httpx
from hyops.adapters.own_source import Emit, OwnSource
from hyops.adapters.probes_stream import phase_of
from hyops.adapters.prometheus import PrometheusProbe, query_of
from hyops.adapters.sampling import Look, Samples
from hyops.adapters.self_health import SelfHealth
from hyops.errors import HyopsError, foreign
from hyops.model.signal import Sample
from hyops.ports.clock import Clock
from hyops.ports.signals import Watched, Watchlist

PIECE = 200  # samples made before others get their turn
OVERLAP_MAX = 2

AskedAs = tuple[str, str, float, float]


def asked_as(watched: Watched) -> AskedAs:
    """What makes two signals one request: server, query, pace and limit."""
    signal = watched.signal
    return signal.url or "", query_of(watched), signal.interval_s, signal.timeout_s


class Polls:
    """Runs the queries of one watchlist and hands samples to `emit`, in order per signal."""

    def __init__(self, watchlist: Watchlist, probe: PrometheusProbe, emit: Callable[[Sample], None]) -> None:
        self._watchlist, self._probe, self._emit = watchlist, probe, emit
        self._health = SelfHealth(watchlist.witnesses or ())
        self._samples = Samples(watchlist.vantage, self._health)
        self._wanted: dict[AskedAs, list[Watched]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Ask for ever."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._group.create_task(self._health.watch())
                self.rewatch(self._watchlist)
        finally:
            self._group = None

    def rewatch(self, watchlist: Watchlist) -> None:
        """Ask this from now on; a query that nobody needs any more ends with its next turn."""
        self._watchlist = watchlist
        wanted: dict[AskedAs, list[Watched]] = {}
        for watched in watchlist.watched:
            wanted.setdefault(asked_as(watched), []).append(watched)
        fresh = wanted.keys() - self._wanted.keys()
        self._wanted = wanted
        if self._group is not None:
            for one in sorted(fresh):
                self._group.create_task(self._pace(one))

    async def _pace(self, one: AskedAs) -> None:
        assert self._group is not None
        url, query, interval_s, _ = one
        due, under_way = time.monotonic() + interval_s * phase_of(url, query), 0

        def ended(_: asyncio.Task[None]) -> None:
            nonlocal under_way
            under_way -= 1

        while True:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            if one not in self._wanted:
                return
            due = max(due + interval_s, time.monotonic())
            if under_way < OVERLAP_MAX:
                under_way += 1
                self._group.create_task(self._ask(one)).add_done_callback(ended)

    async def _ask(self, one: AskedAs) -> None:
        together, begun = self._wanted.get(one, []), self._samples.begin()
        if not together:
            return
        try:
            async with asyncio.timeout(one[3]):
                with foreign():
                    looks = await self._probe.ask(together)
        except TimeoutError:
            looks = [Look(None, f"no answer within {one[3]:g} s")] * len(together)
        except HyopsError as exc:  # what cannot be measured is unknown
            looks = [Look(None, exc.message)] * len(together)
        for number, (watched, look) in enumerate(zip(together, looks, strict=True)):
            if number % PIECE == PIECE - 1:
                await asyncio.sleep(0)
            sample = self._samples.end(watched, begun, look)
            if sample is not None:
                self._emit(sample)


class PrometheusSource(OwnSource):
    """The service itself asks Prometheus; its pseudo vantage point is `prometheus` and has no vote of its own."""

    def __init__(self, vantage: str, clock: Clock, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(vantage, clock)
        self._client = client

    @asynccontextmanager
    async def _looking(self, watchlist: Watchlist, emit: Emit) -> AsyncIterator[Polls]:
        probe = PrometheusProbe(self._client, urls=[watched.signal.url or "" for watched in watchlist.watched])
        try:
            yield Polls(watchlist, probe, emit)
        finally:
            await probe.close()
