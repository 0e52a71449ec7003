"""What stands in an armored OpenSSH signature beside the signature itself: the flags of a security key.

`ssh-keygen -Y verify` proves that the key signed them, and then tells nobody. So they are read here, and only from an
envelope that can be read in one way: what is not exactly one is the envelope of no security key.
Source: OpenSSH PROTOCOL.sshsig (the blob) and PROTOCOL.u2f, "SSH U2F signatures" (flags and counter).
"""

from __future__ import annotations

import base64
import binascii
import re
import struct

from hyops.model.presence import Presence

MAGIC = b"SSHSIG"
SECURITY_KEYS = (b"sk-ssh-ed25519@openssh.com", b"sk-ecdsa-sha2-nistp256@openssh.com")
TOUCHED, VERIFIED = 0x01, 0x04  # "user present" and "user verified" of the authenticator's data
ARMOR = re.compile(r"-----BEGIN SSH SIGNATURE-----\n((?:[A-Za-z0-9+/=]+\n)+)-----END SSH SIGNATURE-----\n?")


def presence_of(armored: str) -> Presence | None:
    """What its security key says of the person; None when no security key made it. Nothing is verified here."""
    found = ARMOR.fullmatch(armored)
    if found is None:
        return None
    text = found.group(1).replace("\n", "")
    try:
        blob = base64.b64decode(text, validate=True)
        if base64.b64encode(blob).decode() != text:
            return None
        return _presence(_signature(blob))
    except (binascii.Error, struct.error):
        return None


def _signature(blob: bytes) -> bytes:
    """The innermost part of the envelope: magic, version, then public key, namespace, reserved, hash, signature."""
    if blob[:6] != MAGIC or blob[6:10] != b"\0\0\0\1":
        raise struct.error("not an SSHSIG of version 1")
    rest = blob[10:]
    for _ in ("public key", "namespace", "reserved", "hash"):
        _, rest = _string(rest)
    signature, rest = _string(rest)
    if rest:
        raise struct.error("more than one envelope")
    return signature


def _presence(signature: bytes) -> Presence | None:
    kind, rest = _string(signature)
    if kind not in SECURITY_KEYS:
        return None
    _, rest = _string(rest)
    flags, counter = struct.unpack(">BI", rest)  # exactly these: what a browser adds is another kind of signature
    return Presence(touched=bool(flags & TOUCHED), verified=bool(flags & VERIFIED), counter=counter)


def _string(data: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack_from(">I", data)
    if len(data) < 4 + size:
        raise struct.error("cut off")
    return data[4 : 4 + size], data[4 + size :]
