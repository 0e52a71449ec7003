"""The clock of whoever holds or waits for a lease: unlike CLOCK_MONOTONIC it goes on during a suspension."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class BoottimeClock:
    """`Clock` on CLOCK_BOOTTIME."""

    def now(self) -> datetime:
        """Aware UTC time, for records."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since boot, suspension included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
