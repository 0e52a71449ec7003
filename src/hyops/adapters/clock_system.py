"""The machine's clocks. Monotonic time is CLOCK_BOOTTIME: unlike CLOCK_MONOTONIC it goes on while the machine is
suspended, which whoever holds or waits for a lease depends on.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


def boottime() -> float:
    """Seconds since boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SystemClock:
    """`now` is CLOCK_REALTIME; it is never subtracted from anything."""

    def now(self) -> datetime:
        """Aware UTC time."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since boot, sleep included."""
        return boottime()

    def surely(self) -> datetime:
        """Aware UTC time; whoever runs for a moment only has nothing to tell a step by."""
        return self.now()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(seconds)
