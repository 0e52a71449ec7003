"""What one vantage point does: look at every signal at its own pace, one JSON line per look (`hyops probe stream`).

Looks overlap when they are slow, so a time limit of 0.7 s does not slow a pace of 0.25 s down; an older look that
ends after a newer one is dropped. The vantage point judges itself: when its event loop is late, it has no vote.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hyops.model.signal import Sample
from hyops.ports.signals import Watched, Watchlist

LAG_CHECK_S = 0.05
LAG_MAX_S = 0.2  # later than this and a time-out here may be our own fault
UNWELL_FOR_S = 1.0
OVERLAP_MAX = 8
SAID_CHARS_MAX = 500  # a server's own words; the whole line stays below the receiver's limit


@dataclass(frozen=True)
class Look:
    """What a probe found. `value` None: nothing can be said (unknown); `said` why, or a detail."""

    value: float | None
    said: str | None = None


Probe = Callable[[Watched, Watchlist], Awaitable[Look]]


class SelfHealth:
    """Whether this process gets its turns in time."""

    def __init__(self) -> None:
        self._unwell_until = 0.0
        self._beat = time.monotonic()

    @property
    def well(self) -> bool:
        """False for a while after the loop was late; judged here, as a look may get its turn before `watch` does."""
        now = time.monotonic()
        if now - self._beat > LAG_CHECK_S + LAG_MAX_S:
            self._unwell_until = now + UNWELL_FOR_S
        return now >= self._unwell_until

    async def watch(self) -> None:
        """Measure for ever."""
        self._beat = time.monotonic()
        while True:
            await asyncio.sleep(LAG_CHECK_S)
            _ = self.well
            self._beat = time.monotonic()


class Stream:
    """Runs the probes of one watchlist and hands samples to `emit`, in order per signal."""

    def __init__(self, watchlist: Watchlist, probes: dict[str, Probe], emit: Callable[[Sample], None]) -> None:
        self._watchlist, self._probes, self._emit = watchlist, probes, emit
        self._health = SelfHealth()
        self._sequence: dict[str, int] = {}
        self._newest: dict[str, float] = {}
        # Wall time moves with the monotonic clock here, so a step of the wall clock looks like nothing.
        self._wall0, self._monotonic0 = datetime.now(UTC), time.monotonic()

    async def run(self) -> None:
        """Look for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._health.watch())
            for index, watched in enumerate(self._watchlist.watched):
                group.create_task(self._pace(group, watched, index / max(len(self._watchlist.watched), 1)))

    async def _pace(self, group: asyncio.TaskGroup, watched: Watched, phase: float) -> None:
        interval_s = watched.signal.interval_s
        due = time.monotonic() + interval_s * phase
        looks: set[asyncio.Task[None]] = set()
        while True:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            due = max(due + interval_s, time.monotonic())
            if len(looks) < OVERLAP_MAX:
                task = group.create_task(self._look(watched))  # what it raises (a broken pipe) ends the stream
                looks.add(task)
                task.add_done_callback(looks.discard)

    async def _look(self, watched: Watched) -> None:
        signal = watched.signal
        began = time.monotonic()
        well = self._health.well
        try:
            async with asyncio.timeout(signal.timeout_s):
                look = await self._probes[signal.source](watched, self._watchlist)
        except TimeoutError:
            look = Look(0.0, f"no answer within {signal.timeout_s:g} s")
            if signal.about == "target" or signal.source == "prometheus":
                look = Look(None, look.said)  # silence of the target proves nothing about its state
        except Exception as exc:  # noqa: BLE001  # an adapter's translation: what cannot be measured is unknown
            look = Look(None, f"{type(exc).__name__}: {exc}")
        ended = time.monotonic()
        said = (look.said or "")[:SAID_CHARS_MAX].encode(errors="replace").decode() or None
        if self._newest.get(signal.name, 0.0) > began:
            return
        self._newest[signal.name] = began
        self._sequence[signal.name] = self._sequence.get(signal.name, -1) + 1
        sample = Sample(
            vantage=self._watchlist.vantage,
            signal=signal.name,
            sequence=self._sequence[signal.name],
            taken_at=self._wall0 + timedelta(seconds=began - self._monotonic0),
            value=look.value,
            error=said if look.value is None else None,
            detail=said if look.value is not None else None,
            elapsed_s=round(ended - began, 6),
            healthy_vantage=well and self._health.well and ended - began < signal.timeout_s + LAG_MAX_S,
        )
        self._emit(sample)
