"""What a lab cannot do is said as any other refusal: one message, the right exit code, what was touched."""

from __future__ import annotations

import json

import pytest

from hyops.cli.main import main
from hyops_lab import Lab, RequirementsError, requirements


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("words", [["fail", "kill", "onprem-db"], ["heal"], ["exec", "control", "true"]])
def test_a_lab_that_is_not_there_is_a_refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 12, nothing touched, and the command that makes one."""
    assert main(["lab", "--lab", "absent", *words]) == 12
    said = capsys.readouterr().err
    assert "lab absent is not up" in said
    assert "touched: none" in said
    assert "hyops lab up" in said


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("lab_id", ["a/b", "", "a-b", "../x", "1a", "a" * 17])
@pytest.mark.parametrize("words", [["lab", "status"], ["drill", "site-loss"]])
def test_a_wrong_lab_id_is_a_usage_error(words: list[str], lab_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, nothing touched, and what an id looks like."""
    assert main([words[0], "--lab", lab_id, words[1]]) == 2
    said = capsys.readouterr().err
    assert "1 to 16 lower case letters" in said
    assert "touched: none" in said


@pytest.mark.req("UX-1", "UX-3")
@pytest.mark.parametrize("words", [["lab", "--lab", "absent", "up"], ["drill", "--lab", "absent", "switchover"]])
def test_a_machine_that_cannot_run_a_lab_is_told_what_it_lacks(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 12 for `lab up` and for a drill, which brings a lab up; no traceback, no word of a bug."""

    def lacking(_: object) -> None:
        raise RequirementsError(["root: run it with sudo"])

    monkeypatch.setattr(requirements, "ensure", lacking)
    assert main(words) == 12
    said = capsys.readouterr().err
    assert "root: run it with sudo" in said
    assert "touched: none" in said
    assert "bug" not in said


@pytest.mark.req("UX-1", "UX-3")
def test_a_drill_whose_lab_does_not_come_up_takes_it_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host that never gets ready: exit 20 as JSON, and `down` was called."""
    from hyops_lab import WaitError

    downs = []

    def stuck(*_: object, **__: object) -> None:
        raise WaitError("waited 30 s for cloud-db")

    monkeypatch.setattr(Lab, "up", stuck)
    monkeypatch.setattr(Lab, "down", lambda self: downs.append(self.names.lab_id))
    assert main(["drill", "--lab", "absent", "site-loss", "--json"]) == 20
    assert downs == ["absent"]
    assert json.loads(capsys.readouterr().out)["message"] == "waited 30 s for cloud-db"
