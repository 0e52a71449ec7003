"""The folder of a site's CAs: made whole, never over another; each number once; OpenSSH reads what it makes (RUN-3)."""

from __future__ import annotations

import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyops import compose_pki
from hyops.adapters import pki_files
from hyops.adapters.pki_files import PkiFolder, is_revoked
from hyops.adapters.pki_keys import FileAuthority, read_public
from hyops.errors import ConfigError, HyopsError, PrerequisiteError, RecordError, UsageError
from hyops.model.pki import CLOCK_PRINCIPAL
from hyops.services.pki import Pki
from ssh_site import GROUP, HOUR_S, RUNNER, ShiftedClock, Site, keygen

pytestmark = pytest.mark.req("RUN-3")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A fresh one."""
    return Site(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> str:
    """A public key."""
    return keygen(tmp_path / "key").with_suffix(".pub").read_text()


def shown(certificate: bytes, folder: Path) -> str:
    """What OpenSSH reads in a certificate."""
    path = folder / "shown-cert.pub"
    path.write_bytes(certificate)
    done = subprocess.run(["ssh-keygen", "-L", "-f", str(path)], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


def test_private_parts_are_private_and_nothing_is_made_twice(site: Site) -> None:
    """0600 in a 0700 folder; a second init changes nothing."""
    before = {path.name: path.read_bytes() for path in site.pki.iterdir()}

    with pytest.raises(PrerequisiteError, match="not empty"):
        compose_pki.make_folder(site.pki, None)

    assert {path.name: path.read_bytes() for path in site.pki.iterdir()} == before
    assert [path for path in site.folder.iterdir() if path.name.startswith(".")] == []
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in site.pki.iterdir()}
    assert {name for name, mode in modes.items() if mode & 0o077} == {"host_ca.pub", "user_ca.pub", "revoked.krl"}
    assert stat.S_IMODE(site.pki.stat().st_mode) == 0o700


def test_a_locked_ca_signs_with_its_passphrase_alone(tmp_path: Path, key: str) -> None:
    """Neither none nor another one opens it; a passphrase for an open key is refused too."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for path in (right, wrong):
        path.touch(mode=0o600)
        path.write_text(f"{path.name} horse\n")
    compose_pki.make_folder(tmp_path / "locked", right)
    compose_pki.make_folder(tmp_path / "open", None)

    assert compose_pki.pki(tmp_path / "locked", right).sign_user(key, GROUP)[0]

    for folder, passphrase in (("locked", wrong), ("locked", None), ("open", right)):
        with pytest.raises(ConfigError, match="cannot be opened"):
            compose_pki.pki(tmp_path / folder, passphrase).sign_user(key, GROUP)
    right.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        compose_pki.pki(tmp_path / "locked", right).sign_user(key, GROUP)


def test_a_ca_that_others_may_read_signs_nothing(site: Site, key: str) -> None:
    """Its key may be anybody's by now."""
    (site.pki / "user_ca").chmod(0o640)

    with pytest.raises(ConfigError, match="others may read"):
        site.ca().sign_user(key, GROUP)


def test_openssh_reads_what_was_signed(site: Site, key: str) -> None:
    """One principal, minutes, one command, no extension; a bastion's has one; a host's is for its names."""
    ca = site.ca()

    user = shown(ca.sign_user(key, GROUP, source_address="10.0.0.0/8")[0], site.folder)
    assert "user certificate" in user
    assert f"Serial: 1 Valid: from {user.split('Valid: from ')[1].split(' Principals')[0]}" in user
    assert f"Principals: {GROUP} Critical Options: force-command /usr/bin/hyops runner-serve" in user
    assert "source-address 10.0.0.0/8 Extensions: (none)" in user
    bastion = shown(ca.sign_bastion(key, "jump")[0], site.folder)
    assert "force-command /usr/sbin/nologin Extensions: permit-port-forwarding" in bastion
    assert bastion.endswith("permit-port-forwarding")
    host = shown(ca.sign_host(key, [RUNNER, "10.77.2.5"])[0], site.folder)
    assert "host certificate" in host
    assert f"Principals: {RUNNER} 10.77.2.5 Critical Options: (none) Extensions: (none)" in host


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("user", {"group": "a,b"}),
        ("user", {"group": "*"}),
        ("user", {"group": ""}),
        ("user", {"group": CLOCK_PRINCIPAL}),
        ("user", {"group": "g", "valid_s": 86401.0}),
        ("user", {"group": "g", "valid_s": 0.0}),
        ("user", {"group": "g", "command": ""}),
        ("user", {"group": "g", "command": "a\nb"}),
        ("user", {"group": "g", "source_address": "any"}),
        ("bastion", {"group": CLOCK_PRINCIPAL}),
        ("bastion", {"group": "g", "valid_s": 86401.0}),
        ("host", {"names": []}),
        ("host", {"names": ["!x"]}),
        ("host", {"names": ["r"], "valid_s": 401 * 86400.0}),
    ],
)
def test_what_would_be_too_much_is_not_signed(site: Site, key: str, kind: str, words: dict[str, object]) -> None:
    """Patterns, too long, no command, the clock's own name: refused, and no serial is spent."""
    with pytest.raises(UsageError):
        getattr(site.ca(), f"sign_{kind}")(key, **words)

    assert site.ca().issued() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "private key"),
        ("ssh-ed25519 !!!!", "not an OpenSSH public key"),
        ("", "not one line"),
        ("ssh-ed25519 AAAA\nssh-ed25519 AAAA\n", "not one line"),
        ("ssh-dss AAAAB3NzaC1kc3MAAAAB", "not an OpenSSH|not certified"),
    ],
)
def test_what_is_no_public_key_is_not_signed(site: Site, text: str, said: str) -> None:
    """The error names the file and what it is."""
    with pytest.raises(ConfigError, match=said):
        site.ca().sign_user(text, GROUP, source="x.pub")


def test_a_short_rsa_key_and_a_certificate_are_not_signed(site: Site, key: str) -> None:
    """1024 bits are no key; a certificate is signed already."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", str(site.folder / "rsa")], check=True
    )
    with pytest.raises(ConfigError, match="1024 bits"):
        site.ca().sign_user((site.folder / "rsa.pub").read_text(), GROUP)
    certificate = site.ca().sign_user(key, GROUP)[0].decode()
    with pytest.raises(ConfigError, match=r"certificate|can be certified"):
        site.ca().sign_user(certificate, GROUP)


def test_every_serial_once_though_many_sign(site: Site, key: str) -> None:
    """Eight at a time: 1 to 40, without a gap, in the order of the register."""
    with ThreadPoolExecutor(8) as pool:
        serials = list(pool.map(lambda _: site.ca().sign_user(key, GROUP)[1].serial, range(40)))

    assert sorted(serials) == list(range(1, 41))
    assert [one.serial for one, _ in site.ca().issued()] == list(range(1, 41))


def test_a_certificate_is_in_the_register_before_it_exists(site: Site, key: str) -> None:
    """The CA's key is gone at the moment of signing: no certificate, but the serial is written and spent."""
    (site.pki / "user_ca").rename(site.folder / "away")
    with pytest.raises(PrerequisiteError, match="user_ca"):
        site.ca().sign_user(key, GROUP)
    (site.folder / "away").rename(site.pki / "user_ca")

    assert site.ca().sign_user(key, GROUP)[1].serial == 2
    assert [one.serial for one, _ in site.ca().issued()] == [1, 2]


def test_a_line_that_a_crash_tore_is_no_entry(site: Site, key: str) -> None:
    """Nobody got its certificate; the next one takes the number, and the register stays readable."""
    site.ca().sign_user(key, GROUP)
    register = site.pki / "register.jsonl"
    whole = register.read_bytes()
    with register.open("ab") as file:
        file.write(whole[: len(whole) // 2])

    assert len(site.ca().issued()) == 1
    assert site.ca().sign_user(key, GROUP)[1].serial == 2
    assert [one.serial for one, _ in site.ca().issued()] == [1, 2]
    assert register.read_bytes().startswith(whole)


@pytest.mark.parametrize("harm", ["taken out", "put in twice", "changed"])
def test_a_register_that_was_changed_is_refused(site: Site, key: str, harm: str) -> None:
    """An entry that is missing or was added by hand is named."""
    for _ in range(3):
        site.ca().sign_user(key, GROUP)
    register = site.pki / "register.jsonl"
    lines = register.read_bytes().splitlines(keepends=True)
    if harm == "taken out":
        del lines[1]
    elif harm == "put in twice":
        lines.append(lines[2])
    else:
        lines[1] = lines[1].replace(b'"serial":2', b'"serial":"2"')
    register.write_bytes(b"".join(lines))

    with pytest.raises(RecordError, match=r"register\.jsonl, entry"):
        site.ca().issued()


def test_a_revoked_key_is_signed_no_more(site: Site, key: str) -> None:
    """Also by those who did not hear of it; asking twice changes nothing."""
    assert site.ca().revoke_key(key, "stolen") is not None
    assert site.ca().revoke_key(key, "stolen") is None

    for sign in (site.ca().sign_user, site.ca().sign_bastion):
        with pytest.raises(PrerequisiteError, match="revoked by test: stolen"):
            sign(key, GROUP)
    with pytest.raises(PrerequisiteError, match="revoked"):
        site.ca().sign_host(key, [RUNNER])
    assert len(site.ca().revocations()) == 1


def test_openssh_finds_what_was_revoked_and_nothing_else(site: Site, key: str, tmp_path: Path) -> None:
    """A serial of each CA and a key; the same serial of the other CA stays good."""
    ca = site.ca()
    other = keygen(tmp_path / "other").with_suffix(".pub").read_text()
    host, host_issued = ca.sign_host(key, [RUNNER])
    user, user_issued = ca.sign_user(key, GROUP)
    good, _ = ca.sign_user(key, GROUP)
    of_other, _ = ca.sign_user(other, GROUP)
    krl = site.pki / "revoked.krl"
    assert [is_revoked(krl, line) for line in (host, user, good, of_other)] == [False] * 4

    ca.revoke_serial(host_issued.serial, "a")
    assert [is_revoked(krl, line) for line in (host, user, good, of_other)] == [True, False, False, False]
    ca.revoke_serial(user_issued.serial, "b")
    ca.revoke_key(other, "c")
    assert [is_revoked(krl, line) for line in (host, user, good, of_other)] == [True, True, False, True]
    assert is_revoked(krl, other.encode())
    assert [state for _, state in ca.issued()] == ["revoked", "revoked", "valid", "revoked"]
    assert [state for _, state in site.ca(HOUR_S).issued()] == ["revoked", "revoked", "expired", "revoked"]
    said = subprocess.run(["ssh-keygen", "-Q", "-l", "-f", str(krl)], capture_output=True, text=True, check=True)
    assert "KRL version 3" in said.stdout


def test_a_serial_that_was_never_signed_is_not_revoked(site: Site) -> None:
    """A slip of the finger is told, and the list stays."""
    before = (site.pki / "revoked.krl").read_bytes()

    with pytest.raises(PrerequisiteError, match="serial 7: not in the register"):
        site.ca().revoke_serial(7, "stolen")

    assert (site.pki / "revoked.krl").read_bytes() == before


def test_a_revocation_whose_list_could_not_be_made_is_not_lost(
    site: Site, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ssh-keygen: the error says so; asking again makes the list, though the revocation is written already."""
    certificate, issued = site.ca().sign_user(key, GROUP)
    monkeypatch.setenv("PATH", str(site.folder))
    with pytest.raises(PrerequisiteError, match="ssh-keygen is not installed"):
        site.ca().revoke_serial(issued.serial, "stolen")
    monkeypatch.undo()

    assert site.ca().revoke_serial(issued.serial, "stolen") is None
    assert is_revoked(site.pki / "revoked.krl", certificate)


def test_init_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No half set of CAs, whatever step goes wrong."""

    def broken(*_: object) -> None:
        raise PrerequisiteError("ssh-keygen is not installed")

    monkeypatch.setattr(pki_files, "_keygen", broken)
    with pytest.raises(HyopsError):
        compose_pki.make_folder(tmp_path / "pki", None)

    assert list(tmp_path.iterdir()) == []


def test_keys_are_named_as_openssh_names_them(key: str, tmp_path: Path) -> None:
    """The fingerprint in the register is the one that sshd logs."""
    said = subprocess.run(["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")], capture_output=True, text=True)

    assert read_public(key, "key").fingerprint == said.stdout.split()[1]


def test_a_full_disk_spends_no_certificate(site: Site, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The register takes no line: no certificate; afterwards all goes on."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
    with pytest.raises(PrerequisiteError, match="No space left"):
        site.ca().sign_user(key, GROUP)
    monkeypatch.undo()

    assert site.ca().sign_user(key, GROUP)[1].serial == 1
    assert len(site.ca().issued()) == 1


def test_time_goes_back_and_serials_do_not(site: Site, key: str) -> None:
    """Numbers come from the register, never from the clock."""
    site.ca().sign_user(key, GROUP)
    early = Pki(FileAuthority(site.pki), PkiFolder(site.pki), ShiftedClock(-10 * HOUR_S), by="test")

    assert early.sign_user(key, GROUP)[1].serial == 2
