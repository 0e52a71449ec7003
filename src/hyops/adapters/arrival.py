"""Looks when something changes in a folder, for commands that wait for what another host or process will write."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from asyncinotify import Inotify, Mask

WATCHED = Mask.CREATE | Mask.MOVED_TO | Mask.CLOSE_WRITE


async def glances(folders: Sequence[Path], rescan_s: float) -> AsyncIterator[None]:
    """Yield at once, then after every change in one of the folders.

    At the latest after `rescan_s`: a network file system tells nothing, and a folder that is missing is looked for
    again then.
    """
    with Inotify() as inotify:
        watched: set[Path] = set()
        while True:
            for folder in folders:
                if folder not in watched and folder.is_dir():
                    inotify.add_watch(folder, WATCHED)
                    watched.add(folder)
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rescan_s):
                    await inotify.get()
