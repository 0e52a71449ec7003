"""A security key (FIDO) in software: it signs as PROTOCOL.u2f says, and answers as an agent instead of `ssh-agent`.

No security key can be had here, and OpenSSH's own dummy is a library that has to be compiled. So the key is played and
the judge is real: `ssh-keygen -Y sign` asks this agent for the signature, and `ssh-keygen -Y verify` decides on it.
Source: OpenSSH PROTOCOL.u2f, PROTOCOL.sshsig; draft-miller-ssh-agent.
"""

from __future__ import annotations

import base64
import hashlib
import socketserver
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TOUCHED, PIN = 0x01, 0x04
APPLICATION = b"ssh:"
Kind = Literal["ed25519", "ecdsa"]
KINDS: tuple[Kind, ...] = ("ed25519", "ecdsa")


class SoftKey:
    """One key. `flags` and `counter` are what it says of the next signature; nobody has to touch anything."""

    def __init__(self, kind: Kind = "ed25519", *, flags: int = TOUCHED, counter: int = 7) -> None:
        self.flags, self.counter = flags, counter
        if kind == "ed25519":
            self.name = b"sk-ssh-ed25519@openssh.com"
            self._ed25519 = Ed25519PrivateKey.generate()
            public = [self._ed25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)]
            self._sign = self._by_ed25519
        else:
            self.name = b"sk-ecdsa-sha2-nistp256@openssh.com"
            self._ecdsa = ec.generate_private_key(ec.SECP256R1())
            point = self._ecdsa.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            public = [b"nistp256", point]
            self._sign = self._by_ecdsa
        self.blob = b"".join(string(part) for part in (self.name, *public, APPLICATION))

    @property
    def public(self) -> str:
        """As a `.pub` file and an allowed signers file have it."""
        return f"{self.name.decode()} {base64.b64encode(self.blob).decode()}"

    def signature(self, data: bytes) -> bytes:
        """The signature of SSH: what it is of, the inner signature, and then in the clear what the key says."""
        says = struct.pack(">BI", self.flags, self.counter)
        signed = hashlib.sha256(APPLICATION).digest() + says + hashlib.sha256(data).digest()
        return string(self.name) + string(self._sign(signed)) + says

    def sshsig(self, data: bytes, namespace: str) -> bytes:
        """The blob of an SSHSIG over some bytes, before its armor."""
        named = string(namespace.encode()) + string(b"") + string(b"sha512")
        signature = self.signature(b"SSHSIG" + named + string(hashlib.sha512(data).digest()))
        return b"SSHSIG" + struct.pack(">I", 1) + string(self.blob) + named + string(signature)

    def _by_ed25519(self, signed: bytes) -> bytes:
        return self._ed25519.sign(signed)

    def _by_ecdsa(self, signed: bytes) -> bytes:
        r, s = decode_dss_signature(self._ecdsa.sign(signed, ec.ECDSA(SHA256())))
        return mpint(r) + mpint(s)


def armored(blob: bytes) -> str:
    """As `ssh-keygen` writes it."""
    text = base64.b64encode(blob).decode()
    lines = "\n".join(text[at : at + 70] for at in range(0, len(text), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{lines}\n-----END SSH SIGNATURE-----\n"


def string(data: bytes) -> bytes:
    """SSH's string: its length, then it."""
    return struct.pack(">I", len(data)) + data


def mpint(number: int) -> bytes:
    """SSH's number of any size; the numbers of a signature are positive."""
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


class _Conversation(socketserver.StreamRequestHandler):
    """What `ssh-keygen` asks an agent: which keys there are, and one signature."""

    server: Any

    def handle(self) -> None:
        """Until it hangs up."""
        while head := self.rfile.read(4):
            request = self.rfile.read(*struct.unpack(">I", head))
            reply = self._reply(request[0], request[1:])
            self.wfile.write(struct.pack(">I", len(reply)) + reply)

    def _reply(self, asked: int, rest: bytes) -> bytes:
        keys: Sequence[SoftKey] = self.server.keys
        if asked == 11:
            return b"\x0c" + struct.pack(">I", len(keys)) + b"".join(string(k.blob) + string(b"soft") for k in keys)
        (size,) = struct.unpack_from(">I", rest)
        mine = [key for key in keys if asked == 13 and key.blob == rest[4 : 4 + size]]
        if not mine:
            return b"\x05"
        (length,) = struct.unpack_from(">I", rest, 4 + size)
        return b"\x0e" + string(mine[0].signature(rest[8 + size : 8 + size + length]))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def agent(path: Path, *keys: SoftKey) -> Iterator[Path]:
    """An agent that holds these keys, at a path for `SSH_AUTH_SOCK`; gone at the end."""
    with _Server(str(path), _Conversation) as server:
        server.keys = keys  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield path
        finally:
            server.shutdown()
            thread.join()
            path.unlink()
