"""Which runner an agent's certificate stands for: chain, time, revocation and name, looked at for every request.

The chain is OpenSSL's work, at the handshake. What may change while a connection lives is looked at again here: the
certificate's time, and the list of revoked ones, which is read again when its file changes. A list that is damaged or
not signed by the CA never replaces a good one; one that is past its next update still refuses whom it names, and is
said to be old: an out-of-date list must not lock out every runner in an outage.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from hyops.errors import ConfigError
from hyops.ports.clock import Clock


class StrangerError(Exception):
    """A certificate that stands for no runner of this desk, or no longer."""


class RunnerCertificates:
    """The runners' certificates, as one desk judges them."""

    def __init__(
        self, ca_file: Path, crl_file: Path, runner_refs: frozenset[str], clock: Clock, say: Callable[[str], None]
    ) -> None:
        """Read CA and list.

        Raises:
            ConfigError: one of them is missing or damaged, or the list is not the CA's.
        """
        self._crl_file, self._refs, self._clock, self._say = crl_file, runner_refs, clock, say
        try:
            self._cas = x509.load_pem_x509_certificates(ca_file.read_bytes())
        except (OSError, ValueError) as exc:
            raise ConfigError(f"{ca_file}: {exc}", hint="ca_file: a PEM file with the CA of the runners") from exc
        self._stamp: tuple[int, ...] = ()
        self._revoked: frozenset[int] = frozenset()
        try:
            self._reread()
        except (OSError, ValueError) as exc:
            hint = "crl_file: the PEM list of revoked certificates, signed by the CA; an empty one revokes nobody"
            raise ConfigError(f"{crl_file}: {exc}", hint=hint) from exc

    def who(self, certificate: x509.Certificate) -> str:
        """The runner.

        Raises:
            StrangerError: not valid now, revoked, or in the name of no runner of ours.
        """
        now = self._clock.now()
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise StrangerError(f"the certificate is valid until {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
        self._refresh()
        if certificate.serial_number in self._revoked:
            raise StrangerError(f"the certificate {certificate.serial_number:x} is revoked")
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if len(names) != 1 or names[0] not in self._refs:
            raise StrangerError(f"the certificate is for {', '.join(names)[:80] or 'nobody'}, no runner of this desk")
        return names[0]

    def _refresh(self) -> None:
        try:
            if self._stat() != self._stamp:
                self._reread()
        except (OSError, ValueError) as exc:
            self._say(f"{self._crl_file}: {exc}; the list read before still counts")

    def _stat(self) -> tuple[int, ...]:
        stat = self._crl_file.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _reread(self) -> None:
        self._stamp = self._stat()
        crl = x509.load_pem_x509_crl(self._crl_file.read_bytes())
        if not any(_signed(crl, ca) for ca in self._cas):
            raise ValueError("not signed by the CA of the runners")
        if crl.next_update_utc is not None and crl.next_update_utc < self._clock.now():
            self._say(
                f"{self._crl_file}: was to be renewed by {crl.next_update_utc:%Y-%m-%d}; whom it names is refused"
            )
        self._revoked = frozenset(entry.serial_number for entry in crl)


def _signed(crl: x509.CertificateRevocationList, ca: x509.Certificate) -> bool:
    try:
        return crl.issuer == ca.subject and crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    except TypeError:  # a key that signs nothing
        return False


def server_context(ca_file: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS of the desk: 1.3 only, no session without a fresh handshake, nobody without a certificate of the CA.

    Raises:
        ConfigError: a file is missing or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    try:
        context.load_verify_locations(cafile=ca_file)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"{certificate}, {key}, {ca_file}: {exc}", hint="the desk's certificate, key and CA") from exc
    return context
