"""A clock that a test moves; sleeping moves it too, so nothing in a test waits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


class FakeClock:
    """Wall time and monotonic time, moved together by `advance` and apart by `jump_wall`."""

    def __init__(self, at: datetime = EPOCH) -> None:
        self._now = at
        self._monotonic = 1000.0

    def now(self) -> datetime:
        """Aware UTC time."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return round(self._monotonic, 6)

    def surely(self) -> datetime:
        """Aware UTC time: nobody doubts it."""
        return self.now()

    async def sleep(self, seconds: float) -> None:
        """Return at once, that much later."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)

    def jump_wall(self, seconds: float) -> None:
        """Somebody set the wall clock."""
        self._now += timedelta(seconds=seconds)
