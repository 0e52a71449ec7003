"""Whose a file is that an operator's command makes in a stage's folder: the stage's, as is the folder (LOOP-1).

Each stage writes as a user of its own. A command that speaks for several of them runs as root, and a lock or a counter
that root owned would keep the stage itself out from then on. Nothing here changes what was there before.
"""

from __future__ import annotations

import os
from pathlib import Path

LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def as_folder(fd: int, folder: Path) -> None:
    """Give what this process has just made in `folder` to the folder's owner and group; only root can, or has to."""
    if os.geteuid() != 0:
        return
    owner = folder.stat()
    os.fchown(fd, owner.st_uid, owner.st_gid)


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
        path.mkdir(mode=mode)
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        as_folder(fd, path.parent)
    finally:
        os.close(fd)


def open_lock(path: Path, mode: int) -> int:
    """A descriptor of the lock file `path`; one that was not there yet belongs to its folder's owner."""
    try:
        fd = os.open(path, LOCK_FLAGS | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, LOCK_FLAGS, mode)
    try:
        as_folder(fd, path.parent)
    except OSError:
        os.close(fd)
        raise
    return fd
