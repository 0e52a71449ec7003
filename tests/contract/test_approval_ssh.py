"""Approvals with real OpenSSH: what verifies, and all that must not (fault 10)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters import approval_ssh
from hyops.adapters.approval_ssh import SshApprovalVerifier, principal_of, sign
from hyops.errors import ConfigError, NotApprovedError, PrerequisiteError
from hyops.model.approval import SSHSIG_NAMESPACE

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DATA = b'{"verdict":"grant"}'


class Office:
    """Two people with keys, one allowed signers file, one file of roles, one of revoked keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = {name: self.key(name) for name in ("ada", "mallory", "former")}
        public = {name: " ".join(key.with_suffix(".pub").read_text().split()[:2]) for name, key in self.keys.items()}
        (folder / "allowed").write_text(
            f'ada namespaces="{SSHSIG_NAMESPACE}" {public["ada"]}\n'
            f'former namespaces="{SSHSIG_NAMESPACE}",valid-before="20250101" {public["former"]}\n'
        )
        (folder / "approvers.json").write_text('{"roles": {"ada": ["approver"]}}\n')
        (folder / "revoked").write_text("")
        self.verifier = SshApprovalVerifier(
            allowed_signers=folder / "allowed", approvers=folder / "approvers.json", revoked=folder / "revoked"
        )

    def key(self, name: str) -> Path:
        """A fresh key pair."""
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
        return path


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Made once: keys cost time."""
    return Office(tmp_path_factory.mktemp("office"))


@pytest.mark.req("APR-1")
def test_a_good_signature_names_person_roles_and_key(office: Office) -> None:
    """Who signed, what she may decide, with which key."""
    by = office.verifier.verify("ada", DATA, sign(DATA, office.keys["ada"]), NOW)

    assert (by.principal, by.roles) == ("ada", frozenset({"approver"}))
    assert by.key_fingerprint.startswith("SHA256:")
    assert principal_of(office.keys["ada"], office.folder / "allowed") == "ada"


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "INV-4")
def test_other_bytes_are_refused(office: Office) -> None:
    """One byte more than was signed."""
    with pytest.raises(NotApprovedError):
        office.verifier.verify("ada", DATA + b" ", sign(DATA, office.keys["ada"]), NOW)


@pytest.mark.fault(10)
@pytest.mark.parametrize("who", ["mallory", "nobody", "-oProxyCommand=x", "ada\nbob", "*", "ada,mallory", ""])
def test_another_principal_is_refused(office: Office, who: str) -> None:
    """A good signature by Ada says nothing for anybody else, whatever the name looks like."""
    with pytest.raises(NotApprovedError):
        office.verifier.verify(who, DATA, sign(DATA, office.keys["ada"]), NOW)


@pytest.mark.fault(10)
def test_another_key_is_refused(office: Office) -> None:
    """Mallory signs in Ada's name."""
    with pytest.raises(NotApprovedError):
        office.verifier.verify("ada", DATA, sign(DATA, office.keys["mallory"]), NOW)


@pytest.mark.fault(10)
def test_a_key_past_its_validity_is_refused(office: Office) -> None:
    """The allowed signers file says until when; the time that counts is the judge's, not the machine's."""
    signature = sign(DATA, office.keys["former"])
    office.verifier.verify("former", DATA, signature, datetime(2024, 6, 1, tzinfo=UTC))

    with pytest.raises(NotApprovedError):
        office.verifier.verify("former", DATA, signature, NOW)


@pytest.mark.fault(10)
def test_a_revoked_key_is_refused_at_once(office: Office) -> None:
    """Good a moment ago, revoked now."""
    signature = sign(DATA, office.keys["ada"])
    office.verifier.verify("ada", DATA, signature, NOW)
    (office.folder / "revoked").write_text(office.keys["ada"].with_suffix(".pub").read_text())
    try:
        with pytest.raises(NotApprovedError):
            office.verifier.verify("ada", DATA, signature, NOW + timedelta(seconds=1))
    finally:
        (office.folder / "revoked").write_text("")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What OpenSSH is asked from now on."""
    commands: list[list[str]] = []
    run = approval_ssh._run

    def kept(command: list[str], *rest: Any, **how: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return run(command, *rest, **how)

    monkeypatch.setattr(approval_ssh, "_run", kept)
    return commands


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_what_was_proved_is_believed_while_the_lists_are_the_same(
    office: Office, tmp_path: Path, asked: list[list[str]]
) -> None:
    """OpenSSH is asked once; and again as soon as a key is revoked, or its line is gone, or anything else is signed."""
    key, roles = office.keys["ada"], office.folder / "approvers.json"
    (allowed := tmp_path / "allowed").write_text((office.folder / "allowed").read_text().splitlines()[0] + "\n")
    (revoked := tmp_path / "revoked").write_text("")
    verifier = SshApprovalVerifier(allowed_signers=allowed, approvers=roles, revoked=revoked)
    signature = sign(DATA, key)
    asked.clear()
    first = verifier.verify("ada", DATA, signature, NOW)
    assert verifier.verify("ada", DATA, signature, NOW + timedelta(days=400)) == first
    assert len(asked) == 1
    for data, said in ((DATA + b" ", signature), (DATA, sign(b"other", key))):
        with pytest.raises(NotApprovedError):
            verifier.verify("ada", data, said, NOW)
    revoked.write_text(key.with_suffix(".pub").read_text())
    with pytest.raises(NotApprovedError):
        verifier.verify("ada", DATA, signature, NOW)
    revoked.write_text("")
    line = allowed.read_text()
    allowed.write_text("# nobody\n")
    with pytest.raises(NotApprovedError):
        verifier.verify("ada", DATA, signature, NOW)
    allowed.write_text(line)
    assert verifier.verify("ada", DATA, signature, NOW) == first


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_a_list_that_changed_meanwhile_proves_nothing_later(
    office: Office, tmp_path: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows which of the two OpenSSH has read."""
    (allowed := tmp_path / "allowed").write_text(line := (office.folder / "allowed").read_text().splitlines()[0] + "\n")
    verifier = SshApprovalVerifier(allowed_signers=allowed, approvers=office.folder / "approvers.json")
    signature, run = sign(DATA, office.keys["ada"]), approval_ssh._run
    asked.clear()

    def meanwhile(*words: Any, **how: Any) -> subprocess.CompletedProcess[bytes]:
        done = run(*words, **how)
        allowed.write_text(f"# one more\n{line}")
        return done

    monkeypatch.setattr(approval_ssh, "_run", meanwhile)
    verifier.verify("ada", DATA, signature, NOW)
    allowed.write_text(line)
    verifier.verify("ada", DATA, signature, NOW)
    assert len(asked) == 2


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_a_certificate_counts_until_its_end(office: Office, tmp_path: Path) -> None:
    """The list names the authority alone; the limit is in the certificate."""
    authority, key = office.key("authority"), office.key("guest")
    words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "guest", "-n", "guest", "-V", "20260101:20260301"]
    subprocess.run([*words, str(key.with_suffix(".pub"))], check=True)
    public = " ".join(authority.with_suffix(".pub").read_text().split()[:2])
    (allowed := tmp_path / "allowed").write_text(f"guest cert-authority {public}\n")
    verifier = SshApprovalVerifier(allowed_signers=allowed, approvers=office.folder / "approvers.json")
    signature = sign(DATA, key.with_name("guest-cert.pub"))
    verifier.verify("guest", DATA, signature, NOW)
    with pytest.raises(NotApprovedError, match="expired"):
        verifier.verify("guest", DATA, signature, NOW + timedelta(days=60))


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
@pytest.mark.parametrize("limit", ['valid-before="20270101"', 'VALID-AFTER="20200101",namespaces="*"'])
def test_a_list_with_limits_of_time_is_asked_each_time(
    office: Office, tmp_path: Path, asked: list[list[str]], limit: str
) -> None:
    """What it says of a signature changes by itself."""
    public = " ".join(office.keys["ada"].with_suffix(".pub").read_text().split()[:2])
    (allowed := tmp_path / "allowed").write_text(f"ada {limit} {public}\n")
    verifier = SshApprovalVerifier(allowed_signers=allowed, approvers=office.folder / "approvers.json")
    signature = sign(DATA, office.keys["ada"])
    asked.clear()
    for _ in range(2):
        verifier.verify("ada", DATA, signature, NOW)
    assert len(asked) == 2


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_a_signature_for_another_purpose_is_refused(office: Office) -> None:
    """Signed by Ada, but as a git commit: another namespace."""
    made = subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", str(office.keys["ada"]), "-n", "git"],
        input=DATA,
        capture_output=True,
        check=True,
    )
    with pytest.raises(NotApprovedError):
        office.verifier.verify("ada", DATA, made.stdout.decode(), NOW)


@pytest.mark.fault(10)
@pytest.mark.parametrize("signature", ["", "yes", "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n"])
def test_what_is_no_signature_is_refused(office: Office, signature: str) -> None:
    """Empty, text, or an empty envelope."""
    with pytest.raises(NotApprovedError):
        office.verifier.verify("ada", DATA, signature, NOW)


@pytest.mark.req("APR-1")
def test_a_missing_file_is_a_refusal_that_names_it(office: Office) -> None:
    """Without the list of revoked keys nothing can be verified: silence is not proof."""
    verifier = SshApprovalVerifier(
        allowed_signers=office.folder / "allowed",
        approvers=office.folder / "approvers.json",
        revoked=office.folder / "gone",
    )
    with pytest.raises(PrerequisiteError, match="gone"):
        verifier.verify("ada", DATA, sign(DATA, office.keys["ada"]), NOW)
    with pytest.raises(ConfigError):
        principal_of(office.keys["mallory"], office.folder / "allowed")


SIGNS = """
import sys
from pathlib import Path
from hyops.adapters.approval_ssh import sign
Path(sys.argv[2]).write_text(sign(sys.argv[3].encode(), Path(sys.argv[1])))
"""


def asked_on_a_terminal(key: Path, signature: Path, answer: str) -> tuple[int, str]:
    """Sign as a person does, on a terminal of its own; the exit code and what the terminal showed."""
    ours, theirs = os.openpty()
    command = ["setsid", "--ctty", "--wait", sys.executable, "-c", SIGNS, str(key), str(signature), DATA.decode()]
    shown = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as signing:
        os.close(theirs)
        with contextlib.suppress(OSError):  # what a terminal says when nobody is left at its other end
            while more := os.read(ours, 4096):
                asked = b"passphrase" in shown
                shown += more
                if b"passphrase" in shown and not asked:
                    os.write(ours, answer.encode() + b"\n")
    os.close(ours)
    return signing.returncode, shown.decode(errors="replace")


@pytest.mark.req("APR-1")
def test_a_person_is_asked_on_the_terminal(office: Office, tmp_path: Path) -> None:
    """A key with a passphrase, as one with a PIN, is asked for where the person is; a wrong word signs nothing."""
    shutil.copy(office.keys["ada"], tmp_path / "ada")
    shutil.copy(office.keys["ada"].with_suffix(".pub"), tmp_path / "ada.pub")
    subprocess.run(["ssh-keygen", "-q", "-p", "-a", "1", "-N", "secret", "-f", str(tmp_path / "ada")], check=True)
    wrong, said = asked_on_a_terminal(tmp_path / "ada", tmp_path / "signature", "secrets")
    nothing = (tmp_path / "signature").exists()
    done, _ = asked_on_a_terminal(tmp_path / "ada", tmp_path / "signature", "secret")
    by = office.verifier.verify("ada", DATA, (tmp_path / "signature").read_text(), NOW)

    assert (wrong == 0, nothing, "did not sign: see above" in said) == (False, False, True)
    assert (done, by.principal, by.presence) == (0, "ada", None)


@pytest.mark.req("APR-1", "UX-1")
def test_without_a_terminal_nobody_is_asked(office: Office, tmp_path: Path) -> None:
    """A key with a passphrase, and nobody there: refused at once with what ssh-keygen says, nothing left over."""
    shutil.copy(office.keys["ada"], tmp_path / "ada")
    shutil.copy(office.keys["ada"].with_suffix(".pub"), tmp_path / "ada.pub")
    subprocess.run(["ssh-keygen", "-q", "-p", "-a", "1", "-N", "secret", "-f", str(tmp_path / "ada")], check=True)
    command = ["setsid", "--wait", sys.executable, "-c", SIGNS, str(tmp_path / "ada"), str(tmp_path / "out"), "x"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False)

    assert (done.returncode, b"ada did not sign: " in done.stderr, b"see above" in done.stderr) == (1, True, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ada", "ada.pub"]
