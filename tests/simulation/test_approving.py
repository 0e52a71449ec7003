"""Fault 10 and the rules of approval, through the real stages: what does not count, counts as nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal

import pytest

from hyops.control.hearing import YES_MAX
from hyops.model.approval import ApprovalPolicy
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Execution
from hyops.model.vocabulary import DecisionType, Level, Occasion
from hyops.ports.signer import ApproverSignature
from hyops.services.desk import Desk
from simulation.world import KEYS, VERIFIER, World, policy, routes

Act = Callable[[World], Any]


def requested(world: World | None = None) -> World:
    """A lost site whose request waits."""
    world = world or World()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.turn(0, "dispatch")
    return world


def signed(world: World, from_s: float, until_s: float) -> None:
    """An approval whose times lie so far from now."""
    now = world.clock.now()
    world.say_yes(signed_at=now + timedelta(seconds=from_s), expires_at=now + timedelta(seconds=until_s))


def copied(world: World) -> None:
    """A good approval under another name."""
    approval = world.say_yes()
    data = world.disk["approvals"].records.pop(approval.approval_id)
    world.disk["approvals"].create("approval-copy", data)


def edited(world: World) -> None:
    """One byte of a signed statement changed."""
    approval = world.say_yes(note="nob")
    records = world.disk["approvals"].records
    records[approval.approval_id] = records[approval.approval_id].replace(b'"nob"', b'"yes"')


BAD: dict[str, Act] = {
    "expired": lambda w: w.say_yes(
        expires_at=w.clock.now() - timedelta(seconds=1), signed_at=w.clock.now() - timedelta(hours=1)
    ),
    "another-digest": lambda w: w.say_yes(request_digest="sha256:" + "0" * 64),
    "another-plan": lambda w: w.say_yes(plan_digest="sha256:" + "0" * 64),
    "unlisted": lambda w: w.say_yes("mallory"),
    "no-role": lambda w: w.say_yes("eve"),
    "names-another": lambda w: w.say_yes("eve", approver="ada"),
    "too-old": lambda w: w.say_yes(
        signed_at=w.clock.now() - timedelta(hours=3), expires_at=w.clock.now() + timedelta(hours=3)
    ),
    "from-the-future": lambda w: w.say_yes(
        signed_at=w.clock.now() + timedelta(hours=3), expires_at=w.clock.now() + timedelta(hours=4)
    ),
    "no-such-request": lambda w: w.say_yes(dispatch_id="dispatch-20260131T120000Z-failover-00000000"),
    "copied": copied,
    "edited": edited,
    "not-json-of-ours": lambda w: w.disk["approvals"].create("approval-x", b'{"yes": true}\n'),
    "marker": lambda w: w.disk["approvals"].create(
        next(iter(w.disk["requests"].records)) + ".approved", b'{"approved_by": "ada"}\n'
    ),
    "empty": lambda w: w.disk["approvals"].broken.update({"approval-empty.json": "empty"}),
}


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "APR-2", "INV-4")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_approval_is_refused_and_recorded(name: str) -> None:
    """Nothing is staged and nothing runs; the refusal is a record, written once; a good approval still works."""
    world = requested()
    BAD[name](world)
    world.settle()
    refused = world.refusals("approval")

    assert world.disk["executions"].records == {}
    assert world.runs() == []
    assert len(refused) == 1

    world.say_yes("bob")
    world.settle()

    assert len(world.runs()) == 1
    assert len(world.refusals("approval")) == 1


@pytest.mark.req("APR-1")
def test_a_rejection_wins_over_any_approval() -> None:
    """Two say yes and one says no: closed for good, also for a later yes."""
    world = requested(World(approval_policy=ApprovalPolicy(required=1)))
    world.say_yes("bob", "reject", note="not tonight")
    world.say_yes("ada")
    world.settle()
    world.say_yes("ada")
    world.settle()

    assert world.runs() == []
    assert ["rejected by bob" in r.reason for r in world.refusals("approval")] == [True]


@pytest.mark.req("APR-1")
def test_a_withdrawn_approval_does_not_count() -> None:
    """Of two needed approvals one is taken back before the second comes: it waits."""
    world = requested(World(approval_policy=ApprovalPolicy(required=2)))
    world.say_yes("ada")
    world.turn(0, "approval")
    world.say_yes("ada", "withdraw")
    world.say_yes("bob")
    world.settle()

    assert world.runs() == []


@pytest.mark.req("APR-1")
def test_two_needed_means_two_people() -> None:
    """The same person twice is one; with a second person it runs, and the execution names both."""
    world = requested(World(approval_policy=ApprovalPolicy(required=2)))
    world.say_yes("ada")
    world.clock.advance(1)
    world.say_yes("ada")
    world.settle()

    assert world.runs() == []

    world.say_yes("bob")
    world.settle()

    (execution,) = world.records("executions", Execution)
    assert sorted(execution.approval.approved_by) == ["ada", "bob"]
    assert len(world.runs()) == 1


@pytest.mark.req("APR-1", "APR-3")
@pytest.mark.parametrize(("of_env", "of_policy"), [(2, 1), (1, 2), (2, 2)])
def test_the_number_of_the_request_counts_like_that_of_the_policy(of_env: int, of_policy: int) -> None:
    """Two demanded where the request is made, or by the approval stage: one waits; the execution says two."""
    world = World(approval_policy=ApprovalPolicy(required=of_policy), service_routes=routes(approvals_required=of_env))
    requested(world)
    world.say_yes("ada")
    world.settle()

    assert world.runs() == []
    assert on_the_desk(world) == [("waiting", "1 of 2 approvals are there")]

    world.say_yes("bob")
    world.settle()

    (execution,) = world.records("executions", Execution)
    assert (execution.approval.needed, sorted(execution.approval.approved_by)) == (2, ["ada", "bob"])


@pytest.mark.req("APR-2", "APR-3")
def test_a_marker_is_one_person() -> None:
    """Where markers count and two are needed, one marker waits; two signatures still carry it."""
    world = World(approval_policy=ApprovalPolicy(mode="marker"), service_routes=routes(approvals_required=2))
    requested(world)
    BAD["marker"](world)
    world.settle()

    assert world.runs() == []

    world.say_yes("ada")
    world.say_yes("bob")
    world.settle()

    (execution,) = world.records("executions", Execution)
    assert (execution.approval.mode, execution.approval.needed) == ("signed", 2)


@pytest.mark.req("APR-1")
def test_standing_approvals_need_the_policy() -> None:
    """The same standing approval under a policy that allows none is refused and recorded."""
    world = World(approval_policy=ApprovalPolicy(allow_standing=False))
    world.stand()
    requested(world)
    world.settle()

    assert world.runs() == []
    assert ["no standing" in r.reason for r in world.refusals("approval")] == [True]


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "APR-3")
@pytest.mark.parametrize(
    ("days", "runs"), [(7, 1), (7.001, 0), (9000 * 365 / 2, 0)], ids=["just-so", "too-long", "for-ever"]
)
def test_a_standing_approval_stands_no_longer_than_the_policy_says(days: float, runs: int) -> None:
    """Seven days allowed: one that is signed for longer carries nothing, and its refusal says so."""
    world = World(approval_policy=ApprovalPolicy(allow_standing=True, standing_max_s=7 * 86400.0))
    world.stand(expires_at=world.clock.now() + timedelta(days=days))
    requested(world)
    world.settle()

    assert len(world.runs()) == runs
    assert ["the policy allows 7.0" in r.reason for r in world.refusals("approval")] == [True] * (1 - runs)


@pytest.mark.req("APR-1", "VOC-4")
@pytest.mark.parametrize("case", ["another-plan", "another-occasion", "recommend"])
def test_a_standing_approval_stands_for_what_it_names(case: str) -> None:
    """Another plan, another occasion, or a decision that only recommends: a person has to sign."""
    level = Level.RECOMMEND if case == "recommend" else Level.TRIGGER
    world = World(service_policy=policy(level=str(level)))
    changes: dict[str, Any] = {
        "another-plan": {"plan_digest": "sha256:" + "1" * 64},
        "another-occasion": {"occasions": [Occasion.PLANNED]},
    }.get(case, {})
    world.stand(**changes)
    requested(world)
    world.settle()

    assert world.runs() == []

    world.say_yes("bob")
    world.settle()

    assert len(world.runs()) == 1


@pytest.mark.req("APR-2")
def test_markers_count_only_in_marker_mode() -> None:
    """Where the environment says so, an unsigned marker carries the request, and the execution says `marker`."""
    world = requested(World(approval_policy=ApprovalPolicy(mode="marker")))
    BAD["marker"](world)
    world.turn(0, "approval")

    (execution,) = world.records("executions", Execution)
    assert execution.approval.mode == "marker"


WARNINGS = ["gcp_billing: degraded", "target.lag_bytes: bad"]


def warned(mode: Literal["signed", "marker"] = "marker") -> tuple[World, DispatchRequest]:
    """A request that waits with two warnings."""
    world = requested(World(approval_policy=ApprovalPolicy(mode=mode)))
    (plain,) = world.records("requests", DispatchRequest)
    asked = sign_record(plain.model_copy(update={"warnings": WARNINGS, "signature": None}), KEYS["dispatch"])
    world.disk["requests"].records[asked.dispatch_id] = asked.encoded()
    world.boot(0)
    return world, asked


def mark(world: World, request: DispatchRequest, **body: Any) -> None:
    """The request's marker, in place of one that lies there."""
    data = json.dumps({"approved_by": "ada", **body}).encode()
    world.disk["approvals"].records[f"{request.dispatch_id}.approved"] = data


@pytest.mark.req("APR-2", "APR-3", "DSP-3")
@pytest.mark.parametrize("named", [None, [], WARNINGS[:1], ["gcp_billing", "target.lag_bytes"]])
def test_a_marker_that_leaves_a_warning_out_carries_nothing(named: list[str] | None) -> None:
    """It waits, and says why once; a marker with both warnings, or a signature, still carries it."""
    world, request = warned()
    mark(world, request, **({} if named is None else {"acknowledged_warnings": named}))
    world.turn(0, "approval")
    world.boot(0, "approval")
    world.turn(0, "approval")

    (refused,) = world.refusals("approval")
    assert world.disk["executions"].records == {}
    assert (refused.subject_kind, refused.subject_id) == ("approval", f"{request.dispatch_id}.approved")
    assert "does not acknowledge: " in refused.reason
    assert "acknowledged_warnings" in refused.reason
    ((state, why),) = on_the_desk(world)
    assert (state, "does not acknowledge" in why) == ("waiting", True)

    world.say_yes("ada")
    world.settle()
    (execution,) = world.records("executions", Execution)
    assert (execution.approval.mode, len(world.runs())) == ("signed", 1)


@pytest.mark.req("APR-2", "APR-3", "DSP-3")
def test_a_marker_acknowledges_warnings_by_their_words() -> None:
    """What it names stands in the execution, so that the runner finds the same; and it is started."""
    world, request = warned()
    mark(world, request, acknowledged_warnings=WARNINGS[::-1])

    assert [state for state, _ in on_the_desk(world)] == ["ready"]
    world.turn(0, "approval")

    (execution,) = world.records("executions", Execution)
    assert (execution.approval.mode, execution.approval.acknowledged_warnings) == ("marker", WARNINGS)
    assert world.refusals("approval") == []
    assert len(asyncio.run(world.stages[0]["execution"].step(True))) == 1


@pytest.mark.req("APR-2", "DSP-3")
def test_the_last_look_knows_what_a_marker_acknowledged() -> None:
    """Before the start the executor judges again when somebody withdraws: the marker carries it as it did."""
    world, request = warned()
    mark(world, request, acknowledged_warnings=WARNINGS)
    world.turn(0, "approval")
    world.say_yes("ada", "withdraw")

    assert len(asyncio.run(world.stages[0]["execution"].step(True))) == 1
    assert world.refusals("execution") == []


@pytest.mark.req("APR-2")
def test_the_desk_reads_markers_as_the_stage_does() -> None:
    """Listed as ready while it waits, as executed afterwards; its file is good both times."""
    world = requested(World(approval_policy=ApprovalPolicy(mode="marker")))
    BAD["marker"](world)

    assert [state for state, _ in on_the_desk(world)] == ["ready"]
    assert [fault for _, fault in the_desk(world).verify()] == [None]

    world.turn(0, "approval")

    assert [state for state, _ in on_the_desk(world)] == ["executed"]
    assert [fault for _, fault in the_desk(world).verify()] == [None]


@pytest.mark.req("APR-2")
@pytest.mark.parametrize(
    ("mode", "name", "body", "why"),
    [
        ("signed", None, {}, "only where the policy says mode: marker"),
        ("marker", None, {}, "does not acknowledge: gcp_billing: degraded"),
        ("marker", None, {"approved_by": 7}, "approved_by: "),
        ("marker", "dispatch-nobody-asked.approved", {}, "there is no request dispatch-nobody-asked"),
    ],
)
def test_a_marker_that_does_not_count_is_told_from_a_good_one(
    mode: Literal["signed", "marker"], name: str | None, body: dict[str, Any], why: str
) -> None:
    """`hyops approval verify` says what is wrong with each, not that it is no signed approval."""
    world, request = warned(mode)
    data = json.dumps({"approved_by": "ada", **body}).encode()
    world.disk["approvals"].records[name or f"{request.dispatch_id}.approved"] = data

    ((_, fault),) = the_desk(world).verify()
    assert fault is not None
    assert why in fault


@pytest.mark.req("APR-3")
def test_nothing_waives_approval_but_the_environment() -> None:
    """A route that asks for none changes nothing: the decision still asks, and the policy does not allow it."""
    free = routes()
    body = free.body()
    body["dispatcher_routes"]["failover"]["requires_approval"] = False
    body["dispatcher_require_approval"] = False
    world = requested(World(service_routes=routes(**body)))
    world.settle()

    assert world.runs() == []


@pytest.mark.req("APR-4")
def test_break_glass_needs_its_role_and_is_visible() -> None:
    """Only who holds the role breaks the glass; the execution carries the mode and the accepted loss."""
    world = requested(World(approval_policy=ApprovalPolicy(required=2)))
    world.say_yes("ada", "break-glass", accepted_loss="1 s of writes", note="site burnt down")
    world.settle()

    assert world.runs() == []

    world.say_yes("glass", "break-glass", accepted_loss="1 s of writes", note="site burnt down")
    world.settle()

    (execution,) = world.records("executions", Execution)
    assert execution.approval.mode == "break-glass"
    assert "1 s of writes" in str(execution.approval.note)


@pytest.mark.req("LOOP-2")
def test_an_expired_request_is_closed() -> None:
    """Nobody answers in time: closed as expired, once, and a late yes starts nothing."""
    world = requested()
    world.clock.advance(200)
    world.settle()
    world.say_yes()
    world.settle()

    assert world.runs() == []
    assert ["expired" in r.reason for r in world.refusals("approval") if r.subject_kind == "request"] == [True]


@pytest.mark.req("LOOP-2", "INV-4")
def test_a_request_that_is_not_signed_by_the_dispatcher_is_refused() -> None:
    """A forged request in the queue with a real person's approval: refused, recorded, never run."""
    world = requested()
    (name,) = world.disk["requests"].records
    world.disk["requests"].records[name] = world.disk["requests"].records[name].replace(b"awaiting-approval", b"queued")
    world.boot(0)
    world.say_yes()
    world.settle()

    assert world.runs() == []
    refused = [r.reason for r in world.refusals("approval") if r.subject_kind == "request"]
    assert ["not over these bytes" in reason for reason in refused] == [True]


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_old_standing_approvals_do_not_crowd_out_the_one_that_stands() -> None:
    """More expired ones than are ever verified for one request: each is refused unverified, the good one carries."""
    world = World()
    for number in range(YES_MAX + 5):
        world.stand(note=f"old {number}", expires_at=world.clock.now() + timedelta(seconds=1))
    world.clock.advance(5)
    world.stand("bob")
    requested(world)
    world.settle()

    assert len(world.runs()) == 1
    assert {r.reason.split(": ")[1][:10] for r in world.refusals("approval")} == {"it expired"}


def verifications(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose signatures are verified from now on."""
    real, asked = world.approvers.verify, []

    def verify(principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        asked.append(principal)
        return real(principal, data, ssh_signature, at)

    monkeypatch.setattr(world.approvers, "verify", verify)
    return asked


def flood(world: World, number: int) -> list[str]:
    """So many files that say yes, of somebody whom nobody listed; their ids."""
    return [world.say_yes("mallory", note=f"file {n}").approval_id for n in range(number)]


def the_desk(world: World) -> Desk:
    """What `hyops approval` looks at."""
    return Desk(
        requests=world.disk["requests"],
        plans=world.disk["plans"],
        approvals=world.disk["approvals"],
        executions=world.disk["executions"],
        policy=world.approval_policy,
        approval_verifier=world.approvers,
        verifier=VERIFIER,
        clock=world.clock,
    )


def on_the_desk(world: World) -> list[tuple[str, str]]:
    """What `hyops approval list` says of each request."""
    return [(waiting.state, waiting.reason) for waiting in the_desk(world).requests()]


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "INV-4")
@pytest.mark.parametrize("files", [0, YES_MAX - 2, YES_MAX - 1, YES_MAX, 2 * YES_MAX])
def test_a_rejection_is_heard_through_any_number_of_files(files: int) -> None:
    """A grant, any number of files of somebody unknown, then a no: closed for good, and the desk says the same."""
    world = requested()
    world.say_yes("ada")
    flood(world, files)
    world.say_yes("bob", "reject", note="not tonight")

    assert [(state, why[:15]) for state, why in on_the_desk(world)] == [("refused", "rejected by bob")]

    world.settle()

    assert world.runs() == []
    assert ["rejected by bob" in r.reason for r in world.refusals("approval") if r.subject_kind == "request"] == [True]


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
def test_a_withdrawal_is_heard_through_any_number_of_files() -> None:
    """As many yeses as are verified, and one of them taken back: it does not count."""
    world = requested()
    world.say_yes("ada")
    flood(world, YES_MAX - 1)
    world.say_yes("ada", "withdraw")
    world.settle()

    assert world.runs() == []
    assert [state for state, _ in on_the_desk(world)] == ["waiting"]


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "INV-4", "APR-3")
@pytest.mark.parametrize("first", [True, False], ids=["the-good-one-first", "the-good-one-last"])
def test_a_flood_of_approvals_holds_the_request_and_is_recorded(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many to verify: nothing runs and nothing is verified, it is said once, and goes on when they are removed."""
    world = requested()
    if first:
        world.say_yes("ada")
    files = flood(world, YES_MAX)
    if not first:
        world.say_yes("ada")
    asked = verifications(world, monkeypatch)
    world.settle()
    world.settle()

    ((state, why),) = on_the_desk(world)
    assert (state, why) == ("waiting", f"{YES_MAX + 1} approvals say yes to it, more than {YES_MAX}: {REST}")
    assert [r.reason for r in world.refusals("approval")] == [why]
    assert (world.runs(), asked) == ([], [])

    world.disk["approvals"].records.pop(files[0])
    assert [state for state, _ in on_the_desk(world)] == ["ready"]
    world.settle()

    assert len(world.runs()) == 1


REST = "none is believed until some are removed"
ELSEWHERE: dict[str, dict[str, Any]] = {
    "type": {"decision_types": [DecisionType.FAILBACK]},
    "occasion": {"occasions": [Occasion.PLANNED]},
    "service": {"service": "mail"},
    "plan": {"plan_digest": "sha256:" + "1" * 64},
}


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
@pytest.mark.parametrize("other", ELSEWHERE)
def test_standing_approvals_for_something_else_cost_no_verification(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than are ever verified stand for something else: one verification, of the one that stands for this."""
    world = World()
    for number in range(YES_MAX + 5):
        world.stand(note=f"other {number}", **ELSEWHERE[other])
    world.stand("bob")
    asked = verifications(world, monkeypatch)
    requested(world)
    world.turn(0, "approval")

    (execution,) = world.records("executions", Execution)
    assert execution.approval.approved_by == ["bob"]
    assert asked == ["bob"]
