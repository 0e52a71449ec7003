"""Secrets that only one runner can open: what control carries and cannot read (SEC-3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyops.model import canonical
from hyops.model.base import Digest, EnvKey, Name, Part, UtcTime

SEALED = "hyops/sealed-secrets/v1"
"""The name under which a start hands a seal over; no environment key can be called that."""


class Sealed(Part):
    """Everything beside `box` is bound into it: changed by anybody, it does not open.

    `box` is base64 of RFC 9180 (HPKE) base mode, single shot, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
    ChaCha20Poly1305: the encapsulated key, then the cipher text. `info` is `bound()`; the text is a JSON object of
    key to value.
    """

    schema_: Literal["hyops/sealed-secrets/v1"] = Field(default="hyops/sealed-secrets/v1", alias="schema")
    env: Name
    runner_ref: Name
    key_id: Digest
    keys: Annotated[list[EnvKey], Field(min_length=1, max_length=1000)]
    sealed_at: UtcTime
    expires_at: UtcTime
    box: Annotated[str, Field(max_length=8 * 1024 * 1024)] = ""

    def bound(self) -> bytes:
        """The canonical bytes of all but the box."""
        body = self.body()
        body.pop("box", None)
        return canonical.encode(body)

    def encoded(self) -> bytes:
        """The bytes of the file."""
        return canonical.encode(self.body()) + b"\n"
