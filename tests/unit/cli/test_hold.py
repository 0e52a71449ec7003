"""`hyops hold` with real OpenSSH keys: what is signed stands, what would have no effect is not even written (DEC-6)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from control_site import ControlSite, Run, run
from hyops.adapters.approval_ssh import sign
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.store_files import FileRecordStore
from hyops.compose_hold import hold_book
from hyops.control.decision import decision_of
from hyops.model.decision import Decision
from hyops.model.hold import HoldRecord, HoldStatement
from hyops.model.observed import DecisionInputs
from hyops.model.refusal import Refusal
from hyops.services.config import DecisionConfig
from hyops.testing.clock import FakeClock
from hyops.testing.evidence import STAGES
from simulation.world import policy

__all__ = ["run"]


class Site(ControlSite):
    """A control host whose decision service names ada (approver), hal (holder) and eve (nothing)."""

    def __init__(self, root: Path) -> None:
        people = {"ada": ["approver"], "hal": ["holder"], "eve": []}
        super().__init__(root, people=people, protected={"policy": policy().body(), "initial_generation": 1})

    def records(self, kind: str = "holds") -> list[bytes]:
        """What lies on disk."""
        store = FileRecordStore(self.root / "decision-home/state" / kind)
        return [store.read(name) for name in store.ids()]

    def signed_by(self, who: str) -> list[object]:
        """The options of a command that signs."""
        return ["--config", self.decision, "--key", self.root / who, "--yes"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A fresh one."""
    return Site(tmp_path)


def add(site: Site, run: Run, *more: object, by: str = "ada", service: str = "pg") -> tuple[int, str, str]:
    """`hyops hold add` for four hours."""
    words: list[object] = ["hold", "add", service, "--owner", "dba on call", "--reason", "kernel upgrade"]
    return run(*words, *(more or ("--for", "4h")), *site.signed_by(by))


@pytest.mark.req("DEC-6", "UX-2")
@pytest.mark.parametrize("by", ["ada", "hal"])
def test_a_hold_is_signed_listed_shown_and_ended(site: Site, run: Run, by: str) -> None:
    """Add, list, status, end: two records on disk, none removed, and nothing holds any more."""
    code, said, err = add(site, run, "--for", "4h", "--json", by=by)
    hold_id = json.loads(said)["hold_id"]
    listed = run("hold", "list", "pg", "--config", site.decision)[1]
    status = run("status", "--config", site.execution)[1]
    ended, _, _ = run("hold", "end", "pg", hold_id[-8:], "--reason", "done", *site.signed_by("ada"))
    after = run("hold", "list", "pg", "--config", site.decision)[1]

    assert (code, ended) == (0, 0)
    assert "dba on call" in err
    assert hold_id in listed
    assert "HELD" in status
    assert "by dba on call: kernel upgrade" in status
    assert "nothing holds pg" in after
    assert len(site.records()) == 2


@pytest.mark.req("DEC-6")
def test_the_service_believes_what_the_command_wrote(site: Site, run: Run) -> None:
    """The decision service's own book, on the same folder, finds the hold in force."""
    add(site, run)
    config = DecisionConfig.read(site.decision.read_bytes())
    book = hold_book(config.homes, config.protected[0].policy, config.people, SystemClock())
    book.refresh()
    (record,) = [HoldRecord.read(data) for data in site.records()]
    hold = book.hold_now()

    assert hold is not None
    assert (hold.hold_id, hold.owner, hold.until) == (record.hold_id, "dba on call", record.statement.until)
    assert timedelta(hours=3) < hold.until - datetime.now(UTC) <= timedelta(hours=4)


@pytest.mark.req("DEC-6", "UX-2")
def test_what_the_service_refused_for_good_is_listed_as_that(site: Site, run: Run) -> None:
    """A well signed acknowledgement is laid into the folder, dated ahead. A day later, with nothing in memory: the
    service finds its own signed refusal, `hold list` says that it never counts, and neither writes a second one."""
    now, later = FakeClock(datetime.now(UTC)), FakeClock(datetime.now(UTC) + timedelta(days=1))
    said = HoldStatement(
        verdict="acknowledge", signer="ada", owner="ada", service="pg", env="lab", reason="tomorrow", generation=2,
        signed_at=now.now() + timedelta(hours=1),
    )  # fmt: skip
    record = HoldRecord.signed(said, sign(said.signed_bytes(), site.root / "ada"))
    FileRecordStore(site.root / "decision-home/state/holds").create(record.hold_id, record.encoded())
    config = DecisionConfig.read(site.decision.read_bytes())
    books = [
        hold_book(config.homes, config.protected[0].policy, config.people, clock, signer=STAGES["decision"])
        for clock in (now, later, later)
    ]
    for book in books:
        book.refresh()
    listed = run("hold", "list", "pg", "--config", site.decision)[1]
    (refusal,) = [Refusal.read(data) for data in site.records("refusals")]

    assert [dict(book.acknowledged) for book in books] == [{}, {}, {}]
    assert (refusal.subject_id, refusal.signature is not None) == (record.hold_id, True)
    assert f"{record.hold_id}  without effect: it was signed in the future" in listed
    assert "it never counts; say it anew" in listed


@pytest.mark.req("DEC-6", "UX-1")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--for", "4h", "--until", "2030-01-01T00:00:00Z"], 2, "one of --until and --for"),
        (["--json"], 2, "one of --until and --for"),
        (["--for", "4"], 2, "a number and one of s, m, h, d"),
        (["--for", "-4h"], 2, "a number and one of s, m, h, d"),
        (["--for", "0m"], 2, "a number and one of s, m, h, d"),
        (["--for", "\u00b2m"], 2, "a number and one of s, m, h, d"),
        (["--until", "9999-12-31T23:59:59-10:00"], 2, "2026-01-31T23:59:59Z"),
        (["--until", "0001-01-01T00:00:00+10:00"], 2, "2026-01-31T23:59:59Z"),
        (["--for", "4h", "--reason", "a\udcff"], 2, "--reason: character 2 is no UTF-8"),
        (["--for", "4h", "--owner", "a\udcff"], 2, "--owner: character 2 is no UTF-8"),
        (["--until", "tomorrow"], 2, "2026-01-31T23:59:59Z"),
        (["--until", "2030-01-01T00:00:00"], 2, "has no zone"),
        (["--until", "2020-01-01T00:00:00Z"], 2, "is over already"),
        (["--for", "32d"], 2, "31 days at most"),
    ],
)
def test_a_hold_without_a_clear_end_is_refused(site: Site, run: Run, words: list[str], code: int, says: str) -> None:
    """None, two, one that is read in two ways, one that is over, one for too long: said, and nothing written."""
    got, out, err = add(site, run, *words)

    assert (got, says in out + err, site.records()) == (code, True, [])


@pytest.mark.req("DEC-6", "APR-3", "UX-1")
def test_who_may_not_hold_writes_nothing(site: Site, run: Run) -> None:
    """No role, another's name, no terminal to ask on, another service, nobody configured, an empty reason."""
    for_4h = ["hold", "add", "pg", "--reason", "x", "--for", "4h"]
    signed = site.signed_by("ada")
    tried = {
        "role": add(site, run, by="eve"),
        "name": add(site, run, "--for", "4h", "--signer", "hal"),
        "never consent": run(*for_4h, *signed[:-1]),
        "is about pg": add(site, run, service="other"),
        "people: absent": run(*for_4h, "--config", site.without_people, *signed[2:]),
        "empty": run("hold", "add", "pg", "--reason", " ", "--for", "4h", *signed),
        "cannot tell whose key": run(*for_4h, *signed[:3], site.root / "nobody", "--yes"),
    }

    assert {what: got[0] for what, got in tried.items()} == {
        "role": 13,
        "name": 13,
        "never consent": 13,
        "is about pg": 2,
        "people: absent": 11,
        "empty": 2,
        "cannot tell whose key": 12,
    }
    assert [what for what, got in tried.items() if what not in ("role", "name") and what not in got[2]] == []
    assert site.records() == []


@pytest.mark.req("DEC-6")
def test_what_does_not_stand_cannot_be_ended_or_acknowledged(site: Site, run: Run) -> None:
    """No hold of that id, and no latch: exit code 2, and nothing written."""
    end = run("hold", "end", "pg", "00000000", "--reason", "x", *site.signed_by("ada"))
    seen = run("hold", "acknowledge", "pg", "--reason", "x", *site.signed_by("ada"))

    assert (end[0], "there is none" in end[2]) == (2, True)
    assert (seen[0], "not latched" in seen[2]) == (2, True)
    assert site.records() == []


@pytest.mark.req("INV-8", "DEC-6")
def test_what_was_signed_does_not_speak_to_the_terminal(site: Site, run: Run) -> None:
    """A reason that clears the screen, and says in its own line that nothing holds: written out, before and after."""
    evil = "gone\x1b[2J\x1b]0;owned\x07\u202e\x9b1m\r\nnothing holds pg"
    signed = site.signed_by("ada")
    _, said, asked = run("hold", "add", "pg", "--owner", evil, "--reason", evil, "--for", "4h", *signed)
    listed = run("hold", "list", "pg", "--config", site.decision)[1]
    path = next((site.root / "decision-home/state/holds").glob("*.json"))
    path.with_name("hold-\x1b[2J\u202e.json").write_bytes(b"{}")
    with_others = run("hold", "list", "--config", site.decision)[1]

    for told in (said, asked, listed, with_others):
        assert all(c.isprintable() or c == "\n" for c in told), told
    assert "owned" in asked
    assert "owned" in listed
    assert "\nnothing holds pg" not in asked + listed


@pytest.mark.req("DEC-6", "DEC-5")
def test_a_request_says_why_it_does_not_wait(site: Site, run: Run) -> None:
    """Refused with exit code 12 and the owner's name; with --despite-hold it is recorded, says why, and replays."""
    add(site, run)
    words = ["decision", "request", "--service", "pg", "--type", "failover", "--config", site.decision]
    refused = run(*words)
    between = site.records("records")
    asked = run(*words, "--despite-hold", "the upgrade broke it")
    (decision,) = [Decision.read(data) for data in site.records("records")]
    (known,) = [DecisionInputs.read(data) for data in site.records("inputs")]
    again = decision_of(known)

    assert (refused[0], between, asked[0]) == (12, [], 0)
    assert "dba on call" in refused[2]
    assert decision.rationale.endswith("(kernel upgrade): the upgrade broke it")
    assert again is not None
    assert again.unsigned() == decision.unsigned()


@pytest.mark.req("DEC-6")
def test_status_tells_of_a_hold_that_has_no_effect(site: Site, run: Run) -> None:
    """A record whose owner was edited after it was signed: told with its name, and nothing is held."""
    add(site, run)
    (path,) = (site.root / "decision-home/state/holds").glob("*.json")
    path.write_bytes(path.read_bytes().replace(b"dba on call", b"dba on cell"))
    status = run("status", "--config", site.execution)[1]
    (listed,) = json.loads(run("hold", "list", "pg", "--config", site.decision, "--json")[1])["without_effect"].values()

    assert "HELD" not in status
    assert f"NO EFFECT      {path.stem}: signature of ada" in status
    assert "signature of ada" in listed


def filed_anew(site: Site, stamp: str) -> str:
    """The one hold's very words and signature, under another name; the name."""
    store = FileRecordStore(site.root / "decision-home/state/holds")
    (first,) = [record for record in map(HoldRecord.read, site.records()) if record.statement.verdict == "hold"]
    copy = first.model_copy(update={"hold_id": f"hold-{stamp}-hold-deadbeef"})
    store.create(copy.hold_id, copy.encoded())
    return copy.hold_id


@pytest.mark.req("DEC-6", "INV-4", "INV-5")
@pytest.mark.parametrize("stamp", ["20200101T000000Z", "20991231T235959Z"])
def test_an_ended_hold_does_not_hold_again_under_another_name(site: Site, run: Run, stamp: str) -> None:
    """Its words and its signature are good, and its name is not theirs: without effect, and it says why."""
    hold_id = json.loads(add(site, run, "--for", "4h", "--json")[1])["hold_id"]
    run("hold", "end", "pg", hold_id, "--reason", "done", *site.signed_by("ada"))
    copy = filed_anew(site, stamp)
    listed = json.loads(run("hold", "list", "pg", "--config", site.decision, "--json")[1])
    status = run("status", "--config", site.execution)[1]

    assert (listed["holds"], listed["in_force"], "HELD" in status) == ([], None, False)
    assert listed["without_effect"][copy].startswith(f"it is filed as {copy}, and what was signed is {hold_id}")


@pytest.mark.req("DEC-6", "UX-2")
def test_without_a_service_all_are_listed(site: Site, run: Run) -> None:
    """Two services of one file, one held: each under its name, and what is about neither of them once."""
    body = json.loads(site.decision.read_text())
    mail = {"policy": {**body["protected"]["policy"], "service": "mail"}, "initial_generation": 1}
    both = site.write("both", {**body, "protected": [body["protected"], mail]})
    signed = ["--config", both, "--key", site.root / "ada", "--yes"]
    gone = site.write("gone", {**body, "protected": {**mail, "policy": {**mail["policy"], "service": "gone"}}})
    run("hold", "add", "mail", "--reason", "move of a host", "--for", "4h", *signed)
    run("hold", "add", "gone", "--reason", "x", "--for", "4h", "--config", gone, *signed[2:])
    listed = run("hold", "list", "--config", both)
    told = json.loads(run("hold", "list", "--config", both, "--json")[1])
    lines = listed[1].splitlines()

    assert (listed[0], [line for line in lines if not line.startswith(" ")]) == (0, ["pg:", "mail:"])
    assert sum("without effect: it is about gone" in line for line in lines) == 1
    assert ("  nothing holds pg" in lines, "move of a host" in lines[-1]) == (True, True)
    assert [(name, len(one["holds"]), len(one["without_effect"])) for name, one in told.items()] == [
        ("pg", 0, 1),
        ("mail", 1, 0),
    ]


@pytest.mark.req("DEC-6", "UX-1")
def test_listing_all_needs_people_too(site: Site, run: Run) -> None:
    """Nobody configured whose signature counts: refused with the mend, as for one service."""
    code, _, err = run("hold", "list", "--config", site.without_people)

    assert (code, "people: absent" in err) == (11, True)
