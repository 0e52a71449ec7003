"""Ed25519 keys of stages and runners, and the file of the public ones that are trusted (LOOP-2)."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from hyops.adapters import key_file
from hyops.errors import ConfigError, PrerequisiteError, RecordError
from hyops.model.base import Part, Text

RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)

MAKE_KEY = "make one as this user: `umask 077; openssl genpkey -algorithm ed25519 -out {path}`"


def keyid_of(raw_public: bytes) -> str:
    """`sha256:<hex>` of the raw 32-byte public key."""
    return "sha256:" + hashlib.sha256(raw_public).hexdigest()


class Ed25519Signer:
    """One private key in memory."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(*RAW)
        self._keyid = keyid_of(self.public)

    @classmethod
    def generate(cls) -> Ed25519Signer:
        """A fresh key that lives only in this process."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Ed25519Signer:
        """Read a file that nobody but its owner can read; see `key_file.load` for what is raised."""
        make = MAKE_KEY.format(path=path)
        return cls(key_file.load(path, Ed25519PrivateKey, make))  # type: ignore[type-abstract]  # abstract on paper only

    @classmethod
    def create(cls, path: Path) -> Ed25519Signer:
        """Make a key file 0600, durable, never over another one; load the one that stands if there is one."""
        key_file.create(path, Ed25519PrivateKey.generate())
        return cls.load(path)

    @property
    def keyid(self) -> str:
        """`sha256:<hex>` of the raw public key."""
        return self._keyid

    def sign(self, data: bytes) -> bytes:
        """The 64-byte signature."""
        return self._key.sign(data)

    def trusted(self, *roles: str, name: str | None = None) -> TrustedKey:
        """This key's entry for `trusted_keys.json`."""
        return TrustedKey(public=base64.b64encode(self.public).decode(), roles=list(roles), name=name)


class TrustedKey(Part):
    """One public key and what it may speak for."""

    public: Annotated[str, Field(max_length=64)]
    roles: list[Annotated[str, Field(pattern=r"^(decision|dispatch|approval|execution|runner:[A-Za-z0-9_.-]{1,64})$")]]
    name: Text | None = None


class TrustedKeys(Part):
    """`trusted_keys.json`."""

    keys: list[TrustedKey] = Field(max_length=1000)


class TrustedVerifier:
    """The trusted public keys. What is not listed is not trusted."""

    def __init__(self, keys: TrustedKeys) -> None:
        self._keys: dict[str, tuple[Ed25519PublicKey, frozenset[str]]] = {}
        for entry in keys.keys:
            try:
                raw = base64.b64decode(entry.public, validate=True)
                public = Ed25519PublicKey.from_public_bytes(raw)
            except ValueError as exc:
                raise ConfigError(f"trusted key {entry.name or entry.public!r}: not a base64 Ed25519 key") from exc
            if keyid_of(raw) in self._keys:
                raise ConfigError(f"trusted key {entry.name or entry.public!r} stands twice")
            self._keys[keyid_of(raw)] = (public, frozenset(entry.roles))

    @classmethod
    def load(cls, path: Path) -> TrustedVerifier:
        """Read `trusted_keys.json`."""
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise PrerequisiteError(f"trusted keys {path}: {exc.strerror}") from exc
        return cls(TrustedKeys.read(data, source=str(path)))

    def verify(self, keyid: str, data: bytes, signature: bytes) -> None:
        """Return when good; RecordError when the key is not trusted or the signature is not over these bytes."""
        found = self._keys.get(keyid)
        if found is None:
            raise RecordError(f"key {keyid} is not trusted")
        try:
            found[0].verify(signature, data)
        except InvalidSignature as exc:
            raise RecordError(f"the signature by {keyid} is not over these bytes") from exc

    def roles(self, keyid: str) -> frozenset[str]:
        """What the key may sign; empty when it is unknown."""
        found = self._keys.get(keyid)
        return found[1] if found else frozenset()
