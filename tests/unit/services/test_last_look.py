"""What an executor's own configuration lets it hear of holds and noes, and what `hyops explain` says of it (DEC-6)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyops.adapters.approval_ssh import sign
from hyops.cli.main import main
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Execution
from hyops.model.hold import HoldRecord, HoldStatement
from hyops.model.vocabulary import DecisionType, Level
from hyops.services.last_look import LastLook
from loop_site import LoopSite


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopSite:
    """The loop has decided a failover by itself."""
    made = LoopSite(tmp_path / "site")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    now = datetime.now(UTC).replace(microsecond=0)
    decision = Decision(
        decision_id=f"decision-{now:%Y%m%dT%H%M%SZ}-failover-0000000a",
        decision_type=DecisionType.FAILOVER,
        rationale="onprem-db lost",
        timestamp_utc=now,
        expires_at=now + timedelta(hours=1),
        level=Level.TRIGGER,
        service="pg",
        generation=1,
        env="lab",
    )
    signed = sign_record(decision, made.keys["decision"])
    made.records("decision", "records").create(signed.decision_id, signed.encoded())
    made.serve("dispatch", lambda: bool(made.read("dispatch", "requests")), "a request")
    (request,) = made.read("dispatch", "requests")
    assert main(["approval", "grant", request["dispatch_id"], "--yes"]) == 0
    made.serve("approval", lambda: bool(made.read("approval", "executions")), "an execution")
    return made


def hold(site: LoopSite) -> None:
    """Ada holds it for an hour, with her key."""
    now = datetime.now(UTC).replace(microsecond=0)
    said = HoldStatement(
        verdict="hold",
        signer="ada",
        owner="dba",
        service="pg",
        env="lab",
        reason="kernel upgrade",
        signed_at=now,
        until=now + timedelta(hours=1),
    )
    record = HoldRecord.signed(said, sign(said.signed_bytes(), site.root / "ada"))
    site.records("decision", "holds").create(record.hold_id, record.encoded())


def explained(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What it says of the newest decision."""
    capsys.readouterr()
    assert main(["explain", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    return {key: str(found[key]) for key in ("state", "why", "next")}


class Seen(list[str | None]):
    """Why the executor sent nothing, each time that it looked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wait = LastLook.wait

        def looked(look: LastLook, execution: Execution, request: DispatchRequest) -> str | None:
            self.append(wait(look, execution, request))
            return self[-1]

        monkeypatch.setattr(LastLook, "wait", looked)


@pytest.mark.req("DEC-6", "UX-2")
def test_an_executor_with_people_waits_for_the_end_of_a_hold(
    site: LoopSite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the modules' examples have it: no attempt while it stands, and `hyops explain` says until when and whose, and
    what to do; it is ended, and the executor is woken."""
    hold(site)
    (record,) = site.read("decision", "holds")
    (execution,) = site.read("approval", "executions")
    seen, said, shown = Seen(monkeypatch), [], []
    end = ["hold", "end", "pg", record["hold_id"], "--reason", "done", "--key", str(site.root / "ada"), "--yes"]

    def made() -> bool:
        if seen and not said:
            assert site.read("execution", "attempts") == []
            said.append(explained(capsys))
            assert main(["status"]) == 0
            shown.append(capsys.readouterr().out)
            assert main(end) == 0
        return bool(site.read("execution", "attempts"))

    site.serve("execution", made, "an attempt")

    assert "pg is held until" in str(seen[0])
    assert (said[0]["state"], "by dba: kernel upgrade" in said[0]["why"]) == ("held", True)
    assert "hyops hold list pg" in said[0]["next"]
    assert f"HELD BACK      {execution['execution_id']}" in shown[0]
    assert main(["status"]) == 0
    assert "HELD" not in capsys.readouterr().out


@pytest.mark.req("DEC-6")
def test_an_executor_without_people_says_so_and_goes_on(site: LoopSite, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration from before: it is told once what is not heard, with the key to set; nothing else changes."""
    site.configure(execution={"people": None})
    hold(site)
    capsys.readouterr()
    site.serve("execution", lambda: bool(site.read("execution", "attempts")), "an attempt")
    told = [line for line in capsys.readouterr().err.splitlines() if "holds and noes not looked at" in line]

    assert len(told) == 1
    assert "people: absent" in told[0]


@pytest.mark.req("APR-1", "UX-2")
def test_what_was_rejected_is_refused_and_not_held_back(site: LoopSite, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that the page names: the executor refuses it with her name, and the status has the hold alone."""
    hold(site)
    (request,) = site.read("dispatch", "requests")
    assert main(["approval", "reject", request["dispatch_id"], "--note", "not now", "--yes"]) == 0
    site.serve("execution", lambda: bool(site.read("execution", "refusals")), "a refusal")
    said = explained(capsys)
    assert main(["status"]) == 0
    shown = capsys.readouterr().out

    assert (said["state"], "rejected by ada: not now" in said["why"]) == ("refused", True)
    assert ("HELD   " in shown, "HELD BACK" in shown) == (True, False)
    assert site.read("execution", "attempts") == []
