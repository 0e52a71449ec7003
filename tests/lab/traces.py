"""A search of whole hosts of the lab for a secret: disks, memory file systems, open files, processes, journals.

From outside, as root: what a host can hide from its own users it cannot hide from here. A file that has not changed
since it was searched is not read again; the changed ones are, whatever wrote them.
"""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from hyops_lab import Lab
from hyops_lab.machine import Machine, processes

MEMORY = ("run", "tmp", "dev/shm")  # file systems of their own, which the writable layer does not have
PART_BYTES = 1 << 20
MARK = "c4nary9Lab7f41b9"
CANARY = f'{MARK} "d"\'c/+\nEOF\n$(reboot) `{MARK}`\\n%41'
"""Quotes, a newline, a here-document's end and what a shell would run; the mark in it survives every escaping."""


def needles(mark: str) -> list[bytes]:
    """The mark as it is in raw, URL-, JSON- and shell-escaped text, and in hex and base64 at each of its alignments."""
    raw = mark.encode()
    coded = [base64.b64encode(b"\0" * n + raw)[4 if n else 0 : -4] for n in range(3)]
    return [raw, raw.hex().encode(), raw.hex().upper().encode(), *coded]


@dataclass
class Traces:
    """The hosts to search; `finds` of one of them lists every place that has the secret, `host: where`."""

    lab: Lab
    hosts: tuple[str, ...]
    needles: list[bytes] = field(default_factory=lambda: needles(MARK))
    files: int = 0
    """How many files were read by now."""
    _clean: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=dict)
    _cursors: dict[str, str] = field(default_factory=dict)

    def finds(self) -> list[str]:
        """Everything that there is now, on all of the hosts."""
        return [find for host in self.hosts for find in self._of(host)]

    def _of(self, host: str) -> Iterator[str]:
        machine = self.lab.machine(host)
        for path in self._changed(machine):
            if self._has(path):
                yield f"{host}: {path}"
        for pid in processes(machine.cgroup):
            for where in self._of_process(pid):
                yield f"{host}: {where}"
        if self._in(self._journal(host)):
            yield f"{host}: the journal"

    def _changed(self, machine: Machine) -> Iterator[Path]:
        """Regular files that are new, or not what they were when they were searched."""
        inside = Path(f"/proc/{machine.leader()}/root")
        for root in (machine.disk / "upper", machine.log, *(inside / name for name in MEMORY)):
            for path in _files(root):
                with contextlib.suppress(FileNotFoundError):
                    seen = path.lstat()
                    place, state = (seen.st_dev, seen.st_ino), (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
                    if stat.S_ISREG(seen.st_mode) and self._clean.get(place) != state:
                        self._clean[place] = state
                        yield path

    def _has(self, path: Path) -> bool:
        self.files += 1
        try:
            with path.open("rb") as file:
                found = self._in_file(file)
        except FileNotFoundError:  # gone meanwhile
            return False
        if found:
            self._forget(path)
        return found

    def _in_file(self, file: BinaryIO) -> bool:
        """Part by part, not mapped: a map of a file that somebody cuts off meanwhile kills who reads it."""
        end, overlap = b"", max(map(len, self.needles)) - 1
        while part := file.read(PART_BYTES):
            if self._in(end + part):
                return True
            end = (end + part)[-overlap:]
        return False

    def _forget(self, path: Path) -> None:
        """A find is a find again, as long as it is there."""
        with contextlib.suppress(FileNotFoundError):
            seen = path.lstat()
            self._clean.pop((seen.st_dev, seen.st_ino), None)

    def _of_process(self, pid: int) -> Iterator[str]:
        """Its arguments and environment, and the files that it holds open though they have no name any more."""
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if self._in(Path(f"/proc/{pid}/{name}").read_bytes()):
                    yield f"{name} of {pid}"
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    nameless = os.readlink(link).endswith(" (deleted)") and stat.S_ISREG(link.stat().st_mode)
                    if nameless and self._in(link.read_bytes()):
                        yield f"{os.readlink(link)} of {pid}"

    def _journal(self, host: str) -> bytes:
        """What was logged since the last search, with every field: a file of the journal may be compressed."""
        after = [f"--after-cursor={self._cursors[host]}"] if host in self._cursors else []
        said = self.lab.exec(
            host, ["journalctl", "-q", "--no-pager", "-a", "-o", "json", "--show-cursor", *after]
        ).stdout
        said, _, cursor = said.rpartition("-- cursor: ")
        if cursor:
            self._cursors[host] = cursor.strip()
        return said.encode()

    def _in(self, data: bytes) -> bool:
        return any(needle in data for needle in self.needles)


def _files(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        yield root
        return
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in names)
