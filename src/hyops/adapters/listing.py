"""Which files of a directory are complete records. A folder keeps every record of years, so a file that was found
complete is not opened again, and a directory that has rested since is not even read.
"""

from __future__ import annotations

import bisect
import json
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

from hyops.errors import RecordError

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
SUFFIX = ".json"
RESTED_NS = 20_000_000  # file times tick every 10 ms at worst: a younger directory may change without a sign of it
RESTED_COARSE_NS = 3_000_000_000  # where they tick by the second, or by two


class Listing:
    """What was found in one directory. `read` opens a record safely by its id."""

    def __init__(self, directory: Path, read: Callable[[str], bytes]) -> None:
        self._directory, self._read = directory, read
        self._forget()

    def _forget(self) -> None:
        self._inodes: dict[str, int] = {}  # file name -> inode, of those found complete
        self._marks: dict[str, tuple[int, int, int]] = {}
        self._ids: list[str] = []
        self._rested_ns: int | None = None

    def ids(self) -> list[str]:
        """The ids of complete records, sorted. One that is damaged in place later is found by `faults`."""
        now_ns = time.time_ns()
        try:
            changed_ns = os.stat(self._directory).st_mtime_ns
            if changed_ns == self._rested_ns:
                return list(self._ids)
            with os.scandir(self._directory) as scan:
                there = {entry.name: entry.inode() for entry in scan if not entry.name.startswith(".")}
        except FileNotFoundError:
            self._forget()
            return []
        for name in self._inodes.keys() - there.keys():
            self._drop(name)
        faults = [name for name, inode in there.items() - self._inodes.items() if self._look(name, inode)]
        rested_ns = RESTED_NS if changed_ns % 1_000_000_000 else RESTED_COARSE_NS
        self._rested_ns = changed_ns if not faults and now_ns - changed_ns > rested_ns else None
        return list(self._ids)

    def faults(self) -> dict[str, str]:
        """File name -> why it is not a record. Looks at every file anew."""
        try:
            with os.scandir(self._directory) as scan:
                there = {entry.name: entry.inode() for entry in scan if not entry.name.startswith(".")}
        except FileNotFoundError:
            return {}
        found = {name: self._look(name, inode) for name, inode in sorted(there.items())}
        return {name: fault for name, fault in found.items() if fault is not None}

    def _look(self, name: str, inode: int) -> str | None:
        """Why a file is no record; takes it in, or drops it."""
        fault = self._fault(name)
        if fault is not None:
            self._drop(name)
            self._rested_ns = None
        elif name not in self._inodes:
            bisect.insort(self._ids, name.removesuffix(SUFFIX))
        if fault is None:
            self._inodes[name] = inode
        return fault

    def _drop(self, name: str) -> None:
        self._marks.pop(name, None)
        if self._inodes.pop(name, None) is not None:
            self._ids.remove(name.removesuffix(SUFFIX))

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
