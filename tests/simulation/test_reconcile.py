"""An unknown end gets its answer by the runner's proof or by a person's signed word, never by default."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hyops.control import reconcile as rules
from hyops.control.reconcile import RunnerSaid
from hyops.errors import (
    HyopsError,
    NotApprovedError,
    NotVerifiedError,
    PrerequisiteError,
    RecordError,
    RunnerUnreachableError,
    StaleGenerationError,
    UsageError,
)
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.reconciliation import ReconciliationStatement
from hyops.model.vocabulary import Outcome
from hyops.services.reconcile import Question, Reconciler
from hyops.testing.evidence import SeedApprovals
from simulation.world import KEYS, VERIFIER, FakeTransport, World

UNTIL_NOTHING_ARRIVES_S = 600.0


def undone(cut: str = "start-in-flight", *, expired: bool = True) -> World:
    """A failover whose start left and was never answered; closed as unknown when `expired`, else still open."""
    world = World()
    world.runners["cloud-runner"].cuts = [cut]
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval", "execution"):
        world.turn(0, name)
    if expired:
        world.clock.advance(200)
        world.turn(0, "execution")
        assert [o.outcome for o in world.outcomes()] == [Outcome.UNKNOWN]
    return world


def reconciler(world: World) -> Reconciler:
    """What the command works on."""
    return Reconciler(
        executions=world.disk["executions"],
        attempts=world.disk["attempts"],
        outcomes=world.disk["outcomes"],
        policies={"pg": world.policy},
        transport=FakeTransport(world),
        starts=world.starts,
        approvals=world.approvers,
        signer=KEYS["execution"],
        verifier=VERIFIER,
        clock=world.clock,
    )


def run_id(world: World) -> str:
    """The one run."""
    (attempt,) = world.records("attempts", Attempt)
    return str(attempt.run_id)


def asked(world: World) -> tuple[Reconciler, Question, RunnerSaid]:
    """Find the run and ask its runner."""
    desk = reconciler(world)
    question = desk.find(run_id(world))
    return desk, question, asyncio.run(desk.ask(question))


def prove(world: World) -> AttemptOutcome:
    """`hyops run reconcile RUN`."""
    desk, question, said = asked(world)
    return desk.prove(question, said)


def word(world: World, by: str = "ada", *, forged: dict[str, Any] | None = None, **said: Any) -> AttemptOutcome:
    """`hyops run reconcile RUN --outcome ...`; `forged` is what somebody writes into the statement by hand."""
    desk, question, answer = asked(world)
    told: dict[str, Any] = {
        "operator": by,
        "outcome": "failed",
        "looked_at": ["both databases: onprem-db answers and takes writes, cloud-db is standby"],
        "reason": "the runner never got it",
    }
    statement = desk.statement(question, answer, **{**told, **said})
    statement = ReconciliationStatement.of({**statement.body(), **(forged or {})})
    return desk.close(question, statement, SeedApprovals.sign(by, statement.signed_bytes()))


def uncertain(world: World) -> str | None:
    """What the decision stage waits for."""
    world.turn(0, "decision")
    found: str | None = world.stages[0]["decision"].mode.uncertain
    return found


@pytest.mark.fault(14, 15)
@pytest.mark.req("VOC-5", "INV-7", "DEC-6")
def test_the_runners_proof_answers_an_unknown_end() -> None:
    """The start had arrived after all: the signed result is recorded beside the unknown one, and the service moves."""
    world = undone()
    world.runners["cloud-runner"].arrive()

    assert uncertain(world)
    assert prove(world).outcome is Outcome.SUCCEEDED
    assert uncertain(world) is None

    world.settle()
    mode = world.stages[0]["decision"].mode

    assert (mode.generation, mode.primary) == (2, "cloud-db")
    assert sorted(o.outcome for o in world.outcomes()) == [Outcome.SUCCEEDED, Outcome.UNKNOWN]
    assert len(world.hook.given) == 2


@pytest.mark.req("VOC-5", "INV-7")
def test_without_a_proof_nothing_is_recorded() -> None:
    """The runner knows no such run: asking changes nothing, and the service goes on waiting."""
    world = undone()

    with pytest.raises(NotVerifiedError, match="absent"):
        prove(world)

    assert len(world.outcomes()) == 1
    assert uncertain(world)


@pytest.mark.fault(18)
@pytest.mark.req("VOC-5", "RUN-6")
def test_a_forged_result_is_no_proof() -> None:
    """What does not verify stays unknown, however often the runner is asked."""
    world = undone()
    runner = world.runners["cloud-runner"]
    runner.arrive()
    runner.forge = lambda result: result.model_copy(update={"primary_after": "onprem-db"})

    with pytest.raises(NotVerifiedError, match="does not verify"):
        prove(world)

    assert uncertain(world)


@pytest.mark.req("VOC-5", "INV-7")
def test_a_persons_word_unblocks_the_service_and_stays_visible() -> None:
    """Signed, with what was looked at: recorded as failed by somebody's word, with what the runner said."""
    world = undone()
    world.clock.advance(UNTIL_NOTHING_ARRIVES_S)
    closed = word(world)

    assert uncertain(world) is None
    assert closed.outcome is Outcome.FAILED
    assert str(closed.reason).startswith("by the word of ada, not proved")
    assert closed.reconciliation is not None
    assert closed.reconciliation.statement.runner_said.startswith("absent")
    assert closed.reconciles in {o.outcome_id for o in world.outcomes()}

    world.settle()

    assert closed.outcome_id in world.hook.given


@pytest.mark.req("DEC-6", "GEN-1")
def test_a_word_can_say_that_the_service_has_moved() -> None:
    """The run promoted before it was lost: the mode follows the generation and the primary that the person found."""
    world = undone()
    world.clock.advance(UNTIL_NOTHING_ARRIVES_S)
    word(world, generation_after=2, primary_after="cloud-db")

    assert uncertain(world) is None
    assert world.stages[0]["decision"].mode.primary == "cloud-db"
    assert world.stages[0]["decision"].mode.generation == 2


REFUSED: list[tuple[str, type[HyopsError], dict[str, Any]]] = [
    ("no role", NotApprovedError, {"by": "eve"}),
    ("only break-glass", NotApprovedError, {"by": "glass"}),
    ("somebody else's name", NotApprovedError, {"forged": {"operator": "bob"}}),
    ("another outcome", NotApprovedError, {"forged": {"outcome_digest": "sha256:" + "0" * 64}}),
    ("another run", NotApprovedError, {"forged": {"run_id": "run-x"}}),
    ("signed long ago", NotApprovedError, {"forged": {"signed_at": "2026-01-31T11:00:00Z"}}),
    ("signed in the future", NotApprovedError, {"forged": {"signed_at": "2026-02-01T12:00:00Z"}}),
    ("a wild generation", StaleGenerationError, {"generation_after": 9, "primary_after": "cloud-db"}),
    ("the old generation", StaleGenerationError, {"generation_after": 1, "primary_after": "cloud-db"}),
    ("a foreign primary", StaleGenerationError, {"generation_after": 2, "primary_after": "elsewhere"}),
    ("half a move", UsageError, {"generation_after": 2}),
    ("no reason", UsageError, {"reason": " "}),
    ("nothing looked at", UsageError, {"looked_at": []}),
    ("success", RecordError, {"forged": {"outcome": "succeeded"}}),
]


@pytest.mark.fault(10)
@pytest.mark.req("VOC-5", "INV-7")
@pytest.mark.parametrize(("error", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_word_that_does_not_count_changes_nothing(error: type[HyopsError], said: dict[str, Any]) -> None:
    """Refused with its reason: the unknown outcome stands alone, and the service goes on waiting."""
    world = undone()
    world.clock.advance(UNTIL_NOTHING_ARRIVES_S)

    with pytest.raises(error):
        word(world, **said)

    assert len(world.outcomes()) == 1
    assert uncertain(world)


@pytest.mark.fault(14)
@pytest.mark.req("VOC-5")
def test_no_word_closes_what_may_still_arrive() -> None:
    """The runner has no run yet, but would still take the start that left: refused until it would not."""
    world = undone()

    with pytest.raises(PrerequisiteError, match="may still be on its way"):
        word(world)

    world.clock.advance(UNTIL_NOTHING_ARRIVES_S)

    assert word(world).outcome is Outcome.FAILED


@pytest.mark.req("VOC-5")
@pytest.mark.parametrize("state", rules.MAY_ACT)
def test_no_word_closes_a_run_that_may_act(state: Any) -> None:
    """Staged, running or interrupted: it is resumed or cancelled first, whoever says what."""
    world = undone()
    (attempt,) = world.records("attempts", Attempt)

    with pytest.raises(PrerequisiteError, match="may still act"):
        rules.sayable(attempt, RunnerSaid(state, ""), None, world.clock.now(), runner_lost=True)


@pytest.mark.fault(30)
@pytest.mark.req("VOC-5", "INV-7")
def test_a_lost_runner_is_given_up_only_where_somebody_says_so() -> None:
    """The runner burned with the run: its open attempt is closed by word, and the executor dials it no more."""
    world = undone("attach", expired=False)
    runner = world.runners["cloud-runner"]
    runner.cuts = ["connect"] * 9

    with pytest.raises(RunnerUnreachableError, match="may be at work"):
        word(world)

    assert world.outcomes() == []

    word(world, runner_lost=True, outcome="cancelled")
    cuts = len(runner.cuts)
    world.turn(0, "execution")

    assert sorted(o.outcome for o in world.outcomes()) == [Outcome.CANCELLED, Outcome.UNKNOWN]
    assert len(runner.cuts) == cuts
    assert uncertain(world) is None


@pytest.mark.fault(12)
@pytest.mark.req("EXE-3")
def test_an_attempt_that_is_being_dialled_is_not_given_up() -> None:
    """The executor is at it: refused, nothing is recorded."""
    world = undone("attach", expired=False)
    world.runners["cloud-runner"].cuts = ["connect"]
    world.starts.dialled |= {attempt.attempt_id for attempt in world.records("attempts", Attempt)}

    with pytest.raises(PrerequisiteError, match="just now"):
        word(world, runner_lost=True)

    assert world.outcomes() == []


@pytest.mark.req("LOOP-2", "VOC-5")
def test_there_is_one_word_and_a_proof_beats_it() -> None:
    """A second word is refused. The lost runner comes back with a proof: it stands beside the word, and counts."""
    world = undone()
    runner = world.runners["cloud-runner"]
    runner.cuts = ["connect"]
    word(world, runner_lost=True, generation_after=2, primary_after="onprem-db")

    with pytest.raises(PrerequisiteError, match="closed before"):
        word(world, "bob", runner_lost=True)

    runner.arrive()

    assert prove(world).outcome is Outcome.SUCCEEDED
    assert uncertain(world) is None
    assert world.stages[0]["decision"].mode.primary == "cloud-db"


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (lambda: World(), UsageError, "0 attempts"),
        (lambda: undone("nothing", expired=False), PrerequisiteError, "nothing to reconcile"),
    ],
    ids=["no such run", "a known end"],
)
def test_there_must_be_something_to_reconcile(make: Callable[[], World], error: type[HyopsError], why: str) -> None:
    """A run that is not there, or ended as everybody knows, is refused."""
    world = make()
    names = [attempt.run_id for attempt in world.records("attempts", Attempt)]

    with pytest.raises(error, match=why):
        reconciler(world).find(names[0] if names else "run-x")
