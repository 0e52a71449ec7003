"""One odd record stops no stage: it is recorded as refused, once, and the others go on (LOOP-1, INV-7, DSP-4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.store_files import FileRecordStore
from hyops.control.execution import attempt_id_of, closed_by_refusal
from hyops.errors import PrerequisiteError
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest, Route
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.plan import Plan
from hyops.model.refusal import Refusal
from hyops.ports.signer import ApproverSignature
from hyops.ports.transport import RunReturn
from hyops.services.dispatch import DispatchStage
from hyops.services.finishing import Finisher
from hyops.services.inbox import Inbox
from hyops.services.loop import LeftOpenError
from hyops.testing.clock import EPOCH, FakeClock
from hyops.testing.records import MemoryRecordStore
from simulation.test_approving import on_the_desk
from simulation.world import KEYS, VERIFIER, Approvers, World, plan_for, routes

pytestmark = pytest.mark.req("LOOP-1", "INV-7")
MINIMAL = {"decision_type": "failover", "rationale": "r"}
LONG = [{"name": f"gcp_{number}", "status": "bad", "reason": "y" * 4096} for number in range(250)]


def plans(route: Route, decision: Decision) -> Plan:
    """An engine with a bug: it is about one service, and one it cannot even read its files for."""
    if decision.service == "bug":
        raise ZeroDivisionError("a bug of the engine\nin two lines")
    if decision.service == "host":
        raise OSError(24, "too many open files")
    return plan_for(route, decision)


class Dispatcher:
    """One dispatcher; `fails`: what its last pass raised."""

    def __init__(self, decisions: Any = None) -> None:
        self.clock = FakeClock(EPOCH)
        self.decisions = MemoryRecordStore() if decisions is None else decisions
        self.requests, self.plans, self.refused = (MemoryRecordStore() for _ in range(3))
        self.plan_for = plans
        self.boot()

    def boot(self) -> None:
        """Start it anew."""
        self.stage = DispatchStage(
            decisions=self.decisions,
            requests=self.requests,
            plans=self.plans,
            refusals=self.refused,
            routes=routes(),
            plan_for=lambda route, decision: self.plan_for(route, decision),
            signer=KEYS["dispatch"],
            verifier=VERIFIER,
            clock=self.clock,
        )

    def put(self, name: str, **changes: Any) -> None:
        """A decision by hand."""
        made = Decision.of({**MINIMAL, "decision_id": name, **changes})
        self.decisions.create(name, made.encoded())

    def passes(self) -> None:
        """One pass, a minute later."""
        self.clock.advance(60)
        asyncio.run(self.stage.step(True))

    def routed(self) -> list[str]:
        """The decisions that have a request."""
        return sorted(DispatchRequest.read(one).source_decision_id for one in self.requests.records.values())

    def said(self) -> list[tuple[str, str]]:
        """What was refused, and why."""
        found = [Refusal.read(one) for one in self.refused.records.values()]
        return sorted((one.subject_id, one.reason) for one in found)


ROUTED: dict[str, dict[str, Any]] = {
    "a word as long as a name": {"source_decision_type": "x" * 64},
    "a denial with all the words it may have": {"dr_mode": "deny", "rationale": "z" * 4096},
    "a check that says all it may": {"target_cloud": "gcp", "checks": LONG[:1]},
}
HOST = [OSError(24, "too many open files"), MemoryError("too many"), PrerequisiteError("too many in use")]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "what the engine has a bug about": (
        {"service": "bug", "generation": 1},
        "ZeroDivisionError: a bug of the engine",
    ),
    "more than a store takes": ({"target_cloud": "gcp", "checks": LONG}, "more than 1500000"),
}


@pytest.mark.req("DSP-4")
@pytest.mark.parametrize("name", ROUTED)
def test_a_legal_decision_of_whatever_length_is_routed(name: str) -> None:
    """The longest words that a decision may have become a request, and the next decision does too."""
    dispatcher = Dispatcher()
    dispatcher.put("d-aaa", **ROUTED[name])
    dispatcher.put("d-zzz")
    dispatcher.passes()

    assert (dispatcher.routed(), dispatcher.said()) == (["d-aaa", "d-zzz"], [])


@pytest.mark.req("DSP-4")
@pytest.mark.parametrize("name", REFUSED)
def test_a_decision_that_cannot_be_routed_is_refused_once(name: str) -> None:
    """The one behind it has its request; a second pass and a new process say nothing more."""
    changes, why = REFUSED[name]
    dispatcher = Dispatcher()
    dispatcher.put("d-aaa", **changes)
    dispatcher.put("d-zzz")
    dispatcher.passes()
    dispatcher.passes()
    dispatcher.boot()
    dispatcher.passes()

    ((subject, reason),) = dispatcher.said()
    assert (dispatcher.routed(), subject) == (["d-zzz"], "d-aaa")
    assert reason.startswith("cannot be routed: ")
    assert why in reason


@pytest.mark.req("DSP-4")
@pytest.mark.parametrize("fault", HOST, ids=lambda fault: type(fault).__name__)
def test_what_this_host_cannot_do_now_is_no_refusal(fault: Exception) -> None:
    """No file, no memory: the others are routed, the stage says so, and the decision is neither closed nor denied."""
    dispatcher = Dispatcher()

    def short(route: Route, decision: Decision) -> Plan:
        if decision.service == "host":
            raise fault
        return plan_for(route, decision)

    dispatcher.plan_for = short
    dispatcher.put("d-aaa", service="host", generation=1)
    dispatcher.put("d-zzz")
    with pytest.raises(LeftOpenError, match=r"d-aaa: .*too many"):
        dispatcher.passes()

    assert (dispatcher.routed(), dispatcher.said()) == (["d-zzz"], [])

    dispatcher.plan_for = plan_for
    dispatcher.passes()

    assert dispatcher.routed() == ["d-aaa", "d-zzz"]
    assert {DispatchRequest.read(one).status for one in dispatcher.requests.records.values()} == {"awaiting-approval"}


@pytest.mark.req("DSP-4")
def test_a_file_whose_name_is_no_text_is_refused_like_any_other(tmp_path: Path) -> None:
    """Its bytes are spelled out in the refusal, which is made once."""
    dispatcher = Dispatcher(FileRecordStore(tmp_path))
    dispatcher.put("d-zzz")
    (tmp_path / b"\xff.json".decode(errors="surrogateescape")).write_bytes(b"{}")
    dispatcher.passes()
    dispatcher.passes()

    assert dispatcher.routed() == ["d-zzz"]
    assert [subject for subject, _ in dispatcher.said()] == ["\\udcff.json"]


class Buggy(Approvers):
    """A verifier with a bug about one signer's signatures."""

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """As the others', but for Eve."""
        if principal == "eve":
            raise ValueError("a bug\nof the verifier")
        return super().verify(principal, data, ssh_signature, at)


def two_requests() -> tuple[World, DispatchRequest, DispatchRequest]:
    """Two that wait, of two services; the first comes first at every pass."""
    world = World()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.turn(0, "dispatch")
    (good,) = world.records("requests", DispatchRequest)
    other = {"dispatch_id": "dispatch-0", "service": "other", "source_decision_digest": f"sha256:{0:064}"}
    odd = sign_record(good.model_copy(update={**other, "signature": None}), KEYS["dispatch"])
    world.disk["requests"].create(odd.dispatch_id, odd.encoded())
    buggy = Buggy()
    buggy.roles = world.approvers.roles
    world.approvers = buggy
    world.boot(0, "approval", "execution")
    return world, odd, good


def say(world: World, about: DispatchRequest, verdict: str, by: str = "eve", **changes: Any) -> Any:
    """An approver signs about one request; the clock of one who says more goes on."""
    return world._say(about, by, verdict, changes)


def stands(world: World, odd: DispatchRequest) -> None:
    """A standing approval for the first service."""
    world.stand("eve", service="other", plan_digest=odd.plan_digest)


def delegates(world: World, odd: DispatchRequest) -> None:
    """A delegation, and a grant under it."""
    now = world.clock.now()
    of_the_service = {"plan_digest": None, "dispatch_id": None, "request_digest": None, "acknowledged_warnings": []}
    given = say(
        world,
        odd,
        "delegate",
        delegate="ada",
        services=["other"],
        starts_at=now,
        decision_types=[odd.decision_type],
        **of_the_service,
    )
    say(world, odd, "grant", "ada", on_behalf_of="eve", delegation=given.approval_id)


ODD: dict[str, Callable[[World, DispatchRequest], Any]] = {
    "a grant": lambda world, odd: say(world, odd, "grant"),
    "a rejection": lambda world, odd: say(world, odd, "reject"),
    "a withdrawal": lambda world, odd: say(world, odd, "withdraw"),
    "a standing approval": stands,
    "a delegation": delegates,
}


@pytest.mark.req("APR-1")
@pytest.mark.parametrize("name", ODD)
def test_an_odd_word_about_one_request_holds_up_no_other(name: str) -> None:
    """The request that it is about waits, which is recorded once; the other one has its execution."""
    world, odd, good = two_requests()
    world.approval_policy = world.approval_policy.model_copy(update={"allow_standing": True, "allow_delegation": True})
    world.boot(0, "approval")
    ODD[name](world, odd)
    world.say_yes_to(good.dispatch_id)
    for _ in range(2):
        world.turn(0, "approval")
    world.boot(0, "approval")
    world.turn(0, "approval")

    made = [one.source_dispatch_id for one in world.records("executions", Execution)]
    said = [(one.subject_id, one.reason) for one in world.refusals("approval")]
    assert made == [good.dispatch_id]
    assert [subject for subject, _ in said] == [odd.dispatch_id]
    assert "it waits" in said[0][1]
    assert "ValueError: a bug of the verifier" in said[0][1]


@pytest.mark.req("APR-1")
def test_a_request_that_cannot_be_judged_is_closed_at_its_end() -> None:
    """An odd file keeps it waiting no longer than any other."""
    world, odd, _ = two_requests()
    say(world, odd, "reject")
    world.turn(0, "approval")
    world.clock.advance((odd.expires_at - world.clock.now()).total_seconds() + 1)
    world.turn(0, "approval")
    world.turn(0, "approval")

    closed = [one.reason for one in world.refusals("approval") if one.subject_id == odd.dispatch_id]
    assert [why.startswith("the request expired at") for why in closed] == [False, True]


def two_executions() -> tuple[World, Execution, Execution]:
    """Two of one service; the odd one is older, so it goes first, and is of the same generation."""
    world, _, good_request = two_requests()
    del world.disk["requests"].records["dispatch-0"]
    world.say_yes_to(good_request.dispatch_id)
    world.boot(0, "approval")
    world.turn(0, "approval")
    (good,) = world.records("executions", Execution)
    odd_request = sign_record(
        good_request.model_copy(update={"dispatch_id": "dispatch-0", "signature": None}), KEYS["dispatch"]
    )
    world.disk["requests"].create(odd_request.dispatch_id, odd_request.encoded())
    odd = sign_record(
        good.model_copy(
            update={
                "execution_id": "execution-0",
                "timestamp_utc": good.timestamp_utc - timedelta(seconds=1),
                "source_dispatch_id": "dispatch-0",
                "source_request_digest": odd_request.digest(),
                "signature": None,
            }
        ),
        KEYS["approval"],
    )
    world.disk["executions"].create(odd.execution_id, odd.encoded())
    world.boot(0, "execution")
    return world, odd, good


def odd_no(world: World, odd: Execution) -> None:
    """Somebody says no to it, and that is what the verifier has a bug about."""
    (request,) = [r for r in world.records("requests", DispatchRequest) if r.dispatch_id == odd.source_dispatch_id]
    say(world, request, "reject")


def garbage(world: World, odd: Execution) -> None:
    """Something lies where its attempt belongs."""
    world.disk["attempts"].create(attempt_id_of(odd, "dispatch"), b"{}\n")


@pytest.mark.req("EXE-1", "EXE-3")
@pytest.mark.parametrize(("name", "kind"), [("odd_no", "execution"), ("garbage", "attempt")])
def test_an_odd_execution_holds_up_no_other(name: str, kind: str) -> None:
    """The one behind it is dialled for; what stands in the odd one's way is recorded once, and it waits."""
    world, odd, good = two_executions()
    {"odd_no": odd_no, "garbage": garbage}[name](world, odd)
    stage = world.stages[0]["execution"]
    dialled = asyncio.run(stage.step(True))
    stage.refuse_stuck()
    dialled += asyncio.run(stage.step(True))
    subject = odd.execution_id if kind == "execution" else attempt_id_of(odd, "dispatch")

    assert [one.source_execution_id for one in dialled] == [good.execution_id] * 2
    assert [(one.subject_kind, one.subject_id) for one in world.refusals("execution")] == [(kind, subject)]


class OddHook:
    """Makes evidence, but for one outcome of which nobody foresaw what it says."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def done(self, outcome: AttemptOutcome) -> bool:
        """Nothing is there yet."""
        return False

    async def closed(self, attempt: Attempt, outcome: AttemptOutcome, returned: RunReturn | None) -> None:
        """Assemble."""
        if outcome.outcome_id == "outcome-0":
            raise KeyError("phase")
        self.made.append(outcome.outcome_id)


@pytest.mark.req("EVD-1")
def test_evidence_of_an_odd_outcome_holds_up_no_other() -> None:
    """What comes behind it has its evidence; the odd one is left for later."""
    world, _, _ = two_executions()
    (attempt,) = asyncio.run(world.stages[0]["execution"].step(True))[:1]
    attempts = Inbox(world.disk["attempts"], Attempt, VERIFIER, role="execution")
    attempts.refresh()
    refused = closed_by_refusal(attempt, PrerequisiteError("no"), world.clock.now())
    both = [refused.model_copy(update={"outcome_id": f"outcome-{number}"}) for number in range(2)]
    hook = OddHook()

    left = asyncio.run(Finisher(hook, world.dialled(), world.starts).finish(both, attempts))

    assert (left, hook.made) == (1, ["outcome-1"])


@pytest.mark.req("APR-1")
def test_the_desk_is_not_stopped_either() -> None:
    """One request that cannot be judged is shown with the reason; the others are listed."""
    world, odd, _ = two_requests()
    say(world, odd, "grant")

    found = on_the_desk(world)
    assert len(found) == 2
    assert any("ValueError" in why for _, why in found)
