"""Approve at 03:00, "Roll back": until when a withdrawal or rejection stops a run, by the commands (APR-1)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from control_site import Run, run
from hyops.compose_store import starts_of
from hyops.control.execution import attempt_of, closed_by_refusal
from hyops.errors import PrerequisiteError
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, Execution
from loop_site import LoopSite
from runbook import says, text

__all__ = ["run"]
pytestmark = pytest.mark.req("APR-1", "UX-1")
PAGE = "approve-at-0300.md"


class Approved:
    """A request with an execution, of which the executor has made an attempt and sent nothing."""

    def __init__(self, site: LoopSite, run: Run) -> None:
        self.site, self._run = site, run
        asked = ("decision", "request", "--service", "pg", "--type", "failover", "--by", "bob")
        assert run(*asked, "--config", site.config("decision"))[0] == 0
        requests = site.records("dispatch", "requests")
        site.serve("dispatch", lambda: bool(requests.ids()), "a request")
        (self.request,) = requests.ids()
        assert self.says("grant")[0] == 0
        made = site.records("approval", "executions")
        site.serve("approval", lambda: bool(made.ids()), "an execution")
        execution = Execution.read(made.read(made.ids()[0]))
        self.attempt: Attempt = attempt_of(execution, "dispatch", datetime.now(UTC))
        self.puts("attempts", self.attempt.attempt_id, self.attempt)

    def says(self, verdict: str) -> tuple[int, str, str]:
        """Ada's word."""
        words = ("--config", self.site.config("approval"), "--key", self.site.root / "ada", "--yes")
        return self._run("approval", verdict, self.request, *words)

    def puts(self, kind: str, name: str, record: Attempt) -> None:
        """As the executor does."""
        signed = sign_record(record, self.site.keys["execution"])
        self.site.records("execution", kind).create(name, signed.encoded())

    def written(self) -> list[str]:
        """What lies in the folder of approvals."""
        return [one["statement"]["verdict"] for one in self.site.read("approval", "approvals")]


@pytest.fixture
def approved(tmp_path: Path, run: Run) -> Approved:
    """A fresh one."""
    return Approved(LoopSite(tmp_path / "site"), run)


@pytest.mark.parametrize("verdict", ["withdraw", "reject"])
def test_a_no_counts_until_the_run_was_sent(approved: Approved, verdict: str) -> None:
    """Sent: 13, with the command that cancels it, as the page says. Not sent: written, and where to look."""
    starts = starts_of(approved.site.home("execution"))
    starts.note(approved.attempt.attempt_id)
    late = approved.says(verdict)
    known = approved.written()
    starts.forget(approved.attempt.attempt_id)
    said = approved.says(verdict)

    assert (late[0], known, f"hyops run cancel {approved.attempt.run_id}" in late[2]) == (13, ["grant"], True)
    assert says("was sent to ..., and no word stops it", late[2])
    assert "`was sent to ..., and no word stops it`" in text(PAGE)
    assert (said[0], "nothing runs if none of it was sent yet" in said[2]) == (0, True)
    assert sorted(approved.written()) == sorted(["grant", verdict])


def test_a_no_after_the_end_says_how_it_ended(approved: Approved) -> None:
    """Closed as refused: 13, and nothing is written."""
    outcome = closed_by_refusal(approved.attempt, PrerequisiteError("no room"), datetime.now(UTC))
    signed = sign_record(outcome, approved.site.keys["execution"])
    approved.site.records("execution", "outcomes").create(signed.outcome_id, signed.encoded())
    late = approved.says("withdraw")

    assert (late[0], says("its run ... has ended: refused", late[2]), approved.written()) == (13, True, ["grant"])
    assert "`has ended: ...`" in text(PAGE)


def test_a_standing_approval_is_found_and_taken_back(tmp_path: Path, run: Run) -> None:
    """By the id that the command printed and that the page names; a second time there is nothing to take."""
    site = LoopSite(tmp_path / "site", approval={"policy": {"allow_standing": True}})
    asked = ("decision", "request", "--service", "pg", "--type", "failover", "--by", "bob")
    run(*asked, "--config", site.config("decision"))
    plans = site.records("dispatch", "requests")
    site.serve("dispatch", lambda: bool(plans.ids()), "a request")
    (request,) = site.read("dispatch", "requests")
    words = ("--config", site.config("approval"), "--key", site.root / "ada", "--yes")
    given = run("approval", "standing", "--plan", request["plan_digest"], "--service", "pg", *words, "--json")
    name = json.loads(given[1])["approval_id"]
    listed = run("approval", "delegations", "--config", site.config("approval"))[1]
    back, again = (run("approval", "withdraw", name, *words) for _ in range(2))

    assert (given[0], back[0], again[0]) == (0, 0, 13)
    assert says(f"{name} in force standing approval of {request['plan_digest']}", listed)
