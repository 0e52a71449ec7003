"""A lock between processes that says who holds it: pid, host and what for (ROOT-5).

The kernel drops it with its owner, however that dies, so there is nothing to break and nothing to wait out: what a
dead owner left in the file is only words.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from hyops.errors import PrerequisiteError
from hyops.ownership import open_lock

LOCK_WAIT_S = 10.0  # a writer holds it for a few syncs; a frozen one must not hang the others
LOCK_RETRY_S = 0.005
OWNER_MAX = 1024


@contextlib.contextmanager
def owned_lock(path: Path, why: str, *, wait_s: float = LOCK_WAIT_S) -> Iterator[int]:
    """Hold `path` against every other process, and every other thread; yields the open lock, for who hands it on.

    Raises:
        PrerequisiteError: it cannot be made, or somebody alive has held it for `wait_s`; names who.
    """
    try:
        fd = open_lock(path, 0o600)
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}") from exc
    try:
        _wait(fd, path, wait_s)
        _say(fd, path, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": why[:200]}).encode())
        yield fd
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _wait(fd: int, path: Path, wait_s: float) -> None:
    end = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise PrerequisiteError(
                    f"{path}: held for more than {wait_s:g} s by {_owner(fd)}",
                    hint="nothing was changed; wait for it, or end that process: its lock goes with it",
                ) from None
            time.sleep(LOCK_RETRY_S)


def _say(fd: int, path: Path, data: bytes) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}", hint="nothing was changed; free the disk") from exc


def _owner(fd: int) -> str:
    try:
        told = json.loads(os.pread(fd, OWNER_MAX, 0))
        return f"pid {int(told['pid'])} on {str(told['host'])[:64]!r} ({str(told['command'])[:200]!r})"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said who it is"
