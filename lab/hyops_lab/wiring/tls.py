"""Certificates for mutual TLS: a CA of the lab's own, and for each host one certificate that serves at both ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

EARLY, VALID = timedelta(hours=1), timedelta(days=2)


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A CA that exists in this process alone: what it has not signed when that ends, it never will."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._signed(self._name, self._key, ca=True).public_bytes(Encoding.PEM)

    def issue(self, address: str) -> Identity:
        """For the host at `address`, as server and as client; without a common name, which etcd's gateway refuses."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._signed(x509.Name([]), key, address=address).public_bytes(Encoding.PEM)
        return Identity(signed, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False, address: str = ""
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLY)
            .not_valid_after(now + VALID)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            made = made.add_extension(x509.ExtendedKeyUsage(both), critical=False)
            there = [x509.IPAddress(IPv4Address(one)) for one in (address, "127.0.0.1")]
            made = made.add_extension(x509.SubjectAlternativeName(there), critical=True)
        return made.sign(self._key, SHA256())
