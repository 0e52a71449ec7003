"""`hyops pki` as it is typed: what it prints, what it refuses, and with which exit code (RUN-3, UX-1)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyops.cli.main import main

pytestmark = pytest.mark.req("RUN-3", "UX-1")
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl somebody\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where CAs and a key lie."""
    monkeypatch.setenv("HYOPS_PKI", str(tmp_path / "pki"))
    (tmp_path / "key.pub").write_text(PUBLIC)
    assert main(["pki", "init"]) == 0
    return tmp_path


def test_what_was_signed_is_listed_and_what_was_revoked_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sign three, revoke one: the list tells each, people's and programs' form."""
    key = str(folder / "key.pub")
    assert main(["pki", "sign", "host", key, "--name", "r1", "-o", str(folder / "host")]) == 0
    assert main(["pki", "sign", "user", key, "--group", "g", "--source-address", "10.0.0.0/8"]) == 0
    assert main(["pki", "sign", "bastion", key, "--group", "b", "-o", str(folder / "b"), "--valid", "1h"]) == 0
    assert main(["pki", "revoke", "--serial", "2", "--reason", "lost"]) == 0
    assert (folder / "key-cert.pub").read_text().startswith("ssh-ed25519-cert-v01@openssh.com ")
    capsys.readouterr()

    assert main(["pki", "list", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["serial"], one["kind"], one["state"]) for one in told] == [
        (1, "host", "valid"),
        (2, "user", "revoked"),
        (3, "bastion", "valid"),
    ]
    assert main(["pki", "list", "--valid"]) == 0
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
        ["1", "host", "valid"],
        ["3", "bastion", "valid"],
    ]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["init"], 12, "not empty"),
        (["sign", "user", "{}/none.pub", "--group", "g"], 12, "none.pub"),
        (["sign", "user", "{}/key.pub", "--group", "g", "--valid", "2d"], 2, "--valid '2d'"),
        (["sign", "user", "{}/key.pub", "--group", "g,h"], 2, "'g,h'"),
        (["sign", "user", "{}/key.pub", "--group", "g", "-o", "{}/none/x"], 12, "serial 1 was signed"),
        (["sign", "user", "{}/key.pub", "--group", "g", "--pki", "{}/none"], 12, "none"),
        (["sign", "host", "{}/pki/host_ca", "--name", "r"], 11, "private key"),
        (["revoke", "--reason", "r"], 2, "one of --serial and --key"),
        (["revoke", "--serial", "1", "--key", "{}/key.pub", "--reason", "r"], 2, "one of --serial and --key"),
        (["revoke", "--serial", "1", "--reason", "r"], 12, "not in the register"),
        (["revoke", "--key", "{}/none.pub", "--reason", "r"], 12, "none.pub"),
        (["sshd-config", "r 1", "--group", "g"], 2, "'r 1'"),
        (["sshd-config", "r1", "--group", "g", "--user", "a\nPermitRootLogin yes"], 2, "not a user"),
        (["sshd-config", "r1", "--group", "g", "--bastion", "any"], 2, "not a permit-open"),
        (["sshd-config", "r1", "--group", "g", "-o", "{}/out"], 2, "--host-certificate"),
        (
            ["sshd-config", "r1", "--group", 'g" x', "-o", "{}/out", "--host-certificate", "{}/key.pub"],
            2,
            "not a group",
        ),
        (["known-hosts", "*"], 2, "'*'"),
        (["known-hosts", "r1", "--pki", "{}/none"], 12, "host_ca.pub"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    """One message, the exit code of its kind."""
    assert main(["pki", *(word.replace("{}", str(folder)) for word in words)]) == code

    assert said in capsys.readouterr().err
    assert not (folder / "out").exists()
    assert not (folder / "key-cert.pub").exists()


def test_a_command_cannot_leave_its_quotes(folder: Path) -> None:
    """What a group may start stands in quotes, whatever it holds."""
    words = ["pki", "sshd-config", "r1", "--group", "g", "-o", str(folder / "out")]
    words += ["--host-certificate", str(folder / "key.pub"), "--command", 'a" b\\c']
    assert main(words) == 0

    line = (folder / "out" / "principals").read_text().splitlines()[0]
    assert line == 'restrict,command="a\\" b\\\\c" g'
    assert main([*words[:-1], "a\nb"]) == 2
