"""What is wrong with a login before it is tried, and what to do when a peer does not take it (RUN-3, fault 16)."""

from __future__ import annotations

import errno
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

from hyops.errors import ConfigError, HostKeyError, PrerequisiteError
from hyops.model.clocks import SKEW_MAX_S
from hyops.ports.identity import Login

CERTIFICATE_BYTES_MAX = 64 * 1024
FOREVER = 2**64 - 1
PASSING = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT}
)
"""What a host says when it is short of something for a moment; a file that is missing or closed to us stays so."""
RENEW = "sign it again: `hyops pki sign user`; nothing was sent"
UNPINNED = (
    "compare it with what its console shows, then pin it; `hyops pki known-hosts {ref}` prints the line of our CA"
)
MENDS = {
    "expired": "sign its host certificate again (`hyops pki sign host`) and reload its sshd, or set this host's clock",
    "not yet valid": "compare this host's clock with that of the host that signed: one of them is wrong",
    "principal": "sign the host's key for this name too: `hyops pki sign host KEY.pub --name {ref}`",
    "certificate type": "its sshd shows a user certificate: have its host key signed with `hyops pki sign host`",
    "not a host certificate": "its sshd shows a user certificate: have its host key signed with `hyops pki sign host`",
    "revoked": "it was revoked: give the host a new key and `hyops pki sign host` that one",
    "CA key is not trusted": "another CA signed it: find out whose that is; `hyops pki known-hosts {ref}` prints ours",
    "is not trusted": UNPINNED,
    "host key is known": UNPINNED,
}
"""What either client says -> what to do."""


def beside(key_file: Path) -> Login:
    """A key, with the certificate in `KEY-cert.pub` when one is there."""
    place = key_file.with_name(key_file.name + "-cert.pub")
    try:
        with place.open("rb") as file:
            return Login(key_file, file.read(CERTIFICATE_BYTES_MAX))
    except FileNotFoundError:
        return Login(key_file)
    except OSError as exc:
        raise PrerequisiteError(f"certificate {place}: {exc.strerror}", hint="let this user read it") from exc


def passes(fault: BaseException) -> bool:
    """Whether a fault is this host's own and passes by itself: short of files, processes, memory or room, or a command
    of ours that gave no answer or was killed. It says nothing about the login, so nobody may be refused for it."""
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in PASSING:
            return True
        killed = isinstance(cause, subprocess.CalledProcessError) and cause.returncode < 0
        if killed or isinstance(cause, subprocess.TimeoutExpired | MemoryError):
            return True
        cause = cause.__cause__
    return False


def refuse_unfit(login: Login, now: datetime) -> None:
    """Refuse a certificate that no sshd would take, before anything is dialled.

    Raises:
        ConfigError: not a user certificate. PrerequisiteError: not valid now, or for others.
    """
    certificate = _certificate(login)
    if certificate is None:
        return
    name = f"our certificate {certificate.key_id.decode(errors='replace')[:80]!r} (serial {certificate.serial})"
    if certificate.type is not SSHCertificateType.USER:
        raise ConfigError(f"{name}: a host certificate cannot log in", hint="sign the key with `hyops pki sign user`")
    stamp = now.timestamp()
    if certificate.valid_before != FOREVER and stamp >= certificate.valid_before:
        raise PrerequisiteError(f"{name}: expired at {_time(certificate.valid_before)}, it is {_now(now)}", hint=RENEW)
    if stamp < certificate.valid_after:
        hint = "this host's clock is behind, or that of the host that signed is ahead; then " + RENEW
        raise PrerequisiteError(f"{name}: valid from {_time(certificate.valid_after)}, it is {_now(now)}", hint=hint)
    if login.principal is not None and login.principal.encode() not in certificate.valid_principals:
        raise PrerequisiteError(f"{name}: is for {_names(certificate)}, not for {login.principal}", hint=RENEW)


def host_mend(said: str, runner_ref: str) -> str:
    """What to do about a host key that was refused."""
    return next((mend.format(ref=runner_ref) for words, mend in MENDS.items() if words in said), HostKeyError.hint)


def login_mend(login: Login) -> str:
    """What to look at when an sshd does not take a login that is good as far as we can see."""
    certificate = _certificate(login)
    if certificate is None:
        return "put the public key into the runner's authorized_keys with its forced command; nothing was sent"
    return (
        f"on the runner: is {_names(certificate)} in its AuthorizedPrincipalsFile, are both forced commands the same, "
        "has TrustedUserCAKeys our CA, is the key in RevokedKeys? `journalctl -u ssh` there tells; nothing was sent"
    )


def clock_fault(told: bytes, now: datetime, login: Login) -> tuple[str, str] | None:
    """What is wrong and what to do, when the peer's clock (seconds since 1970, one line) is not ours.

    Raises:
        ValueError: it said something else.
    """
    if len(told) > 32 or not told.strip().isdigit():
        raise ValueError("it told no time")
    off_s = int(told) - now.timestamp()
    certificate = _certificate(login)
    if abs(off_s) < SKEW_MAX_S or certificate is None:
        return None
    way = "ahead of" if off_s > 0 else "behind"
    theirs = (now + timedelta(seconds=off_s)).astimezone(UTC)
    why = (
        f"its clock says {theirs:%Y-%m-%d %H:%M:%S}Z and is {abs(off_s):.0f} s {way} ours, so our certificate "
        f"({_time(certificate.valid_after)} to {_time(certificate.valid_before)}) is not valid there"
    )
    hint = "see which clock is wrong (`chronyc tracking` on both hosts) and set it (`chronyc makestep`), then try again"
    return why, hint


def _certificate(login: Login) -> SSHCertificate | None:
    if login.certificate is None:
        return None
    name = f"our certificate beside {login.key}" if isinstance(login.key, Path) else "our certificate"
    try:
        found = load_ssh_public_identity(login.certificate)
    except UnsupportedAlgorithm:
        return None  # of a hardware key: sshd judges it alone
    except ValueError as exc:
        raise ConfigError(f"{name}: {exc}", hint=RENEW) from exc
    if not isinstance(found, SSHCertificate):
        raise ConfigError(f"{name}: a plain key, no certificate", hint=RENEW)
    return found


def _names(certificate: SSHCertificate) -> str:
    return ", ".join(name.decode(errors="replace") for name in certificate.valid_principals[:8]) or "nobody"


def _time(stamp: int) -> str:
    return "ever" if stamp >= 2**40 else f"{datetime.fromtimestamp(stamp, UTC):%Y-%m-%d %H:%M:%S}Z"


def _now(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z here"
