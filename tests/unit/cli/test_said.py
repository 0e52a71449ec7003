"""What an approver reads was written by whoever asked: no text of a record makes a line of its own (INV-8)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyops.cli.main import main
from hyops.cli.runner_tell import Teller
from hyops.cli.said import LINE_MAX, say
from hyops.model.approval import Approval, ApprovalStatement
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from loop_site import LoopSite

pytestmark = pytest.mark.req("INV-8", "APR-1")
FORGED = "rehearsal\nwhere     lab-runner by runner-local\r\x9b2J\x1b[8m\u202e\u2028needs     nobody"
UNSEEN = "\n\r\x9b\x1b\u202e\u2028"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> LoopSite:
    """A control host where a request waits whose rationale and warning pretend to be lines of their own."""
    made = LoopSite(tmp_path / "site")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    ask = ["decision", "request", "--service", "pg", "--type", "failover", "--rationale", FORGED]
    assert main(ask) == 0
    made.serve("dispatch", lambda: bool(made.read("dispatch", "requests")), "a request")
    (request,) = made.read("dispatch", "requests")
    other = DispatchRequest.of({**request, "warnings": [FORGED], "signature": None})
    store = made.records("dispatch", "requests")
    (made.root / f"dispatch-home/state/requests/{other.dispatch_id}.json").unlink()
    store.create(other.dispatch_id, sign_record(other, made.keys["dispatch"]).encoded())
    capsys.readouterr()
    return made


def lines_of(text: str) -> list[str]:
    """Its lines, none of which does anything to a terminal."""
    found = text.split("\n")
    assert not [c for line in found for c in line if c in UNSEEN]
    return found


@pytest.mark.parametrize(
    "words", [["approval", "show"], ["approval", "list"], ["explain"], ["status"], ["decision", "explain"]]
)
def test_a_rationale_is_one_line(site: LoopSite, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Line ends, the cursor's moves and turned text are written out; the place of the run is said once, and true."""
    (request,) = site.read("dispatch", "requests")
    (decided,) = site.read("decision", "records")
    file = site.root / "decision-home/state/records" / f"{decided['decision_id']}.json"
    given = {"show": [request["dispatch_id"]], "explain": [str(file)] if words[0] == "decision" else []}
    assert main([*words, *given.get(words[-1], [])]) == 0
    told = lines_of(capsys.readouterr().out)

    assert [line for line in told if r"rehearsal\nwhere     lab-runner by runner-local\r\x9b2J\x1b[8m\u202e" in line]
    where = [line for line in told if line.startswith("where")]
    assert where == (["where     cloud-runner by runner-local, blueprint core/noop@v1"] if "show" in words else [])
    assert [line for line in told if line.startswith("needs     nobody")] == []


def test_who_signs_sees_the_same_lines(site: LoopSite, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a grant and before a rejection, on standard error."""
    (request,) = site.read("dispatch", "requests")
    for verdict in ("grant", "reject"):
        words = ["approval", verdict, request["dispatch_id"], "--yes"]
        assert main([*words, "--acknowledge", FORGED] if verdict == "grant" else words) == 0
        told = lines_of(capsys.readouterr().err)
        assert len([line for line in told if line.startswith("where")]) == 1
        assert len([line for line in told if line.startswith("WARNING   rehearsal")]) == 1


def test_a_list_of_delegations_is_not_forged(
    site: LoopSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A delegate has any name, and what was put into the folder by hand is listed too."""
    said = {"verdict": "delegate", "approver": "ada", "delegate": f"dan\n{FORGED}", "services": ["pg"]}
    said |= {"decision_types": ["failover"], "signed_at": "2026-01-01T00:00:00Z", "starts_at": "2026-01-01T00:00:00Z"}
    statement = ApprovalStatement.of({"schema": "hyops/approval/v1", **said, "expires_at": "2026-01-02T00:00:00Z"})
    approval = Approval.signed(statement, "no signature")
    site.records("approval", "approvals").create(approval.approval_id, approval.encoded())
    assert main(["approval", "delegations"]) == 0
    told = lines_of(capsys.readouterr().out)

    assert len([line for line in told if line]) == 2
    assert r"dan\nrehearsal" in told[0]


def test_who_deploys_is_told_of_warnings_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """The warning and the command with it are one line each."""
    request = {"dispatch_id": "dispatch-1", "expires_at": "soon", "warnings": [FORGED]}
    Teller(False, approval_config=Path("/etc/approval.json")).tell("request", request)

    assert len(lines_of(capsys.readouterr().out)) == 5


def test_programs_get_every_byte(site: LoopSite, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` is for them: the text as it was asked for."""
    assert main(["approval", "list", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)

    assert found["request"]["rationale"] == FORGED


def test_a_long_text_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever signs reads all of it, in every language; only what no record holds is cut, and says so."""
    text = "größe 漢 " * 600
    say(text, err=True)
    say("x" * (LINE_MAX + 1))
    told = capsys.readouterr()

    assert told.err == text + "\n"
    assert told.out.endswith("x [cut]\n")
