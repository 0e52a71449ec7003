"""Sealing secrets to a runner's own X25519 key with HPKE (RFC 9180), and opening them there (SEC-3).

The library's format, not ours: what is ours is that environment, runner, names and times are bound into the seal. A
seal proves nothing about who made it; a plan that carries one is approved by its digest like everything else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from hyops.adapters import key_file
from hyops.errors import ConfigError, Effect, SecretsError
from hyops.model import canonical
from hyops.model.sealed import Sealed
from hyops.model.secret import Secret

SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
MAKE_KEY = "make it with `hyops secrets seal-key`"
CLOCK_SKEW_S = 300.0  # two hosts' clocks are not one; a seal from further ahead is not believed


def public_key(text: str) -> X25519PublicKey:
    """A runner's public key, as `seal-key` prints it: base64 of its 32 bytes."""
    try:
        return X25519PublicKey.from_public_bytes(base64.b64decode(text.strip(), validate=True))
    except (binascii.Error, ValueError) as exc:
        raise ConfigError("the runner's public key: not base64 of 32 bytes") from exc


def seal(
    values: Mapping[str, Secret], to: X25519PublicKey, *, env: str, runner_ref: str, at: datetime, valid_s: float
) -> Sealed:
    """Secrets for one runner in one environment, for a while."""
    head = Sealed(
        env=env,
        runner_ref=runner_ref,
        key_id=_key_id(to),
        keys=sorted(values),
        sealed_at=at,
        expires_at=at + timedelta(seconds=valid_s),
    )
    text = canonical.encode({key: secret.reveal() for key, secret in values.items()})
    box = SUITE.encrypt(text, to, head.bound())
    return head.model_copy(update={"box": base64.b64encode(box).decode()})


class SealKey:
    """A runner's private key, which never leaves it."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def create(cls, path: Path) -> SealKey:
        """Make a key file 0600, durable, never over another one; load the one that stands if there is one."""
        key_file.create(path, X25519PrivateKey.generate())
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> SealKey:
        """Read a file that nobody but its owner can read; see `key_file.load` for what is raised."""
        return cls(key_file.load(path, X25519PrivateKey, MAKE_KEY))  # type: ignore[type-abstract]  # abstract on paper only

    @property
    def public(self) -> str:
        """What the sealing side needs: base64 of the 32 bytes."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def open(self, sealed: Sealed, *, env: str, runner_ref: str, now: datetime) -> dict[str, Secret]:
        """The values.

        Raises:
            SecretsError: sealed for another runner, key or environment, too old, or changed on its way.
        """
        for word, found, ours in (
            ("runner", sealed.runner_ref, runner_ref),
            ("environment", sealed.env, env),
            ("key", sealed.key_id, _key_id(self._key.public_key())),
        ):
            if found != ours:
                raise _refused(f"they are for {word} {found}, this is {ours}")
        if now >= sealed.expires_at:
            raise _refused(f"they expired at {sealed.expires_at.isoformat()}")
        if (sealed.sealed_at - now).total_seconds() > CLOCK_SKEW_S:
            raise _refused(f"they were sealed in the future, at {sealed.sealed_at.isoformat()}")
        try:
            text = SUITE.decrypt(base64.b64decode(sealed.box, validate=True), self._key, sealed.bound())
            values = json.loads(text)
        except (binascii.Error, InvalidTag, ValueError):
            raise _refused("they were changed on their way") from None
        if not isinstance(values, dict) or sorted(values) != sealed.keys:
            raise _refused("they are not the keys that the seal names")
        return {key: Secret(str(value)) for key, value in values.items()}


def _key_id(key: X25519PublicKey) -> str:
    return "sha256:" + hashlib.sha256(key.public_bytes_raw()).hexdigest()


def _refused(why: str) -> SecretsError:
    return SecretsError(f"sealed secrets: {why}", hint="seal them again for this runner", effect=Effect.NONE)
