"""A site's two CAs as key files, and the certificates that they sign (RUN-3).

Signed in this process by `cryptography`: a dispatch signs for each connection, and `ssh-keygen -s` would be a process;
and a passphrase never stands on a command line. What is signed has no extension but the one that its kind needs.
Source: OpenSSH PROTOCOL.certkeys.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from hyops.errors import ConfigError, PrerequisiteError
from hyops.model.pki import CertificateKind, Issued
from hyops.ports.pki import PublicKey

FILE_BYTES_MAX = 64 * 1024
RSA_BITS_MIN = 3072
FOREVER = 2**64 - 1
Key = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True)
class SshPublicKey:
    """`PublicKey`."""

    key: Key
    line: str

    @property
    def fingerprint(self) -> str:
        """See the port."""
        digest = hashlib.sha256(base64.b64decode(self.line.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


class FileAuthority:
    """`CertificateAuthority` over `host_ca` and `user_ca` in one folder. Each is read when it signs, and not kept."""

    def __init__(self, folder: Path, passphrase_file: Path | None = None) -> None:
        self._folder, self._passphrase_file = folder, passphrase_file

    def public_key(self, text: str, source: str) -> SshPublicKey:
        """See the port."""
        return read_public(text, source)

    def sign(self, issued: Issued, key: PublicKey) -> bytes:
        """See the port."""
        host = issued.kind is CertificateKind.HOST
        builder = (
            forms.SSHCertificateBuilder()
            .public_key(read_public(key.line, "key").key)
            .serial(issued.serial)
            .type(forms.SSHCertificateType.HOST if host else forms.SSHCertificateType.USER)
            .key_id(issued.key_id.encode())
            .valid_principals([principal.encode() for principal in issued.principals])
            .valid_after(_stamp(issued.valid_after))
            .valid_before(FOREVER if issued.valid_before is None else _stamp(issued.valid_before))
        )
        if issued.command is not None:
            builder = builder.add_critical_option(b"force-command", issued.command.encode())
        if issued.source_address is not None:
            builder = builder.add_critical_option(b"source-address", issued.source_address.encode())
        if issued.kind is CertificateKind.BASTION:
            builder = builder.add_extension(b"permit-port-forwarding", b"")
        ca = load_private(self._folder / ("host_ca" if host else "user_ca"), read_passphrase(self._passphrase_file))
        return builder.sign(ca).public_bytes() + b"\n"

    def throwaway(self) -> tuple[bytes, str]:
        """See the port."""
        return make_key(None)


def make_key(passphrase: bytes | None) -> tuple[bytes, str]:
    """A fresh Ed25519 key: private, in OpenSSH's form or (with a passphrase) PKCS8 with PBES2; and public."""
    made = Ed25519PrivateKey.generate()
    public = made.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH).decode()
    if passphrase is None:
        plain = made.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, forms.NoEncryption())
        return plain, public
    locked = forms.BestAvailableEncryption(passphrase)
    return made.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, locked), public


def read_public(text: str, source: str) -> SshPublicKey:
    """One line of a public key; ConfigError says what it is instead."""
    hint = "name the file that ends in .pub"
    if "PRIVATE KEY" in text:
        raise ConfigError(f"{source}: a private key; it stays where it is", hint=hint)
    words = text.split()
    if len(text) > FILE_BYTES_MAX or len(words) < 2 or len(text.strip().splitlines()) != 1:
        raise ConfigError(f"{source}: not one line of an OpenSSH public key", hint=hint)
    try:
        key = forms.load_ssh_public_key(" ".join(words[:2]).encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{source}: not an OpenSSH public key that can be certified", hint=hint) from exc
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS_MIN:
        raise ConfigError(f"{source}: RSA with {key.key_size} bits", hint="use Ed25519")
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey):
        raise ConfigError(f"{source}: a {words[0]} key is not certified", hint="use Ed25519")
    if "-cert-v01@" in words[0]:
        raise ConfigError(f"{source}: already a certificate", hint=hint)
    return SshPublicKey(key, " ".join(words[:2]))


def read_passphrase(file: Path | None) -> bytes | None:
    """Its first line; None without a file."""
    if file is None:
        return None
    passphrase = _private_file(file, "passphrase file").splitlines()[:1]
    if not passphrase or not passphrase[0]:
        raise ConfigError(f"passphrase file {file}: empty", hint="write the passphrase as its first line")
    return passphrase[0]


def load_private(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    """A CA's key; a passphrase that is not needed is refused too: it would hide that the key lies there open."""
    data = _private_file(path, "CA key")
    load = forms.load_ssh_private_key if b"OPENSSH PRIVATE" in data else forms.load_pem_private_key
    try:
        key = load(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError(
            f"CA key {path}: cannot be opened" + (" without a passphrase" if passphrase is None else " with this one"),
            hint="check --passphrase-file, or `passphrase_file` of the executor's configuration",
        ) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"CA key {path}: not an Ed25519 key")
    return key


def _private_file(path: Path, what: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise PrerequisiteError(
            f"{what} {path}: {exc.strerror}", hint="make the CAs with `hyops pki init`, or name their folder with --pki"
        ) from exc
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise ConfigError(f"{what} {path}: others may read or change it", hint=f"chmod 600 {path}")
        return file.read(FILE_BYTES_MAX)


def _stamp(at: datetime) -> int:
    return int(at.astimezone(UTC).timestamp())
