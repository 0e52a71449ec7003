"""Follows a run by file events: no sleeping loop, no gap, no line twice (RUN-5). Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from hyops.model import wire
from hyops.runner.folders import Folders, job_pidfd, read_file

CHUNK = 256 * 1024
RESCAN_S = 15.0  # events are the rule; this is the net below them
UNWATCHED_RESCAN_S = 0.5  # what a line costs on a host that has no inotify instance or watch left for us
_ALL_IN_USE = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)
_IN_MODIFY, _IN_CREATE, _IN_MOVED_TO, _IN_CLOSE_WRITE = 0x2, 0x100, 0x80, 0x8

Emit = Callable[[str, int, dict[str, Any]], None]


class Watch:
    """File events of a run folder, the end of its job, and the peer's wish to stop: one wait for all three.

    `unwatched`: why there are no file events, where others have every inotify instance or watch of this host; each
    wait is then over soon, and the other two still end it at once.
    """

    def __init__(self, folder: Path, also_fd: int | None = None) -> None:
        self._folder, self._also = folder, also_fd
        self._fd: int | None = None
        self.unwatched: str | None = None
        try:
            self._fd = _inotify(folder)
        except OSError as exc:
            if exc.errno not in _ALL_IN_USE:
                raise
            self.unwatched = os.strerror(exc.errno)
        with contextlib.ExitStack() as undone:
            if self._fd is not None:
                undone.callback(os.close, self._fd)
            self._pidfd = job_pidfd(folder)
            undone.pop_all()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for fd in (self._fd, self._pidfd):
            if fd is not None:
                os.close(fd)

    def wait(self, timeout_s: float, *, job_lives: bool = False) -> bool:
        """Wait for an event; True when the other side wants to stop.

        `job_lives`: the caller has just seen the job alive; when it is gone by now, that is the event.
        """
        if self._pidfd is None:
            self._pidfd = job_pidfd(self._folder)
            if self._pidfd is None and job_lives:
                return False
        poll = select.poll()
        for watched in (self._fd, self._pidfd, self._also):
            if watched is not None:
                poll.register(watched, select.POLLIN)
        limit_s = timeout_s if self._fd is not None else min(timeout_s, UNWATCHED_RESCAN_S)
        ready = {fd for fd, _ in poll.poll(limit_s * 1000)}
        if self._fd is not None and self._fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 65536)
        if self._pidfd is not None and self._pidfd in ready:
            os.close(self._pidfd)
            self._pidfd = None
        return self._also is not None and self._also in ready


def follow(
    folders: Folders, run_id: str, offset: int, emit: Emit, *, stop_fd: int | None, start_wait_s: float | None
) -> None:
    """Emit every journal record and log line from `offset` on, then the end; with `start_wait_s` None wait for nothing.

    The end says in which state the run was found: `finished`, `interrupted` (its job died: nothing is known of the
    step under way), `staged`, `absent`, or `detached` when the peer wanted to stop.
    """
    folder = folders.run(run_id)
    journal_at, log_at = wire.unpack(offset)
    if folders.state(run_id) == "absent":
        return emit("end", offset, {"state": "absent"})
    give_up = time.monotonic() + (start_wait_s or 0.0)
    with Watch(folder, stop_fd) as watch:
        if watch.unwatched is not None and start_wait_s is not None:
            emit("log", offset, {"line": f"hyops: inotify on this runner: {watch.unwatched}: new lines show late"})
        while True:
            state = folders.state(run_id)  # read before the files: what they hold afterwards is at least this new
            more = True
            while more:
                journal_at, found = _lines(folder / "journal.jsonl", journal_at)
                for line, end in found:
                    emit("journal", wire.pack(end, log_at), _record(line))
                log_at, texts = _lines(folder / "log", log_at)
                for line, end in texts:
                    emit("log", wire.pack(journal_at, end), {"line": line.decode(errors="replace")})
                more = bool(found or texts)
            late = start_wait_s is None or (state == "staged" and time.monotonic() > give_up)
            if state in ("finished", "interrupted") or late:
                return emit("end", wire.pack(journal_at, log_at), {"state": state})
            left_s = RESCAN_S if state == "running" else max(give_up - time.monotonic(), 0.05)
            if watch.wait(left_s, job_lives=state == "running"):
                return emit("end", wire.pack(journal_at, log_at), {"state": "detached"})


def _inotify(folder: Path) -> int:
    """A descriptor with the folder's events.

    Raises:
        OSError: the folder is not there, or no instance or watch is left (`_ALL_IN_USE`).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    mask = _IN_MODIFY | _IN_CREATE | _IN_MOVED_TO | _IN_CLOSE_WRITE
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(folder), mask) < 0:
        number = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise OSError(number, f"inotify: {os.strerror(number)}")
    return int(fd)


def _record(line: bytes) -> dict[str, Any]:
    """A journal line as it is; one that is damaged is passed on as such, for the collector to refuse."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"kind": "damaged", "body": {}}


def wait_until(folder: Path, ready: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for `ready` by the folder's events; False at the time limit."""
    limit = time.monotonic() + timeout_s
    with Watch(folder) as watch:
        while not ready():
            left = limit - time.monotonic()
            if left <= 0:
                return False
            watch.wait(min(left, RESCAN_S))
    return True


def _lines(path: Path, offset: int) -> tuple[int, list[tuple[bytes, int]]]:
    """Complete lines from `offset` with the offset after each; a line longer than a chunk is given in pieces."""
    try:
        data = read_file(path, CHUNK, offset)
    except FileNotFoundError:
        return offset, []
    found = []
    while (end := data.find(b"\n")) >= 0:
        offset += end + 1
        found.append((data[:end], offset))
        data = data[end + 1 :]
    return offset, found
