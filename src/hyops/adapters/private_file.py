"""A secret of one line in a file of its owner's alone (INV-10): read at each use, so a rotated one is used at once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hyops.errors import ConfigError, PrerequisiteError

BYTES_MAX = 4096


def read_private(path: Path, what: str) -> str:
    """The line in it.

    Raises:
        PrerequisiteError: missing, unreadable or a link. ConfigError: others may read it, or it is no line of text.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise PrerequisiteError(
            f"{what} {path}: {exc.strerror}", hint="write it there, for this service's user"
        ) from exc
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{what} {path}: not a file")
        if found.st_mode & 0o077:
            raise ConfigError(f"{what} {path}: others may read it", hint=f"chmod 600 {path}")
        data = os.read(handle, BYTES_MAX + 1)
    except OSError as exc:
        raise PrerequisiteError(f"{what} {path}: {exc.strerror}") from exc
    finally:
        os.close(handle)
    line = data.strip()
    if not line or len(data) > BYTES_MAX or not line.isascii() or not line.decode("ascii").isprintable():
        raise ConfigError(f"{what} {path}: not one line of text", hint="write the secret there, and nothing else")
    return line.decode("ascii")
