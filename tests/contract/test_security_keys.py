"""Approvals with security keys (FIDO): the key is software, and real `ssh-keygen` signs through it and judges it."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import soft_key
from hyops.adapters.approval_ssh import SshApprovalVerifier, principal_of, sign
from hyops.adapters.sshsig import presence_of
from hyops.errors import NotApprovedError, PrerequisiteError
from hyops.model.approval import SSHSIG_NAMESPACE
from hyops.model.presence import Presence
from soft_key import KINDS, PIN, TOUCHED, Kind, SoftKey, armored

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DATA = b'{"verdict":"grant"}'


class Desk:
    """Ada and her security key, in an agent."""

    def __init__(self, folder: Path, key: SoftKey) -> None:
        self.key, self.public = key, folder / "ada.pub"
        self.public.write_text(f"{key.public} ada\n")
        (folder / "allowed").write_text(f'ada namespaces="{SSHSIG_NAMESPACE}" {key.public}\n')
        (folder / "approvers.json").write_text('{"roles": {"ada": ["approver"]}}\n')
        self.allowed = folder / "allowed"
        self.verifier = SshApprovalVerifier(allowed_signers=self.allowed, approvers=folder / "approvers.json")

    def presence(self, armored_signature: str) -> Presence | None:
        """What is known of the person, when OpenSSH finds the signature good."""
        return self.verifier.verify("ada", DATA, armored_signature, NOW).presence


@pytest.fixture(params=KINDS)
def desk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Of each kind of key that OpenSSH knows."""
    kind: Kind = request.param
    made = Desk(tmp_path, SoftKey(kind))
    with soft_key.agent(tmp_path / "agent", made.key) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        yield made


@pytest.mark.req("APR-1")
@pytest.mark.parametrize("flags", [0, TOUCHED, PIN, TOUCHED | PIN])
def test_a_security_key_signs_and_says_who_was_there(desk: Desk, flags: int) -> None:
    """`ssh-keygen -Y sign` through the key, `-Y verify` finds it good, and touch and PIN are read from it."""
    desk.key.flags = flags
    presence = desk.presence(sign(DATA, desk.public))

    assert presence == Presence(bool(flags & TOUCHED), bool(flags & PIN), counter=7)
    assert principal_of(desk.public, desk.allowed) == "ada"


@pytest.mark.req("APR-1")
def test_our_envelope_is_openssh_s(desk: Desk) -> None:
    """What the key in software makes by itself is judged as good as what `ssh-keygen -Y sign` made of it."""
    assert desk.presence(armored(desk.key.sshsig(DATA, SSHSIG_NAMESPACE))) == Presence(True, False, counter=7)


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "INV-4")
@pytest.mark.parametrize("byte", ["flags", "counter", "signature", "message", "application"])
def test_what_the_key_said_cannot_be_changed(desk: Desk, byte: str) -> None:
    """A touch that is written in afterwards, another counter, other bytes, another application: OpenSSH refuses it."""
    blob = bytearray(desk.key.sshsig(DATA, SSHSIG_NAMESPACE))
    at = {"flags": -5, "counter": -1, "signature": -20, "application": blob.index(b"ssh:")}
    if byte in at:
        blob[at[byte]] ^= TOUCHED
    with pytest.raises(NotApprovedError):
        desk.verifier.verify("ada", DATA + b" " if byte == "message" else DATA, armored(bytes(blob)), NOW)


@pytest.mark.fault(10)
def test_another_security_key_is_refused(desk: Desk) -> None:
    """One that the allowed signers file does not have for her."""
    with pytest.raises(NotApprovedError):
        desk.presence(armored(SoftKey().sshsig(DATA, SSHSIG_NAMESPACE)))


@pytest.mark.req("APR-1", "UX-1")
def test_a_key_that_is_not_there_is_said(desk: Desk, tmp_path: Path) -> None:
    """The agent has not the key of this public half: exit code 12, with its name."""
    (tmp_path / "other.pub").write_text(SoftKey().public + "\n")
    with pytest.raises(PrerequisiteError, match=r"other\.pub did not sign"):
        sign(DATA, tmp_path / "other.pub")


def _envelopes() -> dict[str, str]:
    good = SoftKey().sshsig(DATA, SSHSIG_NAMESPACE)
    text = armored(good)
    plain = SoftKey()
    plain.name = b"ssh-ed25519"
    lied = base64.b64encode(good).decode()
    return {
        "two": text + text,
        "before": "x\n" + text,
        "crlf": text.replace("\n", "\r\n"),
        "more": armored(good + b"\0"),
        "less": armored(good[:-1]),
        "no flags": armored(good[:-5]),
        "version": armored(good[:6] + struct.pack(">I", 2) + good[10:]),
        "magic": armored(b"SSHSIH" + good[6:]),
        "length": armored(good[:10] + b"\xff" * 4 + good[14:]),
        "no base64": text.replace(lied[:8], "=" + lied[1:8]),
        "padding": "-----BEGIN SSH SIGNATURE-----\nAAA=AAA=\n-----END SSH SIGNATURE-----\n",
        "another kind": armored(plain.sshsig(DATA, SSHSIG_NAMESPACE)),
        "empty": "",
    }


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
@pytest.mark.parametrize(("name", "envelope"), _envelopes().items())
def test_an_envelope_that_can_be_read_in_two_ways_shows_nobody(name: str, envelope: str) -> None:
    """Two of them, something before or behind, another version, cut off, edited: nothing is believed of the person."""
    assert (name, presence_of(envelope)) == (name, None)
