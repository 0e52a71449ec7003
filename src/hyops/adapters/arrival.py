"""Looks when something changes in a folder, for commands that wait for what another host or process will write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from hyops.adapters.inotify_library import Inotify, Mask

WATCHED = Mask.CREATE | Mask.MOVED_TO | Mask.CLOSE_WRITE


async def glances(folders: Sequence[Path], rescan_s: float) -> AsyncIterator[None]:
    """Yield at once, then after every change in one of the folders.

    At the latest after `rescan_s`: a network file system tells nothing, a folder that is missing is looked for again
    then, and a host whose inotify instances or watches are all in use tells nothing either.
    """
    with contextlib.ExitStack() as stack:
        told: Inotify | None = None
        with contextlib.suppress(OSError):
            told = stack.enter_context(Inotify())
        watched: set[Path] = set()
        while True:
            for folder in folders:
                if told is not None and folder not in watched and folder.is_dir():
                    with contextlib.suppress(OSError):
                        told.add_watch(folder, WATCHED)
                        watched.add(folder)
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rescan_s):
                    await (asyncio.Event().wait() if told is None else told.get())
