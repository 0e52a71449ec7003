"""`hyops lint` exits 0, 16, 11 and 2, and says the same to people, programs and forges (DRIFT-1, UX-1, UX-2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyops.cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One clean file."""
    (tmp_path / "good.yml").write_text("runner_ref: gcp-ops-runner\n")
    return tmp_path


@pytest.mark.req("DRIFT-1", "UX-1")
def test_clean_is_0_and_a_finding_is_16(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a path the present folder; the place is `file:line: rule: key`, and how to mend it stands below."""
    monkeypatch.chdir(folder)
    assert main(["lint"]) == 0
    assert "0 finding(s) in 1 file(s)" in capsys.readouterr().out

    (folder / "bad.yml").write_text("a: 1\nvm:\n  public_ip: true\n")
    assert main(["lint"]) == 16
    said = capsys.readouterr().out
    assert "bad.yml:3: drift/public-ip: vm.public_ip: " in said
    assert "mend: " in said
    assert main(["lint", "good.yml"]) == 0
    assert main(["lint", "bad.yml", "--rule", "drift/workstation"]) == 0
    assert main(["lint", "bad.yml", "--rule", "drift/workstation", "--rule", "drift/public-ip"]) == 16


@pytest.mark.req("DRIFT-1", "UX-1")
def test_a_file_that_cannot_be_read_is_11_and_the_rest_is_still_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finding beside it is shown; silence about the unreadable one would be taken for proof."""
    (folder / "bad.yml").write_text("public_ip: true\n")
    (folder / "torn.yml").write_text("a: [\n")

    assert main(["lint", str(folder)]) == 11
    told = capsys.readouterr()
    assert "bad.yml:1: drift/public-ip" in told.out
    assert "torn.yml:2: " in told.err

    assert main(["lint", str(folder), "--json"]) == 11
    body = json.loads(capsys.readouterr().out)
    assert body["files"] == 2
    assert [one["rule"] for one in body["findings"]] == ["drift/public-ip"]
    assert body["unreadable"][0]["path"].endswith("torn.yml")

    assert main(["lint", str(folder), "--sarif"]) == 11
    run = json.loads(capsys.readouterr().out)["runs"][0]
    assert run["invocations"][0]["executionSuccessful"] is False
    place = run["invocations"][0]["toolExecutionNotifications"][0]["locations"][0]["physicalLocation"]
    assert place["region"]["startLine"] == 2


@pytest.mark.req("DRIFT-1", "UX-1")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.yml"], "no such file"),
        (["--rule", "drift/public-ipp"], "did you mean 'drift/public-ip'"),
        (["--json", "--sarif"], "exclude each other"),
    ],
)
def test_a_wrong_command_is_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was looked at, and nothing is said to be clean."""
    assert main(["lint", *words]) == 2
    told = capsys.readouterr()
    assert said in told.out + told.err
    assert "finding" not in told.out
