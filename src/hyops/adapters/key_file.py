"""Private keys as files: PKCS8 PEM, unencrypted, for their owner alone (LOOP-2, SEC-3).

Owner only, for every kind of key: each stage and runner is a user of its own with a key of its own, so no group has a
reason to read one, and a group that may read it may sign as that stage. Whose the file is does not matter then: who can
open a file that only its owner can open is the owner, or root.

An ACL shows as group rights (its mask). It is read, and taken where it lets in nobody but this user and root: so
systemd's LoadCredential= hands a key over where credentials lie on a file system with ACLs (root's file, 0440, an entry
for the unit's user). Where they lie on ramfs, as on Debian 12, it is the user's own file, 0400.
Source: systemd 252, `write_credential`; acl(5); linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
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

ACL = "system.posix_acl_access"
ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20


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
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"key {path}: not a file", hint=make)
        if found.st_mode & 0o077 and not _ours_by_acl(handle, found):
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


def _ours_by_acl(handle: int, found: os.stat_result) -> bool:
    """Whether the rights beyond the owner's are an ACL's, and it and the owner name this user and root alone.

    The entries count as they are written, whatever the mask leaves of them: a chmod would raise the mask. One that this
    cannot read is no reason to believe.
    """
    ours = (0, os.geteuid())
    try:
        data = os.getxattr(handle, ACL)
    except OSError:  # no ACL, or a file system without: the rights are a group's, or the world's
        return False
    if found.st_uid not in ours or len(data) % 8 != 4 or struct.unpack_from("<I", data)[0] != ACL_VERSION:
        return False
    entries = list(struct.iter_unpack("<HHI", data[4:]))
    for tag, rights, who in entries:
        harmless = tag in (_USER_OBJ, _MASK) or (tag == _USER and who in ours)
        if not harmless and (tag not in (_GROUP_OBJ, _OTHER) or rights):
            return False
    return {_USER_OBJ, _GROUP_OBJ, _OTHER} <= {tag for tag, _, _ in entries}


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
