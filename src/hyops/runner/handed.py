"""The secrets of runs: in memory only, and in no file that a killed process leaves (RUN-8, INV-10).

They are written to a file without a name, which gets its name when it is whole: killed anywhere before, nothing is
left. Where a run has secrets already the new ones get a name beside them and are renamed over them, so at no time it
has none; where the file system has no files without a name, one is written beside and renamed too. What is left of
that, and of runs that are over, is swept. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from hyops.errors import ConfigError, PrerequisiteError
from hyops.runner import folders as disk

PARTIAL = re.compile(r"\.(?P<run_id>.+)\.(?P<pid>[0-9]+)\.partial")
WRITTEN_S = 60.0  # nobody writes for so long: the process of that number is another one by now
_NAMELESS_UNKNOWN = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


def put(folder: Path, run_id: str, secrets: Mapping[str, str]) -> None:
    """Write a run's secrets, in place of what it had; the caller holds the runner's lock.

    Raises:
        PrerequisiteError: the folder is not on a memory file system, or is full. ConfigError: it is not ours.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    disk.check_ours(folder)
    if _file_system(folder) not in ("tmpfs", "ramfs"):
        raise PrerequisiteError(f"{folder} is on a disk; secrets are kept in memory only")
    data = json.dumps(dict(secrets)).encode()
    try:
        if not _nameless(folder, run_id, data):
            disk.write_file(folder / run_id, data, durable=False)
    except OSError as exc:
        if exc.errno in disk.NO_ROOM:
            raise PrerequisiteError(f"cannot write {folder / run_id}: {exc.strerror}") from exc
        raise


def drop(folder: Path, run_id: str) -> None:
    """Remove what a run was handed, and what a killed writer has left of it."""
    with contextlib.suppress(FileNotFoundError):
        (folder / run_id).unlink()
    for name, found in _partials(folder):
        if found["run_id"] == run_id:
            (folder / name).unlink(missing_ok=True)


def sweep(folder: Path, over: Callable[[str], bool], *, now: float) -> None:
    """Remove what dead writers have left, and the secrets of runs that are `over`; the caller holds the lock.

    Another runner on this host may keep its secrets in the same folder: what may be its own stays.
    """
    try:
        disk.check_ours(folder)
    except (ConfigError, FileNotFoundError):
        return  # nothing of ours was put there
    for name, found in _partials(folder):
        with contextlib.suppress(FileNotFoundError):
            age_s = abs(now - os.lstat(folder / name).st_mtime)
            if age_s > WRITTEN_S or not os.path.exists(f"/proc/{found['pid']}"):
                (folder / name).unlink()
    for name in _names(folder):
        if disk.RUN_ID.fullmatch(name) and over(name):
            (folder / name).unlink(missing_ok=True)


def _nameless(folder: Path, run_id: str, data: bytes) -> bool:
    """Write a file without a name, then name it; False where that cannot be done, and then nothing is there."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=at)
        except OSError as exc:
            if exc.errno in _NAMELESS_UNKNOWN:
                return False
            raise
        try:
            with open(fd, "wb", closefd=False) as out:
                out.write(data)
            _name(fd, run_id, at)
        finally:
            os.close(fd)
    finally:
        os.close(at)
    return True


def _name(fd: int, run_id: str, at: int) -> None:
    """Give the file the run's name: a name is only given, never taken over, so an old file goes by a rename."""
    nameless, beside = f"/proc/self/fd/{fd}", f".{run_id}.{os.getpid()}.partial"
    try:
        os.link(nameless, run_id, dst_dir_fd=at, follow_symlinks=True)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):  # of a killed writer that had our number
            os.unlink(beside, dir_fd=at)
        os.link(nameless, beside, dst_dir_fd=at, follow_symlinks=True)
        try:
            os.rename(beside, run_id, src_dir_fd=at, dst_dir_fd=at)
        except OSError:
            os.unlink(beside, dir_fd=at)
            raise


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _partials(folder: Path) -> list[tuple[str, re.Match[str]]]:
    return [(name, found) for name in _names(folder) if (found := PARTIAL.fullmatch(name)) is not None]


def _file_system(folder: Path) -> str:
    """The type of the file system that holds a folder."""
    best, kind = "", ""
    real = os.path.realpath(folder)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind
