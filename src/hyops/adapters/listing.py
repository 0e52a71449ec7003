"""Which files of a directory are complete records. A folder keeps every record of years, so a look costs what is new:
inotify names what came, and only that is opened. The whole directory is read at the start, when inotify lost count or
said nothing although the directory's time moved, and every `RESCAN_S` in any case.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

from hyops.adapters.inotify_library import Inotify, Mask
from hyops.errors import RecordError

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
SUFFIX = ".json"
WATCHED_FROM = 256  # files: fewer are read in a fraction of a millisecond, and a user has 128 inotify instances
RESCAN_S = 10.0  # what a file system changed without telling inotify is found after this long
RESTED_NS = 20_000_000  # file times tick every 10 ms at worst: a younger directory may change without a sign of it
RESTED_COARSE_NS = 3_000_000_000  # where they tick by the second, or by two
TOLD = Mask.CREATE | Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.DELETE | Mask.MOVED_FROM
LOST = Mask.Q_OVERFLOW | Mask.IGNORED | Mask.UNMOUNT


class Watch:
    """The names that inotify tells of one directory since the last time it was asked."""

    def __init__(self, directory: Path) -> None:
        self._inotify = Inotify(cache_size=256, sync_timeout=0)
        try:
            self._inotify.add_watch(directory, TOLD)
            found = os.stat(directory)
        except OSError:
            self._inotify.close()
            raise
        self.place = (found.st_dev, found.st_ino)

    def told(self) -> set[str] | None:
        """File names; None when it lost count, or the directory is gone."""
        names: set[str] = set()
        while (event := self._inotify.sync_get()) is not None:
            if event.mask & LOST:
                return None
            names.add(str(event.name or ""))
        return {name for name in names if name and not name.startswith(".")}

    def close(self) -> None:
        """Let go of the directory."""
        self._inotify.close()


class Listing:
    """What was found in one directory. `read` opens a record safely by its id."""

    def __init__(self, directory: Path, read: Callable[[str], bytes]) -> None:
        self._directory, self._read = directory, read
        self._log: list[str] = []  # ids in the order in which they came, changed or went
        self._ids: list[str] = []
        self._watch: Watch | None = None
        self._scanned_s: float | None = None
        self._forget()

    def _forget(self) -> None:
        self._log += self._ids
        self._inodes: dict[str, int] = {}  # file name -> inode, of those found complete
        self._marks: dict[str, tuple[int, int, int]] = {}
        self._faulty: set[str] = set()
        self._ids = []
        self._rested_ns: int | None = None
        self._mtime_ns: int | None = None

    def ids(self) -> list[str]:
        """The ids of complete records, sorted. One that is damaged in place later is found by `faults`."""
        self._look_again()
        return list(self._ids)

    def changed(self, since: int) -> tuple[int, list[str]]:
        """A mark for the next call, and what came, changed or went after the mark `since` (0: all there ever was)."""
        self._look_again()
        return len(self._log), self._log[since:]

    def _look_again(self) -> None:
        now_ns = time.time_ns()
        try:
            if self._told():
                return
            changed_ns = os.stat(self._directory).st_mtime_ns
            if changed_ns == self._rested_ns and self._watch is None:
                return
            self._watch_it()
            with os.scandir(self._directory) as scan:
                there = {entry.name: entry.inode() for entry in scan if not entry.name.startswith(".")}
        except FileNotFoundError:
            self._forget()
            return
        self._scanned_s, self._mtime_ns = time.monotonic(), changed_ns
        for name in self._inodes.keys() - there.keys():
            self._drop(name)
        self._faulty &= there.keys()
        for name, _ in there.items() - self._inodes.items():
            self._look(name)
        rested_ns = RESTED_NS if changed_ns % 1_000_000_000 else RESTED_COARSE_NS
        self._rested_ns = changed_ns if not self._faulty and now_ns - changed_ns > rested_ns else None

    def _told(self) -> bool:
        """Whether inotify is to be believed now, and what it told was taken in."""
        if self._watch is None or self._scanned_s is None or time.monotonic() - self._scanned_s >= RESCAN_S:
            return False
        names, found = self._watch.told(), os.stat(self._directory)
        if names is None or (found.st_dev, found.st_ino) != self._watch.place:
            return False
        if not names and found.st_mtime_ns != self._mtime_ns:
            return False  # something happened here that it did not tell
        self._mtime_ns = found.st_mtime_ns
        for name in names | self._faulty:
            self._look(name)
        return True

    def _watch_it(self) -> None:
        """Watch a large folder from the second scan on: who looks once needs none. Without it a change costs a scan."""
        if self._watch is not None:
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(self._directory)
                if (found.st_dev, found.st_ino) == self._watch.place and self._watch.told() is not None:
                    return
            self._watch.close()
            self._watch = None
        if self._scanned_s is not None and len(self._inodes) >= WATCHED_FROM:
            with contextlib.suppress(OSError):
                self._watch = Watch(self._directory)

    def faults(self) -> dict[str, str]:
        """File name -> why it is not a record. Looks at every file anew. Bytes that are no text are spelled out."""
        try:
            with os.scandir(self._directory) as scan:
                there = sorted(entry.name for entry in scan if not entry.name.startswith("."))
        except FileNotFoundError:
            return {}
        found = {name: self._look(name) for name in there}
        return {_text(name): _text(fault) for name, fault in found.items() if fault is not None}

    def _look(self, name: str) -> str | None:
        """Why a file is no record; takes it in, or drops it."""
        before, fault = self._marks.get(name), self._fault(name)
        if fault is not None:
            self._drop(name)
            self._rested_ns = None
            (self._faulty.discard if fault == "gone" else self._faulty.add)(name)
            return fault
        self._faulty.discard(name)
        record_id = name.removesuffix(SUFFIX)
        if name not in self._inodes:
            bisect.insort(self._ids, record_id)
        if before != self._marks[name]:
            self._log.append(record_id)
        self._inodes[name] = self._marks[name][0]
        return None

    def _drop(self, name: str) -> None:
        self._marks.pop(name, None)
        if self._inodes.pop(name, None) is not None:
            record_id = name.removesuffix(SUFFIX)
            del self._ids[bisect.bisect_left(self._ids, record_id)]
            self._log.append(record_id)

    def _fault(self, name: str) -> str | None:
        record_id = name.removesuffix(SUFFIX)
        if not name.endswith(SUFFIX) or not NAME.fullmatch(record_id):
            return "not a record's name"
        try:
            found = os.lstat(self._directory / name)
            if not stat.S_ISREG(found.st_mode):
                return "not a regular file"
            mark = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._marks.get(name) != mark:
                check_document(self._read(record_id), record_id)
                self._marks[name] = mark
        except (KeyError, FileNotFoundError):
            return "gone"
        except (RecordError, OSError) as exc:
            return str(exc)
        return None


def check_document(data: bytes, name: str) -> None:
    """Raise RecordError unless the bytes are one whole JSON object."""
    try:
        if not isinstance(json.loads(data), dict):
            raise RecordError(f"{name}: not a JSON object")
    except (ValueError, RecursionError) as exc:
        raise RecordError(f"{name}: {'empty' if not data.strip() else 'torn or not JSON'}") from exc


def _text(said: str) -> str:
    """As it can be written into a record: a name that is not UTF-8 has halves of characters in it."""
    return said.encode(errors="backslashreplace").decode()
