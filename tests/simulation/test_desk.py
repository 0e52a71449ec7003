"""The operator's desk beside the real stages: a word that can never count is not written (APR-1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from hyops.control.hearing import YES_MAX, hear
from hyops.control.weighing import idle
from hyops.errors import NotApprovedError, PrerequisiteError, UsageError
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt
from hyops.model.vocabulary import DecisionType, Occasion, Outcome
from hyops.services.delegations import Delegations
from hyops.services.desk import Desk, StatementVerdict
from hyops.services.too_late import Runs
from hyops.testing.evidence import STAGES, VERIFIER, SeedApprovals
from simulation.test_approving import flood, requested
from simulation.test_giving_way import waiting
from simulation.world import World

Act = Callable[[World], Any]
GLASS = {"accepted_loss": "1 s of writes", "note": "site burnt down"}


def desk_of(world: World, maybe_sent: Callable[[str], bool] | None = None) -> Desk:
    """What `hyops approval` works on."""
    runs = Runs(world.disk["attempts"], world.disk["outcomes"], maybe_sent or world.starts.maybe_sent, VERIFIER)
    return Desk(
        requests=world.disk["requests"],
        plans=world.disk["plans"],
        approvals=world.disk["approvals"],
        executions=world.disk["executions"],
        policy=world.approval_policy,
        approval_verifier=world.approvers,
        verifier=VERIFIER,
        clock=world.clock,
        too_late=runs.too_late,
    )


def delegations_of(world: World) -> Delegations:
    """What ends standing approvals."""
    return Delegations(
        world.disk["approvals"],
        policy=world.approval_policy,
        approval_verifier=world.approvers,
        is_signer=world.approvers.roles.__contains__,
        verifier=VERIFIER,
        clock=world.clock,
    )


def says(world: World, by: str, verdict: StatementVerdict = "grant", desk: Desk | None = None, **more: Any) -> Approval:
    """Somebody signs about the first request, and hands it in."""
    desk = desk or desk_of(world)
    request = world.records("requests", DispatchRequest)[0]
    acknowledged: Sequence[str] = request.warnings
    statement = desk.statement(request, verdict, approver=by, valid_s=600, acknowledged=acknowledged, **more)
    return desk.put(statement, SeedApprovals.sign(by, statement.signed_bytes()))


def withdrawn(world: World) -> None:
    """Ada says yes and takes it back."""
    world.say_yes("ada")
    world.clock.advance(1)
    world.say_yes("ada", "withdraw")
    world.clock.advance(1)


def executed(world: World) -> None:
    """Approved, and not begun: its runner cannot be reached."""
    world.say_yes("ada")
    world.runners["cloud-runner"].cuts = ["connect"] * 60
    for stage in ("approval", "execution"):
        world.turn(0, stage)
    assert (len(world.records("attempts", Attempt)), world.runs(), world.outcomes()) == (1, [], [])


IDLE: dict[str, tuple[Act, str, StatementVerdict, str]] = {
    "a yes without a role": (lambda w: None, "eve", "grant", "eve has no role approver"),
    "a no without a role": (lambda w: None, "eve", "reject", "eve has no role approver"),
    "a yes without a role in a flood": (lambda w: flood(w, YES_MAX + 1), "eve", "grant", "eve has no role approver"),
    "an approver's break-glass": (lambda w: None, "ada", "break-glass", "ada has no role break-glass"),
    "a yes after one's own withdrawal": (withdrawn, "ada", "grant", "that is for good"),
    "a second withdrawal": (withdrawn, "ada", "withdraw", "took it back already"),
    "a withdrawal of nothing": (lambda w: w.say_yes("ada"), "bob", "withdraw", "bob has approved nothing"),
    "a yes after a no": (lambda w: w.say_yes("bob", "reject", note="no"), "ada", "grant", "rejected by bob: no"),
    "a no after a no": (lambda w: w.say_yes("bob", "reject", note="no"), "ada", "reject", "rejected by bob: no"),
    "a yes after its end": (lambda w: w.clock.advance(200), "ada", "grant", "expired at"),
    "a yes to what was approved": (executed, "bob", "grant", "was approved already"),
}


@pytest.mark.fault(10)
@pytest.mark.req("APR-1", "UX-1")
@pytest.mark.parametrize("name", IDLE)
def test_a_word_that_changes_nothing_is_not_written(name: str) -> None:
    """Exit 13 with the reason, and not a byte in the folder."""
    before, by, verdict, why = IDLE[name]
    world = requested(World(approval_policy=ApprovalPolicy(required=1)))
    before(world)
    there = dict(world.disk["approvals"].records)
    with pytest.raises(NotApprovedError, match=why) as refused:
        says(world, by, verdict, **(GLASS if verdict == "break-glass" else {}))

    assert (refused.value.exit_code, world.disk["approvals"].records) == (13, there)


@pytest.mark.req("APR-1", "EXE-3")
def test_nobody_approves_what_has_given_way() -> None:
    """A burst that a lost site has overtaken: neither yes nor no makes a difference to it."""
    world = waiting()
    for verdict in ("grant", "reject"):
        with pytest.raises(NotApprovedError, match="is closed already"):
            says(world, "ada", verdict)

    assert world.disk["approvals"].records == {}


@pytest.mark.req("APR-1", "DSP-3")
def test_a_yes_to_what_says_too_little_to_be_run_changes_nothing() -> None:
    """The synthetic check's request names no runner; a no closes it all the same."""
    world = requested()
    request = world.records("requests", DispatchRequest)[0].model_copy(update={"runner_ref": None})
    weighed = []
    for verdict in ("grant", "reject"):
        word = world.say_yes("ada", verdict, request_digest=request.digest())
        heard = hear(request, [word], world.approvers, world.approval_policy, world.clock.now())
        weighed.append(idle(request, word, heard, [], world.approval_policy, world.clock.now()))

    assert weighed == ["the request names no runner_ref: nothing can be run from it", None]


COUNTS: dict[str, tuple[Act, str, StatementVerdict]] = {
    "the first of two": (lambda w: None, "ada", "grant"),
    "the second of two": (lambda w: w.say_yes("bob"), "ada", "grant"),
    "once more, for longer": (lambda w: (w.say_yes("ada"), w.clock.advance(1)), "ada", "grant"),
    "a break-glass": (lambda w: None, "glass", "break-glass"),
    "after somebody else's withdrawal": (withdrawn, "bob", "grant"),
    "a no": (lambda w: w.say_yes("ada"), "bob", "reject"),
    "a withdrawal": (lambda w: (w.say_yes("ada"), w.clock.advance(1)), "ada", "withdraw"),
    "a withdrawal of what does not count": (lambda w: w.say_yes("eve"), "eve", "withdraw"),
    "a yes among a flood of files": (lambda w: flood(w, YES_MAX + 1), "ada", "grant"),
}


@pytest.mark.req("APR-1", "APR-4")
@pytest.mark.parametrize("name", COUNTS)
def test_a_word_that_counts_is_written(name: str) -> None:
    """Alone, or with others still to come; a no is never turned away for what others have said."""
    before, by, verdict = COUNTS[name]
    world = requested(World(approval_policy=ApprovalPolicy(required=2)))
    before(world)
    made = says(world, by, verdict, **(GLASS if verdict == "break-glass" else {}))

    assert Approval.read(world.disk["approvals"].records[made.approval_id]).statement.verdict == verdict


@pytest.mark.req("APR-1", "EXE-1", "UX-1")
@pytest.mark.parametrize("verdict", ["reject", "withdraw"])
def test_a_no_is_taken_until_something_was_sent(verdict: StatementVerdict) -> None:
    """Approved and tried: taken while nothing was sent, and then refused with the command that cancels the run."""
    world = requested()
    executed(world)
    (attempt,) = world.records("attempts", Attempt)
    sent = desk_of(world, lambda attempt_id: attempt_id == attempt.attempt_id)
    with pytest.raises(NotApprovedError, match=rf"its run {attempt.run_id} was sent to cloud-runner") as refused:
        says(world, "ada", verdict, sent)
    known = len(world.disk["approvals"].records)
    says(world, "ada", verdict)

    runs = Runs(world.disk["attempts"], world.disk["outcomes"], lambda _: True, VERIFIER)
    request = world.records("requests", DispatchRequest)[0]
    assert runs.too_late(request) is not None
    assert runs.too_late(request.model_copy(update={"dispatch_id": "dispatch-another"})) is None
    assert (refused.value.exit_code, known, len(world.disk["approvals"].records)) == (13, 1, 2)
    assert f"hyops run cancel {attempt.run_id}" in refused.value.hint


@pytest.mark.req("APR-1", "EXE-1", "UX-1")
@pytest.mark.parametrize("verdict", ["reject", "withdraw"])
def test_a_no_after_the_end_is_refused(verdict: StatementVerdict) -> None:
    """Ran and succeeded: the reason says so, and that what was done stays done."""
    world = requested()
    world.say_yes("ada")
    world.settle()
    with pytest.raises(NotApprovedError, match="has ended: succeeded") as refused:
        says(world, "ada", verdict)

    assert [outcome.outcome for outcome in world.outcomes()] == [Outcome.SUCCEEDED]
    assert "stays done" in refused.value.hint
    assert len(world.disk["approvals"].records) == 1


@pytest.mark.req("APR-1", "INV-5")
def test_a_no_is_written_where_the_marks_cannot_be_read() -> None:
    """Who may not see whether something was sent is not turned away: the executor hears it, if it comes in time."""

    def unreadable(attempt_id: str) -> bool:
        raise PrerequisiteError(f"{attempt_id}: permission denied")

    world = requested()
    executed(world)

    assert says(world, "ada", "withdraw", desk_of(world, unreadable)).statement.verdict == "withdraw"


@pytest.mark.req("APR-1", "EXE-1")
def test_a_rehearsal_keeps_nobody_from_saying_no() -> None:
    """An executor in dry-run has ended its attempt, and sent nothing: it may be set to dispatch yet."""
    world = requested()
    executed(world)
    (attempt,) = world.records("attempts", Attempt)
    world.disk["attempts"].records.clear()
    dry = attempt.model_copy(update={"execution_mode": "dry-run", "status": "dry-run-ready"})
    runs = Runs(world.disk["attempts"], world.disk["outcomes"], lambda _: True, VERIFIER)
    request = world.records("requests", DispatchRequest)[0]
    world.disk["attempts"].create(dry.attempt_id, sign_record(dry, STAGES["execution"]).encoded())

    assert runs.too_late(request) is None


@pytest.mark.req("APR-1", "APR-3")
def test_a_standing_approval_is_for_what_its_plan_is_for() -> None:
    """By one who may give it, for the plan's own service and type: else nothing is written."""
    world = requested(World(approval_policy=ApprovalPolicy(allow_standing=True)))
    desk = desk_of(world)
    plan = str(world.records("requests", DispatchRequest)[0].plan_digest)

    def stands(by: str, service: str = "pg", *kinds: DecisionType) -> None:
        named = kinds or (DecisionType.FAILOVER,)
        said = desk.standing(plan, service, named, [Occasion.UNPLANNED], approver=by, valid_s=600)
        desk.put(said, SeedApprovals.sign(by, said.signed_bytes()))

    for words in (
        ("ada", "nosuch"),
        ("ada", "pg", DecisionType.FAILBACK),
        ("ada", "pg", DecisionType.FAILOVER, DecisionType.FAILBACK),
    ):
        with pytest.raises(NotApprovedError, match="is for failover of pg"):
            stands(*words)
    with pytest.raises(NotApprovedError, match="eve has no role approver"):
        stands("eve")
    assert world.disk["approvals"].records == {}
    stands("ada")
    assert len(world.disk["approvals"].records) == 1


@pytest.mark.req("APR-1")
def test_a_standing_approval_is_taken_back() -> None:
    """By whoever gave it, by its own id, in whatever role by then: from then on it carries nothing, as is recorded."""
    world = World(approval_policy=ApprovalPolicy(allow_standing=True))
    given = world.stand("ada")
    desk = delegations_of(world)
    with pytest.raises(UsageError, match="given by ada"):
        desk.take_back(given.approval_id, approver="bob", note=None)
    back = desk.take_back(given.approval_id, approver="ada", note="another plan is coming")
    world.approvers.roles["ada"] = set()
    desk.put(back, SeedApprovals.sign("ada", back.signed_bytes()))
    world.approvers.roles["ada"] = {"approver"}
    requested(world)
    world.settle()

    assert world.runs() == []
    assert ["ada took it back" in refused.reason for refused in world.refusals("approval")] == [True]
    with pytest.raises(NotApprovedError, match="taken back already"):
        desk.take_back(given.approval_id, approver="ada", note=None)


@pytest.mark.req("APR-1")
def test_who_takes_a_copy_back_takes_the_words_back() -> None:
    """The same words lie there twice; what is signed names the words, so it counts when the copy is tidied away."""
    world = World(approval_policy=ApprovalPolicy(allow_standing=True))
    given = world.stand("ada")
    copy = given.model_copy(update={"approval_id": "approval-copy"})
    world.disk["approvals"].create(copy.approval_id, copy.encoded())
    desk = delegations_of(world)
    said = desk.take_back(copy.approval_id, approver="ada", note=None)
    assert said.delegation == given.approval_id
    desk.put(said, SeedApprovals.sign("ada", said.signed_bytes()))
    assert [one.state for one in desk.listed()] == ["taken back"] * 2
    del world.disk["approvals"].records[copy.approval_id]
    requested(world)
    world.settle()

    assert world.runs() == []
    for name in (given.approval_id, copy.approval_id):
        with pytest.raises((NotApprovedError, UsageError), match=r"taken back already|is no delegation"):
            desk.take_back(name, approver="ada", note=None)


@pytest.mark.fault(10)
@pytest.mark.req("APR-1")
@pytest.mark.parametrize("forged", ["another person", "another signature", "another approval"])
def test_a_standing_approval_stands_unless_its_giver_takes_it_back(forged: str) -> None:
    """A withdrawal of somebody else, one that ada never signed, or one that names another: it carries the request."""
    world = World(approval_policy=ApprovalPolicy(allow_standing=True))
    given, other = world.stand("ada"), world.stand("ada", occasions=[Occasion.PLANNED])
    named = other if forged == "another approval" else given
    back = delegations_of(world).take_back(named.approval_id, approver="ada", note=None)
    by = "bob" if forged == "another person" else "ada"
    back = back.model_copy(update={"approver": by})
    world.put_approval(back, by, "forged" if forged == "another signature" else None)
    requested(world)
    world.settle()

    assert len(world.runs()) == 1


@pytest.mark.req("APR-1")
def test_verify_names_who_may_not_say_what_they_signed() -> None:
    """Good signatures of one without a role: told with the reason; an approver's is good."""
    world = requested()
    good = world.say_yes("ada").approval_id
    bad = [world.say_yes("eve", verdict).approval_id for verdict in ("grant", "reject")]
    found = dict(desk_of(world).verify())

    assert found == {good: None, **dict.fromkeys(bad, "eve has no role approver")}


@pytest.mark.req("APR-1")
def test_a_request_that_is_gone_takes_no_word() -> None:
    """It was there when it was shown, and not when the signature came."""
    world = requested()
    desk = desk_of(world)
    said = desk.statement(world.records("requests", DispatchRequest)[0], "grant", approver="ada", valid_s=600)
    world.disk["requests"].records.clear()
    with pytest.raises(NotApprovedError, match="there is no request"):
        desk.put(said, SeedApprovals.sign("ada", said.signed_bytes()))

    assert world.disk["approvals"].records == {}


@pytest.mark.req("APR-1")
def test_what_ended_cannot_be_taken_back() -> None:
    """A standing approval past its end: nothing is left to take."""
    world = World(approval_policy=ApprovalPolicy(allow_standing=True))
    given = world.stand("ada", expires_at=world.clock.now() + timedelta(seconds=1))
    world.clock.advance(2)
    with pytest.raises(NotApprovedError, match="is over or taken back already"):
        delegations_of(world).take_back(given.approval_id, approver="ada", note=None)
