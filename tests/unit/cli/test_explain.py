"""`hyops explain` by any id of a chain, for people and programs; it writes nothing, and says what it cannot find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyops.cli.main import main
from loop_site import LoopSite

pytestmark = pytest.mark.req("UX-1", "UX-2")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> LoopSite:
    """A control host; somebody has asked for a switch, and nobody serves."""
    made = LoopSite(tmp_path / "site", execution={"mode": "dry-run"})
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    assert main(["decision", "request", "--service", "pg", "--type", "failover", "--by", "bob"]) == 0
    capsys.readouterr()
    return made


def explained(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    """What it says to programs."""
    capsys.readouterr()
    assert main(["explain", *words, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_every_id_of_a_chain_leads_to_the_same_decision(site: LoopSite, capsys: pytest.CaptureFixture[str]) -> None:
    """Decision, request, execution, attempt and run, and the end of each; without any the newest of each service."""
    site.serve("dispatch", lambda: bool(site.read("dispatch", "requests")), "a request")
    (request,) = site.read("dispatch", "requests")
    assert main(["approval", "grant", request["dispatch_id"], "--yes"]) == 0
    site.serve("approval execution", lambda: bool(site.read("execution", "attempts")), "an attempt")
    (found,) = explained(capsys)
    (attempt,) = site.read("execution", "attempts")

    assert (found["run_id"], found["dispatch_id"], found["state"]) == (
        attempt["run_id"],
        request["dispatch_id"],
        "dry run",
    )
    for key in ("decision_id", "dispatch_id", "execution_id", "attempt_id", "run_id"):
        assert explained(capsys, found[key]) == [found]
        assert explained(capsys, found[key][-8:]) == [found]


def test_it_writes_nothing(site: LoopSite, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even a folder of a stage that never was."""
    before = sorted(site.root.rglob("*"))
    (found,) = explained(capsys)

    assert (found["state"], "no hyops-decision-dispatcher serves" in found["why"]) == ("waiting", True)
    assert sorted(site.root.rglob("*")) == before


def test_an_id_of_nobody_is_a_usage_error(site: LoopSite, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, with the word; so is one that several decisions end with."""
    assert main(["explain", "dispatch-none"]) == 2
    assert "0 decisions have a record that ends with 'dispatch-none'" in capsys.readouterr().err
    assert main(["decision", "request", "--service", "pg", "--type", "failover", "--by", "ada"]) == 0
    assert main(["explain", ""]) == 2
    assert "2 decisions have a record that ends with ''" in capsys.readouterr().err


def test_a_stranger_s_record_is_named_with_its_fault(site: LoopSite, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2: it changes nothing; and the chain is explained without it."""
    site.serve("dispatch", lambda: bool(site.read("dispatch", "requests")), "a request")
    (request,) = site.read("dispatch", "requests")
    path = site.root / f"dispatch-home/state/requests/{request['dispatch_id']}.json"
    path.write_bytes(path.read_bytes().replace(b"cloud-runner", b"other-runner"))

    assert main(["explain", request["dispatch_id"]]) == 2
    assert f"{request['dispatch_id']} is not believed" in capsys.readouterr().err
    assert explained(capsys)[0]["dispatch_id"] is None


@pytest.mark.parametrize("text", [None, "", "{}", "# hyops"])
def test_a_wrong_configuration_is_a_refusal(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing or no configuration at all: exit 11, with the file's name."""
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)

    assert main(["explain", "--config", str(file)]) == 11
    assert "config.json" in capsys.readouterr().err


def test_without_a_decision_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was ever decided."""
    site = LoopSite(tmp_path / "site")

    assert main(["explain", "--config", str(site.config("execution"))]) == 0
    assert capsys.readouterr().out == "no decision yet\n"
