"""Whose a file is that a command makes in somebody's folder: the folder's owner's, as is the folder (LOOP-1, RUN-7).

Each stage writes as a user of its own, and a runtime root is its executor's. A command that speaks for several of them
runs as root, and a folder, a lock or a record that root owned would keep the stage itself out from then on. So root
makes them with the owner's own file rights (`setfsuid`, this thread's alone): they are the owner's from their first
moment on, wherever the command is killed, and a link in there leads nowhere that the owner could not go himself.
Nothing here changes what was there before.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
ASK = 0xFFFFFFFF  # no id: the call answers with the one that holds, and changes nothing


@contextlib.contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Make files meanwhile as the owner and the group of `folder`, or of what it will be made in; for root only.

    It is about this thread, so nothing may be awaited meanwhile; what is started meanwhile stays that user.

    Raises:
        PermissionError: the kernel does not let us be that user (a namespace without him).
    """
    if os.geteuid() != 0:
        yield
        return
    owner = _there(folder).stat()
    libc = _libc()
    before = libc.setfsuid(ASK), libc.setfsgid(ASK)
    if before == (owner.st_uid, owner.st_gid):
        yield
        return
    try:
        _be(libc, owner.st_uid, owner.st_gid, folder)
        yield
    finally:
        _be(libc, *before, folder)


def maker(folder: Path) -> int:
    """The user who owns what this process makes in `folder` under `as_owner`."""
    return os.geteuid() or _there(folder).stat().st_uid


def make_folder(path: Path, mode: int) -> None:
    """`path` with its missing parents, each the property of whoever owns the folder that it was made in.

    Raises:
        OSError: it cannot be made, or is no folder.
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent, 0o777)
    try:
        with as_owner(path.parent):
            path.mkdir(mode=mode)
    except FileExistsError:
        if not path.is_dir():
            raise


def open_lock(path: Path, mode: int) -> int:
    """A descriptor of the lock file `path`; one that was not there yet belongs to its folder's owner."""
    try:
        with as_owner(path.parent):
            return os.open(path, LOCK_FLAGS | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, LOCK_FLAGS, mode)


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _be(libc: Any, uid: int, gid: int, folder: Path) -> None:
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    if (libc.setfsuid(ASK), libc.setfsgid(ASK)) != (uid, gid):
        why = f"its owner's user {uid} and group {gid} are unknown to this kernel namespace"
        raise PermissionError(errno.EPERM, why, str(folder))


@functools.cache
def _libc() -> Any:
    import ctypes  # only where it is needed: root, in somebody else's folder

    libc = ctypes.CDLL(None)
    for call in (libc.setfsuid, libc.setfsgid):
        call.argtypes, call.restype = (ctypes.c_uint32,), ctypes.c_uint32
    return libc
