"""Between an execution and its start: who says no is heard, and a hold holds what the loop decided (APR-1, DEC-6)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hyops.errors import PrerequisiteError
from hyops.model.approval import Approval, ApprovalPolicy, ApprovalStatement
from hyops.model.decision import Decision
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, Execution
from hyops.model.vocabulary import DecisionType, Level, Occasion, Outcome
from simulation.world import KEYS, World, policy

CUT_OFF = ["connect"] * 1000
FOUR_HOURS = timedelta(hours=4)


def turns(world: World, *names: str) -> World:
    """One pass of each of these."""
    for name in names:
        world.turn(0, name)
    return world


def approved(world: World, *people: str) -> World:
    """The site is lost; the failover is asked for, approved, and an execution."""
    world.watch(3)
    world.site_dies()
    world.watch(2)
    turns(world, "dispatch", "approval")
    for who in people or ("ada",):
        world.say_yes(who)
    turns(world, "approval")
    assert len(world.records("executions", Execution)) == 1
    return world


def cut_off(world: World) -> World:
    """Its attempt is recorded, and its runner is not reached: nothing was sent."""
    world.runners["cloud-runner"].cuts = list(CUT_OFF)
    turns(world, "execution")
    assert len(world.records("attempts", Attempt)) == 1
    return world


def back(world: World) -> World:
    """The runner is reached again."""
    world.runners["cloud-runner"].cuts = []
    return turns(world, "execution")


def held(world: World, **changes: Any) -> World:
    """Somebody holds the service, for four hours."""
    world.say_hold(**{"until": world.clock.now() + FOUR_HOURS, **changes})
    return world


def asked(world: World) -> World:
    """Bob asks for a planned failover, as `hyops decision request` does."""
    now = world.clock.now()
    made = Decision(
        decision_id="decision-20260101T000000Z-failover-0000000a",
        decision_type=DecisionType.FAILOVER,
        occasion=Occasion.PLANNED,
        rationale="move",
        timestamp_utc=now,
        expires_at=now + timedelta(minutes=10),
        service="pg",
        generation=1,
        env="lab",
        level=Level.TRIGGER,
        requested_by="bob",
    )
    signed = sign_record(made, KEYS["decision"])
    world.disk["decisions"].create(signed.decision_id, signed.encoded())
    return world


def reasons(world: World) -> list[str | None]:
    """Why attempts were refused."""
    return [outcome.reason for outcome in world.outcomes() if outcome.outcome is Outcome.REFUSED]


def hindrances(world: World) -> list[str]:
    """Why open attempts do not go on."""
    return [hindrance.word for hindrance in world.starts.hindered.values()]


@pytest.mark.req("APR-1", "INV-7")
@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("reject", "NotApprovedError: rejected by ada: not now"),
        ("withdraw", "NotApprovedError: withdrawn by ada: not now; 0 of 1 approvals are there"),
    ],
)
@pytest.mark.parametrize("reached", [True, False])
def test_a_no_before_anything_was_sent_ends_the_attempt(verdict: str, said: str, reached: bool) -> None:
    """The runner was not reached: closed as refused, by whom and why, reached or not; nothing ever begins there."""
    world = cut_off(approved(World()))
    world.say_yes("ada", verdict, note="not now")
    back(world) if reached else turns(world, "execution")
    back(world)

    assert (reasons(world), world.runs()) == ([said], [])
    assert hindrances(world) == []


@pytest.mark.req("APR-1")
@pytest.mark.parametrize("verdict", ["reject", "withdraw"])
def test_a_no_before_an_attempt_was_recorded_refuses_the_execution(verdict: str) -> None:
    """No executor was there: its refusal says who, and there is no attempt at all."""
    world = approved(World())
    world.say_yes("ada", verdict)
    turns(world, "execution", "execution")

    assert ["ada" in refusal.reason for refusal in world.refusals("execution")] == [True]
    assert (world.records("attempts", Attempt), world.runs()) == ([], [])


@pytest.mark.req("APR-1")
def test_a_withdrawal_leaves_alone_what_the_others_carry() -> None:
    """Three said yes where two are needed: without one of them it goes on, without two it does not."""
    for gone, runs in (("ada",), 1), (("ada", "bob"), 0):
        world = World(approval_policy=ApprovalPolicy(required=2))
        world.approvers.roles["cem"] = frozenset({"approver"})
        cut_off(approved(world, "ada", "bob", "cem"))
        for who in gone:
            world.say_yes(who, "withdraw")
        back(world)

        assert len(world.runs()) == runs, gone


@pytest.mark.req("APR-1", "INV-5")
@pytest.mark.parametrize(
    ("by", "verdict", "changes"),
    [
        ("bob", "withdraw", {}),
        ("eve", "reject", {}),
        ("ada", "reject", {"request_digest": "sha256:" + "0" * 64}),
    ],
)
def test_what_is_no_no_stops_nothing(by: str, verdict: str, changes: dict[str, Any]) -> None:
    """Of somebody whose yes was not given, of nobody who may say so, of other bytes: it runs."""
    world = cut_off(approved(World()))
    world.say_yes(by, verdict, **changes)
    back(world)

    assert len(world.runs()) == 1


@pytest.mark.req("APR-1", "INV-5")
def test_a_forged_no_stops_nothing() -> None:
    """In ada's name, and not by her key: it runs."""
    world = cut_off(approved(World()))
    good = world.say_yes("ada", "reject")
    world.disk["approvals"].records.pop(good.approval_id)
    world.put_approval(good.statement, "ada", signature="forged")
    back(world)

    assert len(world.runs()) == 1


@pytest.mark.req("APR-1", "INV-5")
def test_a_no_that_nobody_can_prove_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of signers is away: nothing is sent, and it is told why; with the list back the no is heard."""
    world = cut_off(approved(World()))
    verify = world.approvers.verify
    world.say_yes("ada", "reject", note="no")

    def away(*_: Any) -> Any:
        raise PrerequisiteError("allowed_signers: missing")

    monkeypatch.setattr(world.approvers, "verify", away)
    back(world)
    waited = (
        world.runs(),
        world.outcomes(),
        [(h.word, "missing" in h.message) for h in world.starts.hindered.values()],
    )
    monkeypatch.setattr(world.approvers, "verify", verify)
    turns(world, "execution")

    assert waited == ([], [], [("held", True)])
    assert (reasons(world), world.runs()) == (["NotApprovedError: rejected by ada: no"], [])


@pytest.mark.req("APR-1", "EXE-1")
def test_a_no_after_the_start_may_have_been_sent_is_too_late() -> None:
    """What was sent goes on to its end: ending it is `hyops run cancel`."""
    world = approved(World())
    world.runners["cloud-runner"].cuts = ["start"]
    turns(world, "execution")
    world.say_yes("ada", "reject")
    held(world)
    turns(world, "execution")

    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]
    assert len(world.runs()) == 1


@pytest.mark.req("DEC-6")
@pytest.mark.parametrize("recorded", [True, False])
def test_a_hold_holds_what_was_decided_before_it(recorded: bool) -> None:
    """With an attempt or without: nothing is sent while it lasts, and it goes on by itself at its end."""
    world = approved(World(service_policy=policy(decision_max_age_s=36000.0)))
    if recorded:
        cut_off(world)
    held(world, until=world.clock.now() + timedelta(minutes=5))
    for _ in range(3):
        back(world)
    waited = (world.runs(), world.outcomes(), len(world.records("attempts", Attempt)), hindrances(world))
    world.clock.advance(300)
    turns(world, "execution", "execution")

    assert waited == ([], [], int(recorded), ["held"] if recorded else [])
    assert len(world.runs()) == 1


@pytest.mark.req("DEC-6")
def test_a_hold_that_is_ended_lets_it_go_on() -> None:
    """Who holds it ends it: at once."""
    world = held(cut_off(approved(World())))
    waited = back(world).runs()
    world.end_holds()
    turns(world, "execution")

    assert (waited, len(world.runs())) == ([], 1)


@pytest.mark.req("DEC-6", "APR-1")
def test_a_standing_approval_carries_nothing_under_a_hold() -> None:
    """Decided, then held, while the dispatcher was down: asked for and approved by itself, and not sent."""
    world = World(service_policy=policy(level="trigger"))
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    held(world)
    turns(world, "decision", "dispatch", "approval", "execution")

    assert len(world.records("executions", Execution)) == 1
    assert (world.runs(), world.records("attempts", Attempt)) == ([], [])


@pytest.mark.req("DEC-6", "INV-7")
@pytest.mark.parametrize("recorded", [True, False])
def test_what_expires_under_a_hold_is_closed(recorded: bool) -> None:
    """The hold lasts longer than the approval: refused, and the reason names the hold or the end."""
    world = approved(World())
    if recorded:
        cut_off(world)
    held(world)
    turns(world, "execution")
    world.clock.advance(3600)
    turns(world, "execution")
    said = reasons(world) if recorded else [refusal.reason for refusal in world.refusals("execution")]

    assert len(said) == 1
    assert ("is held until" if recorded else "expired") in str(said[0])
    assert world.runs() == []


@pytest.mark.req("DEC-6", "INV-7")
def test_a_no_ends_what_a_hold_keeps_waiting() -> None:
    """It makes room for what a person asks for."""
    world = held(cut_off(approved(World())))
    turns(world, "execution")
    world.say_yes("bob", "reject", note="by hand")
    turns(world, "execution")

    assert reasons(world) == ["NotApprovedError: rejected by bob: by hand"]


@pytest.mark.req("DEC-6")
@pytest.mark.parametrize("changes", [{"by": "eve"}, {"signature": "forged"}, {"service": "other"}, {"env": "other"}])
def test_what_is_no_hold_holds_nothing(changes: dict[str, Any]) -> None:
    """By nobody who may, forged, of another service or environment: it runs."""
    world = held(cut_off(approved(World())), **changes)
    back(world)

    assert len(world.runs()) == 1


@pytest.mark.req("DEC-6")
def test_a_hold_does_not_bind_a_person() -> None:
    """What somebody asked for in spite of it, or before it, runs."""
    world = asked(World())
    held(world)
    turns(world, "dispatch", "approval")
    world.say_yes("ada")
    turns(world, "approval", "execution")

    assert len(world.runs()) == 1


@pytest.mark.req("DEC-6")
def test_a_window_of_the_policy_holds_too() -> None:
    """It opens between decision and start: nothing is sent before it closes."""
    window = {"name": "patch", "days": ["sat"], "at": "12:00", "for_s": 300.0, "owner": "dba", "reason": "patches"}
    world = World(service_policy=policy(maintenance=[window], decision_max_age_s=36000.0))
    world.clock.advance(-60)
    cut_off(approved(world))
    world.clock.advance(60)
    waited = (back(world).runs(), hindrances(world))
    world.clock.advance(300)
    turns(world, "execution")

    assert f"{world.clock.now():%a}" == "Sat"
    assert (waited, len(world.runs())) == (([], ["held"]), 1)


def delegated(world: World) -> Approval:
    """Ada is away for a week, and Dan, who has no role, may grant for her."""
    world.approvers.roles["dan"] = frozenset()
    now = world.clock.now()
    given = ApprovalStatement(
        verdict="delegate",
        approver="ada",
        signed_at=now,
        starts_at=now,
        expires_at=now + timedelta(days=7),
        delegate="dan",
        services=["pg"],
        decision_types=[DecisionType.FAILOVER],
    )
    return world.put_approval(given, "ada")


def granted_under(world: World, delegation: Approval) -> World:
    """The site is lost, Dan grants for Ada, and it is an execution."""
    world.watch(3)
    world.site_dies()
    world.watch(2)
    turns(world, "dispatch", "approval")
    world.say_yes("dan", on_behalf_of="ada", delegation=delegation.approval_id)
    turns(world, "approval")
    assert len(world.records("executions", Execution)) == 1
    return world


def stood_for(world: World) -> tuple[World, Approval]:
    """Ada's standing approval made an execution of it."""
    standing = world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    turns(world, "dispatch", "approval")
    assert len(world.records("executions", Execution)) == 1
    return world, standing


def taken_back(world: World, given: Approval, by: str = "ada", signed_by: str | None = None) -> Approval:
    """Somebody takes a delegation or a standing approval back by its name, as `hyops approval withdraw` does."""
    now = world.clock.now()
    said = {"verdict": "withdraw", "approver": by, "delegation": given.approval_id, "note": "not any more"}
    ends = now + timedelta(days=1)
    return world.put_approval(ApprovalStatement(**said, signed_at=now, expires_at=ends), signed_by or by)


@pytest.mark.req("APR-1")
@pytest.mark.parametrize(("by", "ends"), [("ada", True), ("dan", True), ("eve", False)])
def test_who_was_acted_for_may_take_it_back(by: str, ends: bool) -> None:
    """Dan granted for Ada: either of them ends it, nobody else does."""
    world = World(approval_policy=ApprovalPolicy(allow_delegation=True))
    cut_off(granted_under(world, delegated(world)))
    world.say_yes(by, "withdraw")
    turns(world, "execution")

    assert (len(reasons(world)) == 1, hindrances(world)) == (ends, [] if ends else ["not reached"])


def said_at_last(world: World, *, recorded: bool) -> list[str]:
    """Why the executor ended it, now that it looks and its runner is back; `recorded`: there was an attempt by then."""
    turns(world, "execution")
    back(world)
    return reasons(world) if recorded else [refusal.reason for refusal in world.refusals("execution")]


@pytest.mark.req("APR-1", "INV-7")
@pytest.mark.parametrize("recorded", [True, False])
def test_a_delegation_that_is_taken_back_ends_what_was_granted_under_it(recorded: bool) -> None:
    """As before the execution: refused, by whom and why, and nothing ever begins."""
    world = World(approval_policy=ApprovalPolicy(allow_delegation=True))
    delegation = delegated(world)
    granted_under(world, delegation)
    if recorded:
        cut_off(world)
    taken_back(world, delegation)
    said = said_at_last(world, recorded=recorded)

    why = f"ada took back the delegation {delegation.approval_id}: not any more; 0 of 1 approvals are there"
    assert said == [f"NotApprovedError: {why}" if recorded else why]
    assert (world.runs(), hindrances(world)) == ([], [])


@pytest.mark.req("APR-1", "INV-7")
@pytest.mark.parametrize("recorded", [True, False])
def test_a_standing_approval_that_is_taken_back_ends_what_it_carries(recorded: bool) -> None:
    """The loop asked and approved by itself; Ada's word comes before anything was sent."""
    world, standing = stood_for(World())
    if recorded:
        cut_off(world)
    taken_back(world, standing)
    said = said_at_last(world, recorded=recorded)

    why = f"ada took back the standing approval {standing.approval_id}: not any more; 0 of 1 approvals are there"
    assert said == [f"NotApprovedError: {why}" if recorded else why]
    assert (world.runs(), hindrances(world)) == ([], [])


def filed_again(world: World, given: Approval) -> Approval:
    """The same signed words under another name."""
    copy = given.model_copy(update={"approval_id": "approval-copy"})
    world.disk["approvals"].create(copy.approval_id, copy.encoded())
    return copy


@pytest.mark.req("APR-1", "INV-7")
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("what", ["delegation", "standing approval"])
def test_what_is_taken_back_by_the_name_of_a_copy_is_taken_back(what: str, recorded: bool) -> None:
    """A name is not what was signed: who takes these words back does so under whichever name they found them."""
    if what == "delegation":
        world = World(approval_policy=ApprovalPolicy(allow_delegation=True))
        given = delegated(world)
        granted_under(world, given)
    else:
        world, given = stood_for(World())
    if recorded:
        cut_off(world)
    taken_back(world, filed_again(world, given))
    if recorded:
        del world.disk["approvals"].records[given.approval_id]  # the copy that lies there tells whose words these are
    said = said_at_last(world, recorded=recorded)

    assert [f"ada took back the {what} {given.approval_id}: not any more" in str(why) for why in said] == [True]
    assert world.runs() == []


@pytest.mark.req("APR-1", "INV-7")
@pytest.mark.parametrize("what", ["delegation", "standing approval"])
def test_what_was_taken_back_by_the_name_of_a_copy_carries_no_request(what: str) -> None:
    """The approval stage hears it as the executor does: nothing becomes an execution."""
    world = World(approval_policy=ApprovalPolicy(allow_delegation=True, allow_standing=True))
    given = delegated(world) if what == "delegation" else world.stand("ada")
    taken_back(world, filed_again(world, given))
    world.watch(3)
    world.site_dies()
    world.watch(2)
    turns(world, "dispatch", "approval")
    if what == "delegation":
        world.say_yes("dan", on_behalf_of="ada", delegation=given.approval_id)
    turns(world, "approval")

    assert world.records("executions", Execution) == []
    why = [refusal.reason for refusal in world.refusals("approval") if "took" in refusal.reason]
    assert len(why) == 1


@pytest.mark.req("APR-1")
def test_what_is_taken_back_leaves_alone_what_others_carry() -> None:
    """One yes is needed, and Bob said his too: without Ada's it goes on."""
    world = World(approval_policy=ApprovalPolicy(allow_delegation=True))
    delegation = delegated(world)
    world.watch(3)
    world.site_dies()
    world.watch(2)
    turns(world, "dispatch", "approval")
    world.say_yes("dan", on_behalf_of="ada", delegation=delegation.approval_id)
    world.say_yes("bob")
    cut_off(turns(world, "approval"))
    taken_back(world, delegation)
    back(world)

    assert len(world.runs()) == 1


@pytest.mark.req("APR-1")
def test_a_yes_to_one_request_is_no_standing_one() -> None:
    """It is withdrawn by the request's id; by its own, written by hand, it is as little as before the execution."""
    world = cut_off(approved(World()))
    (yes,) = world.records("approvals", Approval)
    taken_back(world, yes)
    back(world)

    assert len(world.runs()) == 1


@pytest.mark.req("APR-1", "INV-5")
@pytest.mark.parametrize("how", ["bob's", "forged", "of another"])
def test_what_takes_nothing_back_stops_nothing(how: str) -> None:
    """Another's word, one that its giver did not sign, and one about something else of hers: it runs."""
    world, standing = stood_for(World())
    cut_off(world)
    if how == "of another":
        taken_back(world, world.stand(note="another"))
    else:
        taken_back(world, standing, *(("bob",) if how == "bob's" else ("ada", "bob")))
    back(world)

    assert len(world.runs()) == 1


@pytest.mark.req("APR-1")
def test_what_is_taken_back_and_then_removed_is_taken_back() -> None:
    """Somebody tidies up: who gave it stands in the execution too."""
    world, standing = stood_for(World())
    cut_off(world)
    taken_back(world, standing)
    del world.disk["approvals"].records[standing.approval_id]
    back(world)

    assert [f"ada took back the standing approval {standing.approval_id}" in str(why) for why in reasons(world)] == [
        True
    ]
    assert world.runs() == []


@pytest.mark.req("APR-1", "INV-5")
def test_a_taking_back_that_nobody_can_prove_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSH is away on the executor's host: nothing is sent and nothing closed; it is back, and it ends."""
    world, standing = stood_for(World())
    cut_off(world)
    taken_back(world, standing)
    with monkeypatch.context() as without:

        def away(*_: Any) -> Any:
            raise PrerequisiteError("ssh-keygen: missing")

        without.setattr(world.approvers, "verify", away)
        back(world)
        waited = (world.runs(), world.outcomes(), hindrances(world))
    turns(world, "execution")

    assert waited == ([], [], ["held"])
    assert (len(reasons(world)), world.runs()) == (1, [])


@pytest.mark.req("APR-1", "EXE-1")
def test_what_is_taken_back_after_the_mark_is_taken_back_too_late() -> None:
    """A start may have been sent: its run goes on, and `hyops run cancel` is for that."""
    world, standing = stood_for(World())
    turns(world, "execution")
    started = len(world.runs())
    taken_back(world, standing)
    turns(world, "execution", "execution")

    assert (started, len(world.runs()), reasons(world)) == (1, 1, [])


@pytest.mark.req("APR-1", "APR-4")
@pytest.mark.parametrize(("by", "runs"), [("glass", 0), ("ada", 1)])
def test_a_break_glass_can_be_taken_back_by_who_broke_it(by: str, runs: int) -> None:
    """It carried the request alone, so its withdrawal ends it; that of a yes which it made needless does not."""
    world = World(approval_policy=ApprovalPolicy(required=2))
    world.watch(3)
    world.site_dies()
    world.watch(2)
    turns(world, "dispatch", "approval")
    world.say_yes("ada")
    world.say_yes("glass", "break-glass", accepted_loss="1 s", note="it burns")
    cut_off(turns(world, "approval"))
    world.say_yes(by, "withdraw")
    back(world)

    assert len(world.runs()) == runs


@pytest.mark.req("APR-1", "APR-2")
@pytest.mark.parametrize(("verdict", "ends"), [("reject", True), ("withdraw", False)])
def test_what_a_marker_carries_ends_by_a_rejection(verdict: str, ends: bool) -> None:
    """A marker is nobody's signature, so nobody withdraws it: the same as before the execution."""
    world = World(approval_policy=ApprovalPolicy(mode="marker"))
    world.watch(3)
    world.site_dies()
    world.watch(2)
    turns(world, "dispatch", "approval")
    (dispatch_id,) = world.disk["requests"].records
    world.disk["approvals"].create(f"{dispatch_id}.approved", b'{"approved_by": "ada"}\n')
    cut_off(turns(world, "approval"))
    world.say_yes("ada", verdict)
    turns(world, "execution")

    assert (len(reasons(world)) == 1, hindrances(world)) == (ends, [] if ends else ["not reached"])


@pytest.mark.req("APR-1")
def test_a_yes_that_has_ended_meanwhile_is_no_withdrawal() -> None:
    """What carried it was fit then: Bob's yes is older by now than the policy lets one be, and Ada takes hers back."""
    rules = ApprovalPolicy(max_age_s=60.0)
    world = World(approval_policy=rules, service_policy=policy(decision_max_age_s=36000.0))
    cut_off(approved(world, "ada", "bob"))
    world.clock.advance(500)
    world.say_yes("ada", "withdraw")
    back(world)

    assert len(world.runs()) == 1
