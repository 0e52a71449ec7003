"""Time as a port: wall time for records, monotonic time for every decision."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks that are never mixed: `now` goes into records, `monotonic` into arithmetic."""

    def now(self) -> datetime:
        """Aware UTC time."""

    def monotonic(self) -> float:
        """Seconds that never go back; no meaning across processes."""

    def surely(self) -> datetime:
        """Aware UTC time that has passed for certain: `now`, but before a step ahead that nobody confirmed yet.

        What is over by `now` is not begun; only what is over by this is closed for good.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait; a fake clock returns at once and moves its time."""
