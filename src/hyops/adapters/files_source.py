"""Numbers that somebody on this host writes into files: `{"sampled_at": "2026-01-31T12:00:00Z", "value": 1.0}` (DEC-2).

With several numbers in a file, `values` holds them by name and the signal's `query` names one. The time is that of the
sample, on this host's clock; a file that is torn, old, of the future, too large, or none is unknown. inotify tells.
Write it beside and rename it, and no reader ever sees half of it.
"""

from __future__ import annotations

import asyncio
import math
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hyops.adapters.arrival import glances
from hyops.adapters.own_source import Emit, OwnSource
from hyops.adapters.probes_stream import Stream
from hyops.adapters.prometheus import FUTURE_MAX_S, absent
from hyops.adapters.sampling import Look
from hyops.errors import RecordError
from hyops.model import canonical
from hyops.model.base import Part, UtcTime
from hyops.ports.clock import Clock
from hyops.ports.signals import Watched, Watchlist

BYTES_MAX = 64 * 1024
RESCAN_S = 5.0


class FileSample(Part):
    """What stands in such a file."""

    sampled_at: UtcTime
    value: float | None = None
    values: dict[str, float] | None = None


class FilesSource(OwnSource):
    """All files of all services; the pseudo vantage point `file`."""

    @asynccontextmanager
    async def _looking(self, watchlist: Watchlist, emit: Emit) -> AsyncIterator[Files]:
        yield Files(watchlist, emit, self._clock)


class Files:
    """Looks at each file at its signal's pace, and at once when something changes beside it."""

    def __init__(self, watchlist: Watchlist, emit: Emit, clock: Clock) -> None:
        self._clock, self._watchlist = clock, watchlist
        self._stream = Stream(watchlist, {"file": self._look}, emit)
        self._changed = asyncio.Event()

    def rewatch(self, watchlist: Watchlist) -> None:
        """Look at this from now on."""
        self._watchlist = watchlist
        self._stream.rewatch(watchlist)
        self._changed.set()

    async def run(self) -> None:
        """Look for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stream.run())
            while True:
                self._changed.clear()
                following = group.create_task(self._follow())
                await self._changed.wait()
                following.cancel()

    async def _follow(self) -> None:
        folders = sorted({path_of(watched).parent for watched in self._watchlist.watched})
        async for _ in glances(folders, RESCAN_S):
            await self._stream.glance_all()

    async def _look(self, watched: Watched, watchlist: Watchlist) -> Look:
        try:
            data = read(path_of(watched))
        except FileNotFoundError:
            return absent(watched.signal, "no such file")
        except OSError as exc:
            return Look(None, exc.strerror or str(exc))
        try:
            found = FileSample.of(canonical.parse(data, source="the file", bytes_max=BYTES_MAX), source="the file")
        except RecordError as exc:
            return Look(None, exc.message)
        age_s = (self._clock.now() - found.sampled_at).total_seconds()
        if not -FUTURE_MAX_S <= age_s <= watched.signal.max_age_s:
            return Look(None, f"the sample is {age_s:.1f} s old")
        value: Any = found.value
        if watched.signal.query is not None:
            value = (found.values or {}).get(watched.signal.query)
            if value is None:
                return absent(watched.signal, f"no {watched.signal.query!r} in the file")
        if value is None or not math.isfinite(value):
            return Look(None, "no number in the file")
        return Look(float(value), f"sample of {age_s:.1f} s ago")


def path_of(watched: Watched) -> Path:
    """Where a file signal is read."""
    return Path((watched.signal.url or "").removeprefix("file://"))


def read(path: Path) -> bytes:
    """The bytes of a regular file; one more than allowed is read, and refused by the parser.

    Raises:
        OSError: it is missing, unreadable, a link or no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "not a regular file")
        return file.read(BYTES_MAX + 1)
