"""The public half of a login key, as authorized_keys wants it."""

from __future__ import annotations

from pathlib import Path

from hyops.adapters.ssh_library import asyncssh
from hyops.errors import PrerequisiteError


def public_of(key_file: Path) -> str:
    """`ssh-ed25519 AAAA...`, one line.

    Raises:
        PrerequisiteError: the key cannot be read, or not without a passphrase.
    """
    try:
        public = asyncssh.read_private_key(str(key_file)).export_public_key().decode()
    except OSError as exc:
        raise PrerequisiteError(f"{key_file}: {exc.strerror}", hint="run this as the executor's user") from exc
    except ValueError as exc:  # KeyImportError, KeyEncryptionError
        raise PrerequisiteError(f"{key_file}: {exc}", hint="name a private key without a passphrase") from exc
    return " ".join(public.split()[:2])
