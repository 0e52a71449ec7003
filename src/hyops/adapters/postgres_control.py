"""PostgreSQL's own files, read without asking the server: the control file, `postmaster.pid`, the signal files.

Source: PostgreSQL `src/include/catalog/pg_control.h`; the fields read here have not moved since version 9.
"""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from hyops.errors import TargetError

CONTROL_VERSIONS = range(1100, 1901)  # PostgreSQL 11 and later
_CONTROL = struct.Struct("=QIIi4xqQQI")


class ClusterState(IntEnum):
    """`DBState` of the control file."""

    STARTUP = 0
    SHUT_DOWN = 1
    SHUT_DOWN_IN_RECOVERY = 2
    SHUTTING_DOWN = 3
    CRASH_RECOVERY = 4
    ARCHIVE_RECOVERY = 5
    PRODUCTION = 6


@dataclass(frozen=True)
class ControlFile:
    """What the cluster last wrote about itself."""

    system_identifier: str
    state: ClusterState
    checkpoint_lsn: str
    timeline: int


def read_control(data_dir: Path) -> ControlFile:
    """Raises TargetError when it is missing or of an unknown version."""
    try:
        data = (data_dir / "global" / "pg_control").read_bytes()
        system, version, _, state, _, checkpoint, _, timeline = _CONTROL.unpack_from(data)
        if version not in CONTROL_VERSIONS:
            raise TargetError(f"{data_dir}: control file of version {version}", hint="PostgreSQL 11 or later is needed")
        return ControlFile(str(system), ClusterState(state), format_lsn(checkpoint), timeline)
    except (OSError, struct.error, ValueError) as exc:
        raise TargetError(f"{data_dir}: no readable control file: {exc}") from exc


def format_lsn(value: int) -> str:
    """`0/3000148`."""
    return f"{value >> 32:X}/{value & 0xFFFFFFFF:X}"


@dataclass(frozen=True)
class Postmaster:
    """A running server. `ready` is what it wrote of itself: `ready`, `standby`, `starting`, `stopping`."""

    pid: int
    ready: str


def running(data_dir: Path) -> Postmaster | None:
    """The server that runs on this folder; a process number that was given to somebody else does not count."""
    try:
        lines = (data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        pid = int(lines[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    if pid <= 1 or not is_postmaster(pid, data_dir):
        return None
    return Postmaster(pid, lines[7].strip() if len(lines) > 7 else "starting")


def is_postmaster(pid: int, data_dir: Path) -> bool:
    """Whether the process is a server that works in this folder, and still runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        name, state = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2]
        return name in ("postgres", "postmaster") and state != "Z" and Path(f"/proc/{pid}/cwd").samefile(data_dir)
    except (OSError, ValueError, IndexError):
        return False


def processes(data_dir: Path) -> list[int]:
    """Every process of the server that works in this folder: the postmaster, and backends that have outlived it."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in numbers if is_postmaster(pid, data_dir)]


def titles(data_dir: Path) -> dict[int, str]:
    """What each process of the server says it does, by number: `walsender replicator 10.0.0.2(41814) streaming`."""
    said = {}
    for pid in processes(data_dir):
        with contextlib.suppress(OSError):  # it has just ended
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            said[pid] = words.removeprefix("postgres: ")
    return said


def wal_senders(data_dir: Path) -> list[int]:
    """The processes that send WAL to standbys; a cluster name may stand before the word."""
    return [pid for pid, title in titles(data_dir).items() if re.match(r"(\S+: )?walsender\b", title)]


def unnamed(data_dir: Path, postmaster: int) -> list[int]:
    """The children that still have the server's own title: connections that have not said yet who they are."""
    own = titles(data_dir)
    return [pid for pid, title in own.items() if pid != postmaster and title == own.get(postmaster)]
