"""The runner's truth: an append-only journal that survives its process (BP-4, EVD-4).

One JSON object a line: `seq`, `prev` (digest of the previous raw line), `kind`, `at`, `t`, `body`. Each append is on
the disk before it returns. A torn last line was never promised to anybody and is cut; damage anywhere else is refused,
naming the line. One writer at a time (`flock`). Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hyops.errors import HyopsError, PrerequisiteError, RecordError

BYTES_MAX = 64 * 1024 * 1024  # a run has some hundred records of about 1 KB
LINE_MAX = 1024 * 1024
RESERVE_BYTES = 256 * 1024  # freed when the disk is full, so that outcomes can still be written and the run closed
FIRST = "sha256:" + "0" * 64
_KEYS = {"seq", "prev", "kind", "at", "t", "body"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class JournalFullError(PrerequisiteError):
    """Nothing more can be written beside the run, so nothing more may be done (EVD-4)."""

    hint = "free space on the runner, then resume the run"


class JournalLockedError(HyopsError):
    """Another process writes this journal: it runs the run."""

    exit_code = 12
    hint = "follow the run instead; it is under way"


@dataclass(frozen=True)
class Entry:
    """One line. `t` is seconds of the run's life: monotonic within a process, carried on across a resume."""

    seq: int
    kind: str
    at: str
    t: float
    body: Mapping[str, Any]


def digest_line(raw: bytes) -> str:
    """`sha256:<hex>` of a raw line without its newline: the next line's `prev`, and the head of a journal."""
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def read(data: bytes, *, source: str = "journal") -> tuple[list[Entry], str, int]:
    """Entries, head and the length of the good part; a torn last line is left out.

    Raises:
        RecordError: names the first line, counted from 1, that is damaged or does not follow.
    """
    if len(data) > BYTES_MAX:
        raise RecordError(f"{source}: {len(data)} bytes, more than {BYTES_MAX}")
    entries: list[Entry] = []
    head, good = FIRST, 0
    for number, raw in enumerate(data.split(b"\n")[:-1], start=1):
        entries.append(_entry(raw, number, head, source))
        head, good = digest_line(raw), good + len(raw) + 1
    return entries, head, good


def _entry(raw: bytes, number: int, head: str, source: str) -> Entry:
    where = f"{source} line {number}"
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise RecordError(f"{where}: damaged ({exc})") from exc
    if not isinstance(value, dict) or set(value) != _KEYS or not isinstance(value["body"], dict):
        raise RecordError(f"{where}: not a journal record")
    if value["prev"] != head or value["seq"] != number - 1:
        raise RecordError(f"{where}: does not follow from the line before it")
    return Entry(value["seq"], str(value["kind"]), str(value["at"]), float(value["t"]), value["body"])


class Journal:
    """The one writer of a run's journal."""

    def __init__(self, path: Path, *, write: Callable[[int, bytes], int] = os.write) -> None:
        """Open or create `path`.

        Raises:
            JournalLockedError: another process has it. RecordError: damaged before its last line.
            JournalFullError: it cannot be created.
        """
        self._broken = False
        self._write, self._path, self._reserve = write, path, path.with_name(path.name + ".reserve")
        existed = path.exists()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with ExitStack() as undo:
            undo.callback(os.close, self._fd)
            self._lock()
            data = self._contents()
            self.entries, self.head, self._length = read(data, source=str(path))
            if self._length < len(data):
                os.ftruncate(self._fd, self._length)
                os.fsync(self._fd)
            if not existed:
                _fsync_dir(path.parent)
            self._hold_reserve()
            undo.pop_all()  # it is ours to keep

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; once the run is closed the reserve goes too."""
        if self.entries and self.entries[-1].kind == "run-closed":
            self._reserve.unlink(missing_ok=True)
        os.close(self._fd)

    def append(self, kind: str, body: Mapping[str, Any], *, at: str, t: float, essential: bool = False) -> Entry:
        """Write one record through to the disk.

        `essential` records (outcomes of effects already made, the closing of a run) may use up the reserve. What comes
        after that needs it whole again: the room that it gave is no room for another effect (EVD-4).

        Raises:
            JournalFullError: nothing was written; the journal is as it was.
        """
        if not essential and kind != "reopened" and not self._reserve.exists():
            self._hold_reserve()
            if not self._reserve.exists():
                raise JournalFullError("no room for the journal: its reserve is used up")
        entry = Entry(len(self.entries), kind, at, round(t, 6), dict(body))
        value = {"seq": entry.seq, "prev": self.head, "kind": kind, "at": at, "t": entry.t, "body": entry.body}
        raw = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        if len(raw) > LINE_MAX or self._length + len(raw) >= BYTES_MAX:
            raise JournalFullError(f"a journal record of {len(raw)} bytes is over the limit")
        try:
            self._put(raw + b"\n")
        except OSError as exc:
            if exc.errno not in _FULL:
                raise
            if not essential or not self._reserve.exists():
                raise JournalFullError(f"cannot write the journal: {exc.strerror}") from exc
            self._reserve.unlink()
            self._put_last(raw + b"\n")
        self.entries.append(entry)
        self.head, self._length = digest_line(raw), self._length + len(raw) + 1
        if kind == "reopened":  # the reserve went when the run was closed
            self._hold_reserve()
        return entry

    def _put_last(self, line: bytes) -> None:
        try:
            self._put(line)
        except OSError as exc:
            raise JournalFullError(f"cannot write the journal, even with its reserve: {exc.strerror}") from exc

    def _put(self, line: bytes) -> None:
        if self._broken:
            raise OSError(errno.EIO, "a piece of an earlier line could not be removed")
        try:
            written = 0
            while written < len(line):
                written += self._write(self._fd, line[written:])
            os.fdatasync(self._fd)
        except OSError:
            self._broken = True
            os.ftruncate(self._fd, self._length)  # a piece of a line must not stand before the next one
            self._broken = False
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise JournalLockedError(f"{self._path}: another process runs this run") from exc

    def _contents(self) -> bytes:
        size = os.fstat(self._fd).st_size
        if size > BYTES_MAX:
            raise RecordError(f"{self._path}: {size} bytes, more than {BYTES_MAX}")
        return os.pread(self._fd, size, 0)

    def _hold_reserve(self) -> None:
        if self._reserve.exists() or (self.entries and self.entries[-1].kind == "run-closed"):
            return
        fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError as exc:
            self._reserve.unlink(missing_ok=True)
            if not self.entries:
                raise JournalFullError(f"no room for a journal: {exc.strerror}") from exc
        finally:
            os.close(fd)


def _fsync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
