"""Keys: stages and runners sign records (Ed25519); people sign approvals (OpenSSH)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from hyops.model.presence import Presence


class Signer(Protocol):
    """Holds one private key."""

    @property
    def keyid(self) -> str:
        """`sha256:<hex>` of the raw 32-byte public key."""

    def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature."""


class Verifier(Protocol):
    """Holds trusted public keys, each with the roles it may speak for."""

    def verify(self, keyid: str, data: bytes, signature: bytes) -> None:
        """Return when good.

        Raises:
            RecordError: the key is not trusted, or the signature is not over these bytes.
        """

    def roles(self, keyid: str) -> frozenset[str]:
        """What the key may sign: `decision`, `dispatch`, `approval`, `execution`, `runner:<ref>`; empty if unknown."""


@dataclass(frozen=True)
class ApproverSignature:
    """Whose OpenSSH signature it is, as the allowed signers file knows them."""

    principal: str
    roles: frozenset[str]
    key_fingerprint: str
    presence: Presence | None = None
    """What a security key says of the person; None: it was made with another kind of key."""


class ApprovalVerifier(Protocol):
    """Checks an armored SSHSIG against an allowed signers file."""

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Return who signed.

        Raises:
            NotApprovedError: unlisted, revoked, outside its validity, another namespace, or not over these bytes.
        """
