"""What the decision service hears or asks by itself, as a source: a queue between what looks and what judges."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from hyops.model.signal import Sample
from hyops.ports.clock import Clock
from hyops.ports.signals import Lost, Received, Watchlist

QUEUE_MAX = 100_000
Emit = Callable[[Sample], None]


class Looking(Protocol):
    """What makes the samples."""

    async def run(self) -> None:
        """Look for ever."""

    def rewatch(self, watchlist: Watchlist) -> None:
        """Look at this from now on."""


class OwnSource(ABC):
    """A pseudo vantage point without a vote of its own; its name is that of its source."""

    def __init__(self, vantage: str, clock: Clock) -> None:
        self._vantage, self._clock = vantage, clock
        self._now: Looking | None = None

    @property
    def vantage(self) -> str:
        """Its name."""
        return self._vantage

    def rewatch(self, watchlist: Watchlist) -> None:
        """Look at this from now on."""
        if self._now is not None:
            self._now.rewatch(watchlist)

    @abstractmethod
    def _looking(self, watchlist: Watchlist, emit: Emit) -> AbstractAsyncContextManager[Looking]:
        """What looks, for as long as it is wanted."""

    async def observe(self, watchlist: Watchlist) -> AsyncGenerator[Received | Lost, None]:
        """Samples for ever."""
        samples: asyncio.Queue[Sample | None] = asyncio.Queue(maxsize=QUEUE_MAX)

        def offer(sample: Sample | None) -> None:
            if samples.full():
                samples.get_nowait()  # a reader that lags wants the newest
            samples.put_nowait(sample)

        async with self._looking(watchlist, offer) as self._now:
            task = asyncio.create_task(self._now.run())
            task.add_done_callback(lambda _: offer(None))
            try:
                while (sample := await samples.get()) is not None:
                    yield Received(sample, self._clock.monotonic())
                task.result()
            finally:
                self._now = None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
