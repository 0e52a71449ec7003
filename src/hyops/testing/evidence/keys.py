"""Keys made from seeds, for every stage, and a fake of the approvers' signatures: the same in every run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hyops.errors import NotApprovedError, RecordError
from hyops.model import canonical
from hyops.model.presence import Presence
from hyops.ports.signer import ApproverSignature

START = datetime(2026, 3, 14, 3, 0, 7, 210000, tzinfo=UTC)


class SeedSigner:
    """An Ed25519 key that is the same in every run; for tests only."""

    def __init__(self, name: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def keyid(self) -> str:
        """`sha256:<hex>` of the raw public key."""
        return canonical.digest_bytes(self.public)

    def sign(self, data: bytes) -> bytes:
        """The 64-byte signature."""
        return self._key.sign(data)


class SeedVerifier:
    """Trusts the given public keys with the given roles."""

    def __init__(self, keys: Mapping[bytes, frozenset[str]]) -> None:
        self._keys = {canonical.digest_bytes(raw): (raw, roles) for raw, roles in keys.items()}

    def verify(self, keyid: str, data: bytes, signature: bytes) -> None:
        """Return when good; raises RecordError."""
        if keyid not in self._keys:
            raise RecordError(f"key {keyid} is not trusted")
        try:
            Ed25519PublicKey.from_public_bytes(self._keys[keyid][0]).verify(signature, data)
        except InvalidSignature as exc:
            raise RecordError(f"key {keyid}: the signature is not over these bytes") from exc

    def roles(self, keyid: str) -> frozenset[str]:
        """What the key may sign."""
        return self._keys[keyid][1] if keyid in self._keys else frozenset()


class SeedApprovals:
    """Stands in for `ssh-keygen -Y verify`."""

    def __init__(
        self, *principals: str, roles: frozenset[str] = frozenset({"approver"}), presence: Presence | None = None
    ) -> None:
        self._principals, self._roles, self._presence = principals, roles, presence

    @staticmethod
    def sign(principal: str, data: bytes) -> str:
        """What the fake takes for a signature."""
        return f"fake {principal} {hashlib.sha256(principal.encode() + data).hexdigest()}"

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Return who signed; raises NotApprovedError."""
        if principal not in self._principals:
            raise NotApprovedError(f"{principal} is not an allowed signer")
        if ssh_signature != self.sign(principal, data):
            raise NotApprovedError("the signature is not over these bytes")
        return ApproverSignature(principal, self._roles, f"SHA256:{principal}", self._presence)


def base64_of(signer: SeedSigner) -> str:
    """The public key as `trusted_keys.json` holds it."""
    return base64.b64encode(signer.public).decode()


STAGES = {role: SeedSigner(role) for role in ("decision", "dispatch", "approval", "execution", "runner:cloud-runner")}
VERIFIER = SeedVerifier({signer.public: frozenset({role}) for role, signer in STAGES.items()})
APPROVER = "ada@example.org"
APPROVALS = SeedApprovals(APPROVER)
