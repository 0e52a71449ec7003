"""The parts of a site's SSH certificate authority (RUN-3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hyops.model.pki import Issued, Revocation


class PublicKey(Protocol):
    """A key that can be certified."""

    @property
    def line(self) -> str:
        """Kind and base64, without the comment."""

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as OpenSSH writes it."""


class CertificateAuthority(Protocol):
    """The two private keys. The host CA signs host certificates and nothing else."""

    def public_key(self, text: str, source: str) -> PublicKey:
        """Read one line of a public key; ConfigError says what it is instead."""

    def sign(self, issued: Issued, key: PublicKey) -> bytes:
        """The certificate as one line of text.

        Raises:
            PrerequisiteError: the CA's key cannot be read. ConfigError: it is not one, or the passphrase is wrong.
        """

    def throwaway(self) -> tuple[bytes, str]:
        """A fresh key that nobody has seen yet: private (OpenSSH's own form) and public."""


class PkiRegister(Protocol):
    """What was issued and revoked. Both lists only grow; RecordError when either cannot be read."""

    def issue(self, make: Callable[[int], Issued]) -> Issued:
        """Write down one more; `make` gets the next serial. Durable when this returns, and the serial is spent."""

    def issued(self) -> list[Issued]:
        """All, oldest first."""

    def revoke(self, make: Callable[[int], Revocation | None]) -> Revocation | None:
        """Write down one more, and make OpenSSH's revocation list anew from all of them, also for None."""

    def revocations(self) -> list[Revocation]:
        """All, oldest first."""
