"""Approvals by OpenSSH signatures: `ssh-keygen -Y sign` and `-Y verify` (APR-1). Hardware keys work like any other,
and say beside it whether somebody touched them (`sshsig`), which `ssh-keygen -Y verify` proves and asks nobody for.

The allowed signers file is OpenSSH's own, with its validity intervals and namespaces; what a principal may decide
stands in a second file, because OpenSSH has no field for it. A principal without a role there has none.
Source: ssh-keygen(1), "ALLOWED SIGNERS"; PROTOCOL.sshsig.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections import OrderedDict
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import Field

from hyops.adapters.sshsig import presence_of
from hyops.errors import ConfigError, NotApprovedError, PrerequisiteError
from hyops.model.approval import SSHSIG_NAMESPACE
from hyops.model.base import Name, Part
from hyops.ports.signer import ApproverSignature

TIMEOUT_S = 10.0  # a hardware key waits for a touch only when signing
TOUCH_TIMEOUT_S = 120.0
PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,255}")
TIMED = re.compile(rb"valid-(after|before)|cert-authority", re.IGNORECASE)  # a certificate has its own limits
PROVED_MAX = 1000
GOOD = re.compile(r'^Good "[^"]+" signature for (\S+) with \S+ key (SHA256:\S+)$', re.MULTILINE)


class Approvers(Part):
    """`approvers.json`: principal -> roles. Known roles: `approver`, `break-glass`."""

    roles: dict[str, list[Name]] = Field(max_length=1000)


class SshApprovalVerifier:
    """Asks OpenSSH; what it proved is believed for as long as both lists have the very bytes that it was asked with.

    So a revoked key stops counting at once, and a request that waits for a second approval costs no process a pass. A
    list that sets limits of time is never believed twice: what it says of a signature changes by itself.
    """

    def __init__(self, *, allowed_signers: Path, approvers: Path, revoked: Path | None = None) -> None:
        self._allowed, self._approvers, self._revoked = allowed_signers, approvers, revoked
        self._proved: OrderedDict[bytes, str] = OrderedDict()

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Return who signed, with roles and fingerprint; NotApprovedError for everything that is not proved."""
        if not PRINCIPAL.fullmatch(principal):
            raise NotApprovedError(f"approver {principal[:64]!r} is not a principal's name")
        lists, roles = self._lists(), self._roles(principal)
        asked = hashlib.sha256(repr((principal, data, ssh_signature, lists)).encode()).digest()
        if (fingerprint := self._proved.get(asked)) is None:
            fingerprint = self._asked(principal, data, ssh_signature, at)
            if not TIMED.search(lists[0]) and self._lists() == lists:
                self._proved[asked] = fingerprint
                self._proved.popitem(last=False) if len(self._proved) > PROVED_MAX else None
        return ApproverSignature(principal, roles, fingerprint, presence_of(ssh_signature))

    def _lists(self) -> list[bytes]:
        """Allowed signers, and the revoked ones."""
        found = []
        for path in [self._allowed, *([self._revoked] if self._revoked else [])]:
            if not path.is_file():
                raise PrerequisiteError(f"{path}: missing, so no approval can be verified")
            try:
                found.append(path.read_bytes())
            except OSError as exc:
                raise PrerequisiteError(f"{path}: {exc.strerror}, so no approval can be verified") from exc
        return found

    def _asked(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> str:
        """The fingerprint of the key, from OpenSSH."""
        with tempfile.NamedTemporaryFile(prefix="hyops-sig-", mode="w") as signature:
            signature.write(ssh_signature)
            signature.flush()
            command = ["ssh-keygen", "-Y", "verify", "-f", str(self._allowed), "-I", principal]
            command += ["-n", SSHSIG_NAMESPACE, "-s", signature.name, "-O", f"verify-time={at:%Y%m%d%H%M%S}Z"]
            command += ["-r", str(self._revoked)] if self._revoked else []
            done = _run(command, data, TIMEOUT_S)
        good = GOOD.search(done.stdout.decode(errors="replace"))
        if done.returncode != 0 or good is None or good.group(1) != principal:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise NotApprovedError(f"signature of {principal}: {said[-1][:300] if said else 'not verified'}")
        return good.group(2)

    def _roles(self, principal: str) -> frozenset[str]:
        try:
            data = self._approvers.read_bytes()
        except OSError as exc:
            raise PrerequisiteError(f"{self._approvers}: {exc.strerror}") from exc
        return frozenset(Approvers.read(data, source=str(self._approvers)).roles.get(principal, []))


def sign(data: bytes, key_file: Path) -> str:
    """Sign with a person's own key (file, agent key by its public part, or hardware key); returns armored SSHSIG.

    Whoever has a terminal is asked there for a passphrase or a PIN, and sees there that the key wants to be touched. So
    the bytes lie in a file while `ssh-keygen` reads them: its standard input stays the terminal.

    Raises:
        PrerequisiteError: no such key, no ssh-keygen, no room, or the key would not sign. No approval was written.
    """
    if not key_file.is_file():
        raise PrerequisiteError(f"key {key_file}: missing")
    person = sys.stdin.isatty() and sys.stderr.isatty()
    try:
        with tempfile.TemporaryDirectory(prefix="hyops-sign-") as folder:
            (statement := Path(folder) / "statement").write_bytes(data)
            command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key_file), "-n", SSHSIG_NAMESPACE, str(statement)]
            done = _run(command, None if person else b"", TOUCH_TIMEOUT_S, shown=person)
            made = statement.with_name("statement.sig")
            armored = made.read_text() if done.returncode == 0 and made.is_file() else ""
    except OSError as exc:
        raise PrerequisiteError(f"key {key_file} did not sign: {exc.strerror}", hint="make room") from exc
    if "BEGIN SSH SIGNATURE" not in armored:
        said = "see above" if person else (done.stderr or b"").decode(errors="replace").strip()
        raise PrerequisiteError(f"key {key_file} did not sign: {said[:300] or done.returncode}")
    return armored


def principal_of(key_file: Path, allowed_signers: Path) -> str:
    """The principal that the allowed signers file gives to a public key; ConfigError when there is not exactly one."""
    public = key_file if key_file.suffix == ".pub" else key_file.with_name(key_file.name + ".pub")
    try:
        blob = public.read_text().split()[1]
    except (OSError, IndexError, UnicodeDecodeError) as exc:
        raise PrerequisiteError(f"cannot tell whose key {key_file} is: {exc}", hint="pass --approver") from exc
    lines = _lines(allowed_signers)
    found = {
        principal
        for line in lines
        if not line.startswith("#") and blob in line.split()
        for principal in line.split()[0].split(",")
    }
    if len(found) != 1:
        raise ConfigError(
            f"{len(found)} principals in {allowed_signers} have the key {key_file}", hint="pass --approver"
        )
    return found.pop()


def is_signer(principal: str, allowed_signers: Path) -> bool:
    """Whether the allowed signers file has a key for a principal, whatever it may sign."""
    lines = _lines(allowed_signers)
    patterns = [line.split()[0].split(",") for line in lines if line.strip() and not line.startswith("#")]
    return any(fnmatchcase(principal, pattern) for line in patterns for pattern in line)


def _lines(allowed_signers: Path) -> list[str]:
    """The file as text. OpenSSH reads bytes: a comment in another encoding is no reason to find nobody in it."""
    try:
        return allowed_signers.read_bytes().decode(errors="replace").splitlines()
    except OSError as exc:
        raise PrerequisiteError(f"{allowed_signers}: {exc.strerror}", hint="it names whose signature counts") from exc


def _run(
    command: list[str], data: bytes | None, timeout_s: float, *, shown: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """`data` None: its standard input is ours. `shown`: what it tells people goes to ours, and is not caught."""
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    told = None if shown else subprocess.PIPE
    try:
        return subprocess.run(
            command, input=data, stdout=subprocess.PIPE, stderr=told, timeout=timeout_s, env=environment, check=False
        )
    except FileNotFoundError as exc:
        raise PrerequisiteError("ssh-keygen is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise NotApprovedError(f"ssh-keygen gave no answer within {timeout_s:g} s") from exc
