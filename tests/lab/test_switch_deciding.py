"""What must not become a switch: one voice, a broken path, and approvals that approve nothing, on real hosts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hyops_lab import approver, ledger
from hyops_lab.loop import CONTROL, FOLDERS, Json
from hyops_lab.roles import postgres
from hyops_lab.waiting import until
from hyops_lab.wiring.control import UNITS
from hyops_lab.wiring.service import VANTAGES
from lab.switch_lab import LIMIT_S, SwitchLab

pytestmark = [pytest.mark.lab]

REFUSALS = "/opt/hybridops/decision-consumer/state/refusals"
STATE = [str(Path(folder).parent) for folder in (FOLDERS["decision"], FOLDERS["request"])]


@pytest.mark.req("DEC-4", "INV-5")
@pytest.mark.fault(1)
def test_one_vantage_point_that_loses_the_primary_causes_no_request(service: SwitchLab) -> None:
    """One of three is cut off from it: a hold for lack of a quorum, no request, and the client notices nothing."""
    lab, primary = service.lab, service.primary()
    known = _ids(service, "decision")
    requests, cut_ns = service.count("request"), time.monotonic_ns()

    lab.cut_port("cloud-runner", primary, postgres.PORT)
    said = _new(service, known, "1 of 2 needed vantage points")

    assert said["decision_type"] == "hold"
    assert {d["decision_type"] for d in service.loop.records("decision") if d["decision_id"] not in known} == {"hold"}
    _still_serves(service, primary, cut_ns, requests)


@pytest.mark.req("DEC-4", "INV-5")
@pytest.mark.fault(2)
def test_a_broken_path_to_a_primary_that_still_feeds_its_standby_causes_no_request(service: SwitchLab) -> None:
    """All three lose it while WAL still arrives: a hold that says so, no request, and the client notices nothing."""
    lab, primary = service.lab, service.primary()
    known = _ids(service, "decision")
    requests, cut_ns = service.count("request"), time.monotonic_ns()

    for vantage in VANTAGES:
        lab.cut_port(vantage, primary, postgres.PORT)
    path = _new(service, known, "still receives WAL")

    assert path["decision_type"] == "hold"
    assert {d["decision_type"] for d in service.loop.records("decision") if d["decision_id"] not in known} == {"hold"}
    _still_serves(service, primary, cut_ns, requests)


def _ids(service: SwitchLab, kind: str) -> set[str]:
    return {record[f"{kind}_id"] for record in service.loop.records(kind)}


def _new(service: SwitchLab, known: set[str], why: str) -> Json:
    """The first decision since then that says this; a busy machine may be in doubt of something else before."""
    return service.loop.wait("decision", lambda d: d["decision_id"] not in known and why in d["rationale"], LIMIT_S)


def _still_serves(service: SwitchLab, primary: str, since_ns: int, requests: int) -> None:
    """For longer than a decision takes, the client writes at the same primary and nothing is asked for."""
    ledger.wait_ack(service.lab, time.monotonic_ns() + 3_000_000_000)
    acks = [e for e in ledger.entries(service.lab) if e.at_ns >= since_ns]
    print(f"longest gap {ledger.gap(acks).seconds:.3f} s")
    assert {e.address for e in acks} == {service.lab.address(primary)}
    assert service.count("request") == requests
    assert service.primary() == primary


@pytest.fixture
def unapproved(service: SwitchLab) -> Iterator[SwitchLab]:
    """The service without its standing approvals: every request waits for a signature."""
    for path in service.loop.folder("approval").glob("*.json"):
        if json.loads(path.read_bytes() or b"{}").get("statement", {}).get("verdict") == "standing":
            path.unlink()
    yield service
    for path in service.loop.folder("approval").glob("*.json"):
        if not path.read_bytes():
            path.unlink()


@pytest.mark.req("APR-1", "INV-4", "INV-7", "UX-3")
@pytest.mark.fault(10, 11)
def test_what_is_no_valid_approval_is_refused_recorded_and_stages_nothing(unapproved: SwitchLab) -> None:
    """Zero bytes, an edited note, an expired one, another request's: refused each; a valid one then carries the run."""
    service, runner = unapproved, unapproved.next_runner()
    staged = service.runs(runner)
    switch = service.ask()
    assert switch.request["status"] == "awaiting-approval"
    now = datetime.now(UTC)
    signed = approver.granted(service.lab, switch.request, now).body()
    edited = {**signed, "statement": {**signed["statement"], "note": "and more"}}
    late = approver.granted(service.lab, switch.request, now - approver.GRANTED_FOR - timedelta(seconds=5))
    other = approver.granted(service.lab, {**switch.request, "rationale": "other bytes"}, now - timedelta(seconds=9))
    made = {
        "empty": (f"approval-{now:%Y%m%dT%H%M%SZ}-00000000", b""),
        "edited": (signed["approval_id"], json.dumps(edited).encode()),
        "expired": (late.approval_id, late.encoded()),
        "for another request": (other.approval_id, other.encoded()),
    }
    for what, (name, content) in made.items():
        path = f"{FOLDERS['approval']}/{name}.json"
        service.lab.write(CONTROL, path, content, 0o640, "hyops-consumer:hyops-loop")
        reason = _refusal_of(service, name)
        print(f"{what}: {reason}")
        assert not [e for e in service.loop.records("execution") if e["source_dispatch_id"] == _id(switch.request)]
    assert service.runs(runner) == staged

    (service.loop.folder("approval") / f"{made['edited'][0]}.json").unlink()
    approver.grant(service.lab, switch.request)
    assert service.outcome(switch)["outcome"] == "succeeded"


def _id(request: Json) -> str:
    return str(request["dispatch_id"])


def _refusal_of(service: SwitchLab, subject: str) -> str:
    """The reason that the approval stage has recorded for a file."""
    folder = service.lab.machine(CONTROL).path(REFUSALS)
    found: list[Json] = []

    def recorded() -> bool:
        found[:] = [json.loads(p.read_bytes()) for p in folder.glob("*.json")]
        found[:] = [r for r in found if r["subject_id"].removesuffix(".json") == subject]
        return bool(found)

    until(recorded, what=f"a refusal of {subject}", where=str(folder), timeout_s=LIMIT_S)
    assert len(found) == 1
    return str(found[0]["reason"])


@pytest.mark.req("DSP-3")
def test_the_documented_synthetic_check_leaves_no_trace(unapproved: SwitchLab) -> None:
    """A hand-written minimal record becomes a request that waits; both removed by hand, the state is as before."""
    service = unapproved
    service.lab.exec(CONTROL, ["systemctl", "stop", UNITS["decision"]])  # what it decides meanwhile is no trace of this
    before = _tree(service)
    record = {
        "decision_id": "decision-synthetic-check",
        "decision_type": "failover",
        "rationale": "synthetic check",
        "checks": [{"name": "gcp_billing", "status": "degraded"}],
    }
    path = f"{FOLDERS['decision']}/{record['decision_id']}.json"

    service.lab.write(CONTROL, path, json.dumps(record).encode(), 0o640, "hyops-decision:hyops-loop")
    request = service.loop.wait("request", lambda r: r["source_decision_id"] == record["decision_id"], LIMIT_S)

    assert request["status"] == "awaiting-approval"
    assert request["checks"][0]["status"] == "bad"
    for kind, name in (("request", request["dispatch_id"]), ("decision", record["decision_id"])):
        service.lab.exec(CONTROL, ["rm", f"{FOLDERS[kind]}/{name}.json"])
    assert _tree(service) == before


def _tree(service: SwitchLab) -> set[str]:
    """Every file of the two stages' state."""
    return set(service.lab.exec(CONTROL, ["find", *STATE, "-type", "f", "-not", "-name", ".lock"]).stdout.split())
