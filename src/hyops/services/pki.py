"""What a site's SSH CAs sign and take back (RUN-3).

Certificates of people and programs live for minutes to a day, each for one group of runners, and say which command they
may start; a bastion's may forward ports and start nothing. A certificate is written down before it is made. A key that
was revoked is signed no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import ValidationError

from hyops.errors import PrerequisiteError, UsageError
from hyops.model.pki import (
    CLOCK_COMMAND,
    CLOCK_PRINCIPAL,
    SERVE_COMMAND,
    CertificateKind,
    Issued,
    Revocation,
)
from hyops.ports.clock import Clock
from hyops.ports.pki import CertificateAuthority, PkiRegister, PublicKey

USER_VALID_S, USER_VALID_S_MAX = 300.0, 86400.0
HOST_VALID_S, HOST_VALID_S_MAX = 90 * 86400.0, 400 * 86400.0
SKEW_S = 300.0  # a peer's clock may be behind ours by this much
EVER_SINCE = datetime(1971, 1, 1, tzinfo=UTC)
NO_COMMAND = "/usr/sbin/nologin"  # what a certificate that may only forward starts


class Pki:
    """One site's CAs. `by` is who asks, for the register."""

    def __init__(self, authority: CertificateAuthority, register: PkiRegister, clock: Clock, *, by: str) -> None:
        self._authority, self._register, self._clock, self._by = authority, register, clock, by

    def sign_host(
        self, public: str, names: Sequence[str], *, valid_s: float = HOST_VALID_S, source: str = "key"
    ) -> tuple[bytes, Issued]:
        """A host certificate: the runner's reference first, then other names that it is called by."""
        self._within(valid_s, HOST_VALID_S_MAX)
        return self._sign(public, source, CertificateKind.HOST, list(names), valid_s)

    def sign_user(
        self,
        public: str,
        group: str,
        *,
        valid_s: float = USER_VALID_S,
        command: str = SERVE_COMMAND,
        source_address: str | None = None,
        source: str = "key",
    ) -> tuple[bytes, Issued]:
        """A certificate that may start `command` on the runners of one group."""
        self._within(valid_s, USER_VALID_S_MAX)
        if group == CLOCK_PRINCIPAL:
            raise UsageError(f"group {group!r}: kept for reading a runner's clock")
        return self._sign(public, source, CertificateKind.USER, [group], valid_s, command, source_address)

    def sign_bastion(
        self,
        public: str,
        group: str,
        *,
        valid_s: float = USER_VALID_S,
        source_address: str | None = None,
        source: str = "key",
    ) -> tuple[bytes, Issued]:
        """A certificate that may forward ports through the bastions of one group, and start nothing there."""
        self._within(valid_s, USER_VALID_S_MAX)
        if group == CLOCK_PRINCIPAL:
            raise UsageError(f"group {group!r}: kept for reading a runner's clock")
        return self._sign(public, source, CertificateKind.BASTION, [group], valid_s, NO_COMMAND, source_address)

    def clock_key(self) -> tuple[bytes, bytes]:
        """A key made for this, and a certificate that may read the clock of any runner, whatever time it has there."""
        private, public = self._authority.throwaway()
        words = "throwaway key", CertificateKind.USER, [CLOCK_PRINCIPAL], None, CLOCK_COMMAND
        return private, self._sign(public, *words)[0]

    def revoke_serial(self, serial: int, reason: str) -> Revocation | None:
        """No sshd and no client of ours takes this certificate any more; None when that was so already."""
        found = next((one for one in self._register.issued() if one.serial == serial), None)
        if found is None:
            raise PrerequisiteError(f"serial {serial}: not in the register", hint="`hyops pki list` shows what is")
        host = found.kind is CertificateKind.HOST
        return self._revoke(reason, ca="host" if host else "user", serial=serial)

    def revoke_key(self, public: str, reason: str, *, source: str = "key") -> Revocation | None:
        """The same for a key and every certificate of it, also one that is signed later or elsewhere."""
        return self._revoke(reason, key=self._authority.public_key(public, source).line)

    def issued(self) -> list[tuple[Issued, str]]:
        """Everything in the register, with `valid`, `revoked`, `expired` or `not yet valid`."""
        now, revoked = self._clock.now(), self._register.revocations()
        serials = {one.serial for one in revoked if one.serial is not None}
        prints = {self._authority.public_key(one.key, "revocation").fingerprint for one in revoked if one.key}

        def state(one: Issued) -> str:
            if one.serial in serials or one.fingerprint in prints:
                return "revoked"
            if one.valid_before is not None and one.valid_before <= now:
                return "expired"
            return "valid" if one.valid_after <= now else "not yet valid"

        return [(one, state(one)) for one in self._register.issued()]

    def revocations(self) -> list[Revocation]:
        """Everything that was revoked."""
        return self._register.revocations()

    def _sign(
        self,
        public: str,
        source: str,
        kind: CertificateKind,
        principals: list[str],
        valid_s: float | None,
        command: str | None = None,
        source_address: str | None = None,
    ) -> tuple[bytes, Issued]:
        key = self._authority.public_key(public, source)
        self._refuse_revoked(key, source)
        now = self._clock.now().replace(microsecond=0)
        ever = valid_s is None

        def make(serial: int) -> Issued:
            try:
                return Issued(
                    serial=serial,
                    kind=kind,
                    principals=principals,
                    fingerprint=key.fingerprint,
                    valid_after=EVER_SINCE if ever else now - timedelta(seconds=SKEW_S),
                    valid_before=None if valid_s is None else now + timedelta(seconds=valid_s),
                    command=command,
                    source_address=source_address,
                    by=self._by,
                    issued_at=now,
                )
            except ValidationError as exc:
                wrong = exc.errors()[0]
                place = ".".join(map(str, wrong["loc"]))
                raise UsageError(f"{place} {str(wrong['input'])[:80]!r}: {wrong['msg']}") from exc

        issued = self._register.issue(make)
        return self._authority.sign(issued, key), issued

    def _refuse_revoked(self, key: PublicKey, source: str) -> None:
        found = next((one for one in self._register.revocations() if one.key == key.line), None)
        if found is not None:
            raise PrerequisiteError(
                f"{source} {key.fingerprint}: revoked by {found.by}: {found.reason}",
                hint="make a new key with `ssh-keygen -t ed25519` and have that one signed",
            )

    def _within(self, valid_s: float, most_s: float) -> None:
        if not 1 <= valid_s <= most_s:
            raise UsageError(f"valid for {valid_s:g} s: {most_s:g} s at most", hint="sign again when it has run out")

    def _revoke(
        self,
        reason: str,
        *,
        ca: Literal["host", "user"] | None = None,
        serial: int | None = None,
        key: str | None = None,
    ) -> Revocation | None:
        now = self._clock.now().replace(microsecond=0)

        def make(number: int) -> Revocation | None:
            if any((one.serial, one.key) == (serial, key) for one in self._register.revocations()):
                return None
            by = self._by
            return Revocation(number=number, ca=ca, serial=serial, key=key, reason=reason, by=by, revoked_at=now)

        return self._register.revoke(make)
