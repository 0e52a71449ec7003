"""The sign below a stage's home that its records are elsewhere by now, or on their way: nobody reads or writes here.

`<home>/state/.moved` says where to. A stage or command that is still configured for the folder ends with the mend; a
writer that was at work before sees it under its lock, so that nothing comes after the sign. And the lock by which a
running stage shows itself, `<home>/state/.serving`: each one shares it, a move has it alone. Whoever only looks takes
none, since that would keep a stage or another look out: each stage marks the file with a lock of a second kind too,
and the kernel tells of that one without taking it (fcntl(2), `F_OFD_GETLK`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyops.errors import PrerequisiteError
from hyops.ownership import as_owner, make_folder, open_lock

SIGN, SERVING = ".moved", ".serving"
FLOCK = "hhqqi4x"  # fcntl_locking(2): short, short, off_t, off_t, pid_t
WORDS_BYTES_MAX = 4096


class ServingError(PrerequisiteError):
    """A stage runs on these records."""


MEND = (
    "configure `store` as the other stages have it; or bring the records back with `hyops control migrate`, which also "
    "finishes a move that was interrupted"
)


def moved(folder: Path) -> str | None:
    """Where the records of this folder are; None: here."""
    try:
        with open(folder / SIGN, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PrerequisiteError(f"{folder / SIGN}: not a regular file", hint="look at it, and move it away")
            return file.read(WORDS_BYTES_MAX).decode(errors="backslashreplace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise PrerequisiteError(f"{folder / SIGN}: {exc.strerror}", hint="make it readable for this user") from exc


def refuse_moved(folder: Path) -> None:
    """Raise PrerequisiteError where the records are somewhere else."""
    if (where := moved(folder)) is not None:
        raise PrerequisiteError(f"{folder}: {where}; nothing was read or written here", hint=MEND)


@contextmanager
def serving(state: Path, *, alone: bool = False) -> Iterator[None]:
    """Show that a stage runs on the records below `state`; or, `alone`, that they are moved and no stage runs.

    Raises:
        PrerequisiteError: a stage runs, or the records are being moved. OSError: the folder takes no lock.
    """
    make_folder(state, 0o750)
    fd = open_lock(state / SERVING, 0o640)
    try:
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if alone:
                what = "the stage of this home still runs; nothing was touched"
                raise ServingError(f"{state}: {what}", hint="stop its service first") from None
            what = "the records are being moved right now; nothing was touched"
            raise PrerequisiteError(f"{state}: {what}", hint="wait until `hyops control migrate` has ended") from None
        if not alone:
            with contextlib.suppress(OSError):  # for people alone; nothing depends on it
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_RDLCK))
        yield
    finally:
        os.close(fd)


def is_served(state: Path) -> bool:
    """Whether a stage runs on the records below `state`; it is not disturbed, and nothing is made.

    Raises:
        OSError: this user may not look.
    """
    try:
        fd = os.open(state / SERVING, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO):
            return False  # a link, a socket: no stage takes its lock there
        raise
    try:
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
    finally:
        os.close(fd)
    (kind,) = struct.unpack_from("h", found)
    return bool(kind != fcntl.F_UNLCK)


def _whole_file(kind: int) -> bytes:
    """`struct flock`: type, from the start, all of it, no process."""
    return struct.pack(FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def _at_once(name: str, flags: int) -> int:
    """Open without waiting for the other end of what is no file."""
    return os.open(name, flags | os.O_NONBLOCK)


def sign(folder: Path, words: str) -> None:
    """Set the sign, durably and all at once."""
    with as_owner(folder):
        fresh = folder / f"{SIGN}~{secrets.token_hex(4)}"
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            with os.fdopen(fd, "w") as file:
                file.write(words + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, folder / SIGN)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
    sync(folder)


def unsign(folder: Path) -> None:
    """Take the sign away, durably."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / SIGN)
        sync(folder)


def sync(folder: Path) -> None:
    """Have what was renamed in a folder outlive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
