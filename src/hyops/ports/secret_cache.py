"""Where the runtime keeps its copy of secrets (SEC-1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class SecretCache(Protocol):
    """One document, kept encrypted. Bytes in, bytes out; parsing is the caller's."""

    source: str

    def read(self) -> bytes:
        """The document, decrypted; empty when there is none yet.

        Raises:
            SecretsError: it is damaged, or the password does not open it. PrerequisiteError: no access, no password.
        """

    def update(self, change: Callable[[bytes], bytes]) -> None:
        """Replace the document by what `change` makes of it, durably, all or nothing, one writer at a time.

        `change` may be called again when a writer that knows no lock was quicker; what it raises leaves all as it was.

        Raises:
            SecretsError, PrerequisiteError: as `read`; also when another writer does not end, or the disk is full.
        """
