"""Dead Simple Signing Envelopes over in-toto statements, and signed records.

Source: DSSE protocol v1.0.2 (pre-authentication encoding), in-toto Attestation Framework, Statement v1.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from hyops.errors import RecordError
from hyops.model import canonical
from hyops.model.base import Record, Signature

RECORD_TYPE = "application/vnd.hyops.record+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"

R = TypeVar("R", bound=Record)


class Signs(Protocol):
    """The part of the signer port that this module needs."""

    @property
    def keyid(self) -> str:
        """`sha256:<hex>` of the raw public key."""

    def sign(self, data: bytes) -> bytes:
        """Sign raw bytes."""


class Verifies(Protocol):
    """The part of the verifier port that this module needs."""

    def verify(self, keyid: str, data: bytes, signature: bytes) -> None:
        """Return when good; raise RecordError when the key is unknown or the signature is wrong."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is really signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_record(record: R, signer: Signs) -> R:
    """The same record with its signature."""
    sig = signer.sign(pae(RECORD_TYPE, record.unsigned()))
    return record.model_copy(update={"signature": Signature(keyid=signer.keyid, sig=base64.b64encode(sig).decode())})


def verify_record(record: Record, verifier: Verifies) -> str:
    """Check a record's signature; returns the keyid.

    Raises:
        RecordError: unsigned, by an unknown key, or not over these bytes.
    """
    if record.signature is None:
        raise RecordError(f"{record.kind} {record.record_id}: unsigned")
    try:
        sig = base64.b64decode(record.signature.sig, validate=True)
        if base64.b64encode(sig).decode() != record.signature.sig:  # stray bits: other bytes under the same signature
            raise ValueError("another spelling")
    except ValueError as exc:
        raise RecordError(f"{record.kind} {record.record_id}: signature is not base64") from exc
    verifier.verify(record.signature.keyid, pae(RECORD_TYPE, record.unsigned()), sig)
    return record.signature.keyid


def envelope(payload: Any, signer: Signs, payload_type: str = STATEMENT_TYPE) -> dict[str, Any]:
    """A DSSE envelope (JSON form) over the canonical bytes of `payload`."""
    data = canonical.encode(payload)
    sig = signer.sign(pae(payload_type, data))
    return {
        "payload": base64.b64encode(data).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": signer.keyid, "sig": base64.b64encode(sig).decode()}],
    }


def open_envelope(value: Any, verifier: Verifies, payload_type: str = STATEMENT_TYPE) -> tuple[Any, str]:
    """Verify an envelope; returns its payload and the keyid of the signer.

    Raises:
        RecordError: not an envelope, another payload type, unknown key, or a wrong signature.
    """
    try:
        if set(value) != {"payload", "payloadType", "signatures"}:
            raise RecordError("not a DSSE envelope")
        if value["payloadType"] != payload_type:
            raise RecordError(f"payload type {value['payloadType']!r} instead of {payload_type!r}")
        (signature,) = value["signatures"]
        data = base64.b64decode(value["payload"], validate=True)
        sig = base64.b64decode(signature["sig"], validate=True)
        keyid = str(signature["keyid"])
    except (TypeError, KeyError, ValueError) as exc:
        raise RecordError(f"not a DSSE envelope: {exc}") from exc
    verifier.verify(keyid, pae(payload_type, data), sig)
    return canonical.parse(data, source="payload"), keyid


def statement(predicate_type: str, predicate: Mapping[str, Any], subjects: Mapping[str, str]) -> dict[str, Any]:
    """An in-toto Statement v1; `subjects` maps a name to `sha256:<hex>`."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
            for name, digest in sorted(subjects.items())
        ],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
