"""Telling systemd that a stage gets on while it waits for something long: the first load of its records (LOOP-1).

A stage reads before it can pass, and what it reads may take longer than its start or its watchdog allows. Each part
that arrived is a sign of life; where nothing arrives none is given, so a stage that hangs is begun anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hyops.services.loop import EXTEND_START, notify

PACE_S = 1.0


class Progress:
    """Call it for each part, from any thread; it tells at most once in `PACE_S`."""

    def __init__(self, tell: Callable[[str], None] = notify, now: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._now = tell, now
        self._told_s = float("-inf")

    def __call__(self) -> None:
        """One more part has arrived."""
        if self._now() - self._told_s >= PACE_S:
            self._told_s = self._now()
            self._tell(f"WATCHDOG=1\n{EXTEND_START}")
