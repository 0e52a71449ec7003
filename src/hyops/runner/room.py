"""A runner's disk that takes nothing more: told as what it is, with the runner and the folder (EVD-4, RUN-11).

A job that finds no room for its journal ends before its first word, and cannot say why: the disk that it would say it
on is full. So whoever waits for that word looks for himself. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hyops.errors import DiskFullError, HyopsError, PrerequisiteError
from hyops.runner.folders import NO_ROOM, write_file

RESERVE_BYTES = 256 * 1024  # what `engine.journal` holds back
RECORD_BYTES = 16 * 1024  # the first records, and the small files beside them


def lacking(folder: Path) -> str | None:
    """Why a job could not begin or go on in a run's folder, as far as the file system tells; None when it could."""
    stat = os.statvfs(folder)
    if stat.f_flag & os.ST_RDONLY:
        return "the file system is read-only"
    free = (stat.f_bfree if os.geteuid() == 0 else stat.f_bavail) * stat.f_frsize
    if free < (need := _needed(folder)):
        return f"disk full: {free} bytes are free, and the journal needs {need}"
    if stat.f_files and not stat.f_favail:
        return "disk full: no inodes are left"
    return None


def refused(folder: Path) -> str | None:
    """The same by trying: a quota shows itself only there. For a folder in which no job lives."""
    probe = folder / f".room.{os.getpid()}.partial"
    try:
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, _needed(folder))
        finally:
            os.close(fd)
    except OSError as exc:
        return f"disk full: {exc.strerror}" if exc.errno in NO_ROOM else None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return None


def full(folder: Path, why: str) -> DiskFullError:
    """The error of a run whose job could not begin, or not go on."""
    return DiskFullError(f"{folder}: {why}; the run lies there, and its job cannot go on", folder=folder)


def no_result(folder: Path, state: str) -> PrerequisiteError:
    """Why a run that has no result has none."""
    if state in ("staged", "interrupted") and (why := lacking(folder)) is not None:
        return full(folder, why)
    return PrerequisiteError(f"run {folder.name} is {state}: there is no result yet", hint="follow or resume it")


def named(exc: HyopsError | OSError, runner_ref: str, root: Path) -> HyopsError:
    """An error as it travels: a full disk says whose it is, for the one who reads it may have twenty runners."""
    if isinstance(exc, OSError):
        kind = DiskFullError if exc.errno in NO_ROOM else PrerequisiteError
        exc = kind(f"{exc.filename or root}: {exc.strerror}")
    if isinstance(exc, DiskFullError):
        exc = DiskFullError(f"{runner_ref}: {exc.message}", hint=exc.hint, effect=exc.effect, **exc.facts)
    return exc


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What the system says of a full disk, as the error that it is."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in NO_ROOM:
            raise
        raise DiskFullError(f"{exc.filename or 'disk'}: {exc.strerror}") from exc


def write_first(path: Path, data: bytes) -> None:
    """Write the one file that makes a folder a run; where there is no room for it, nothing of the run is left."""
    try:
        write_file(path, data)
    except DiskFullError:
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        raise


def _needed(folder: Path) -> int:
    return RECORD_BYTES + (0 if (folder / "journal.jsonl.reserve").exists() else RESERVE_BYTES)
