"""Private keys as files: PKCS8 PEM, unencrypted, for their owner alone (LOOP-2, SEC-3).

Owner only, for every kind of key: each stage and runner is a user of its own with a key of its own, so no group has a
reason to read one, and a group that may read it may sign as that stage. An ACL shows as group rights and is refused
too. Whose the file is does not matter here: who can open a file that only its owner can open is the owner, or root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hyops.errors import ConfigError, PrerequisiteError

Key = TypeVar("Key", Ed25519PrivateKey, X25519PrivateKey)
KEY_BYTES_MAX = 4096
PEM = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def load(path: Path, kind: type[Key], make: str) -> Key:
    """The key of that kind that lies at `path`.

    Args:
        path: the file itself; a link is not followed, and a pipe is not waited for.
        kind: what the key must be.
        make: the hint of how to make one, when there is none.
    Raises:
        PrerequisiteError: missing, unreadable or a link. ConfigError: no file, for others too, or not such a key.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise PrerequisiteError(f"key {path}: a link", hint="name the key file itself") from exc
        why = "missing" if exc.errno == errno.ENOENT else exc.strerror
        raise PrerequisiteError(f"key {path}: {why}", hint=make) from exc
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"key {path}: not a file", hint=make)
        if mode & 0o077:
            raise ConfigError(f"key {path}: others may read or change it", hint=f"chmod 600 {path}")
        data = os.read(handle, KEY_BYTES_MAX)
    except OSError as exc:
        raise PrerequisiteError(f"key {path}: {exc.strerror}") from exc
    finally:
        os.close(handle)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"key {path}: {'not an unencrypted PKCS8 PEM key' if data else 'empty'}") from exc
    if not isinstance(key, kind):
        raise ConfigError(f"key {path}: not an {kind.__name__.removesuffix('PrivateKey')} key")
    return key


def create(path: Path, key: Ed25519PrivateKey | X25519PrivateKey) -> None:
    """Keep a key at `path`, mode 0600, durable, never over another one: a key that stands there stays.

    Raises:
        PrerequisiteError: it cannot be written.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(key.private_bytes(*PEM))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise PrerequisiteError(f"key {path}: {exc.strerror}") from exc
