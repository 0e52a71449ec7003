"""`hyops evidence` exits 0 for what holds and 41 for what does not, naming the first bad record."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from pathlib import Path

import pytest

from hyops import compose_operator
from hyops.cli.main import main
from hyops.evidence import links
from hyops.evidence.assemble import Story, assemble
from hyops.evidence.chain import FILE
from hyops.testing import evidence as seeds


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle on disk, and a wiring that trusts the test's keys."""
    monkeypatch.setattr(
        compose_operator,
        "offline_verifiers",
        lambda keys, signers, approvers: (seeds.VERIFIER, seeds.APPROVALS if signers else None),
    )
    switch = seeds.failover()
    story = Story(**{f.name: getattr(switch, f.name) for f in dataclasses.fields(switch)})
    now = seeds.START + timedelta(minutes=1)
    return assemble(story, directory=tmp_path / "evidence", signer=seeds.STAGES["execution"], now=now)


def run(*words: object) -> int:
    """One command, with the keys it needs."""
    command = [str(word) for word in words]
    return main(["evidence", *command, "--keys", "trusted_keys.json", "--allowed-signers", "allowed_signers"])


@pytest.mark.req("EVD-2", "UX-1")
def test_a_good_bundle_exits_0(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verified, with the digest that pins it, which can be asked for again."""
    assert run("verify", bundle, "--json") == 0
    said = json.loads(capsys.readouterr().out)

    assert said["verified"] is True
    assert run("verify", bundle, "--head", said["head"]) == 0
    assert run("verify", bundle, "--head", "sha256:" + "0" * 64) == 41


@pytest.mark.req("EVD-2", "UX-1")
@pytest.mark.fault(31)
def test_a_damaged_bundle_exits_41_and_names_the_record(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code and the error name line, record and fault, for people and for programs."""
    lines = (bundle / FILE).read_bytes().splitlines(keepends=True)
    (bundle / FILE).write_bytes(b"".join(lines[:4] + lines[5:]))

    assert run("verify", bundle) == 41
    assert "line 5" in capsys.readouterr().err
    assert run("verify", bundle, "--json") == 41
    assert json.loads(capsys.readouterr().out)["facts"]["fault"] == "dropped"


@pytest.mark.req("EVD-2", "EVD-3")
def test_nothing_is_shown_or_reported_of_a_damaged_bundle(bundle: Path, tmp_path: Path) -> None:
    """Neither tables nor a page come out of evidence that does not hold."""
    (bundle / FILE).write_bytes((bundle / FILE).read_bytes()[:-1])

    assert run("show", bundle) == 41
    assert run("report", bundle, "-o", tmp_path / "r.html") == 41
    assert not (tmp_path / "r.html").exists()


@pytest.mark.req("EVD-3", "UX-2")
def test_show_and_report_tell_the_story(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables for people, JSON for programs, a page on disk."""
    assert run("show", bundle) == 0
    assert "pg failed over from onprem-db to cloud-db" in capsys.readouterr().out
    assert run("show", bundle, "--json") == 0
    assert json.loads(capsys.readouterr().out)["generation"] == [7, 8]
    assert run("report", bundle, "-o", tmp_path / "r.html") == 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.req("EVD-3", "INV-8")
def test_a_remark_is_one_line(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It repeats what somebody typed, such as the reason of a takeover: nothing of it speaks to the terminal."""
    forged = "taken over: dark\nevidence: verified\r\x9b2J\u202e"
    monkeypatch.setattr(links, "remarks", lambda _: [forged])
    for command in ("verify", "show"):
        assert run(command, bundle) == 0
        told = capsys.readouterr().out
        assert [c for c in told if c in "\r\x9b\u202e"] == []
        assert r"dark\nevidence: verified\r\x9b2J\u202e" in told.replace("\n", "")


@pytest.mark.req("EVD-2")
def test_a_packed_bundle_verifies(bundle: Path, tmp_path: Path) -> None:
    """One tar is enough to send on."""
    assert main(["evidence", "pack", str(bundle), "-o", str(tmp_path / "b.tar")]) == 0
    assert run("verify", tmp_path / "b.tar") == 0


@pytest.mark.req("APR-3")
def test_without_allowed_signers_approvals_stay_unproven(bundle: Path) -> None:
    """What cannot be checked is not assumed."""
    assert main(["evidence", "verify", str(bundle), "--keys", "trusted_keys.json"]) == 41
