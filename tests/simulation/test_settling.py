"""An execution is run or refused, never both; and what is a fact of one host closes nothing (INV-7, LOOP-1, EXE-1)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hyops.errors import RecordError
from hyops.model import canonical
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.vocabulary import Outcome
from simulation.world import KEYS, MeteredStarts, World, in_turn

pytestmark = pytest.mark.req("INV-7", "LOOP-1", "EXE-1")

HOURS_S = 3 * 3600.0


def approved(world: World) -> World:
    """The site is lost; the failover is asked for, approved, and an execution that no executor has seen."""
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval"):
        world.turn(0, name)
    assert len(world.records("executions", Execution)) == 1
    return world


def execution(world: World) -> Execution:
    """The only one."""
    (made,) = world.records("executions", Execution)
    assert isinstance(made, Execution)
    return made


def restarted(world: World) -> World:
    """A new executor, which does one pass."""
    world.boot(0, "execution")
    world.turn(0, "execution")
    return world


def told(world: World) -> tuple[str, str]:
    """What the executor keeps for people of an execution that waits for them, and what they are to do."""
    note = world.starts.hindrance(execution(world).execution_id)
    assert note is not None
    return note.message, note.hint


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("attribute", "wrong", "said"),
    [
        ("_policies", {}, "service pg has no policy here"),
        ("_generations", {"pg": 2}, "as far as is known here pg is at 2"),
    ],
    ids=["no policy", "wrong first generation"],
)
def test_what_this_host_was_configured_with_closes_nothing(
    attribute: str, wrong: dict[str, int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It waits, says why once, and runs when the configuration is mended: no refusal stands beside the run."""
    world = approved(World())
    setattr(world.stages[0]["execution"], attribute, wrong)
    for _ in range(3):
        world.turn(0, "execution")

    assert (world.runs(), world.refusals("execution")) == ([], [])
    assert said in told(world)[0]
    assert told(world)[1] != ""
    assert capsys.readouterr().err.count("execution waits") == 1

    restarted(world)
    assert len(world.runs()) == 1
    assert world.refusals("execution") == []
    world.turn(0, "execution")
    assert world.starts.hindered == {}


def test_what_another_executor_has_no_policy_for_is_run_by_the_one_that_has(capsys: pytest.CaptureFixture[str]) -> None:
    """Two on one set of stores, in whichever order they look; the note of the first is gone at the end."""
    world = approved(World(instances=2))
    world.stages[1]["execution"]._policies = {}
    for index in (1, 0, 1):
        world.turn(index, "execution")

    assert len(world.runs()) == 1
    assert (world.refusals("execution"), world.starts.hindered) == ([], {})


@pytest.mark.fault(4)
@pytest.mark.parametrize("policies", [True, False], ids=["policy", "no policy"])
def test_what_was_refused_stays_closed_whatever_the_clock_says(policies: bool) -> None:
    """Three hours ahead, it is expired, and people are told so and ask again: set right, nothing of it runs."""
    world = approved(World())
    world.clock.jump_wall(HOURS_S)
    if not policies:
        world.stages[0]["execution"]._policies = {}
    world.turn(0, "execution")
    assert ["expired" in refusal.reason for refusal in world.refusals("execution")] == [True]

    world.clock.jump_wall(-HOURS_S)
    for _ in range(2):
        restarted(world)
    assert (world.runs(), world.records("attempts", Attempt)) == ([], [])
    assert len(world.refusals("execution")) == 1


def test_a_refusal_of_another_executor_is_heard_before_anything_runs() -> None:
    """It came between this one's look and its attempt: nothing is recorded, and nothing dialled."""
    world = approved(World(instances=2))
    one, other = (stages["execution"] for stages in world.stages)
    one.look()
    assert other._settling.refuse(execution(world), "expired: for certain")

    world.turn(0, "execution")
    assert (world.runs(), world.records("attempts", Attempt)) == ([], [])


def test_an_attempt_of_another_executor_is_not_refused() -> None:
    """It stands already, however late this one judges: no refusal of a run."""
    world = approved(World(instances=2))
    world.turn(0, "execution")

    assert not world.stages[1]["execution"]._settling.refuse(execution(world), "expired: it thinks")
    assert world.refusals("execution") == []


@pytest.mark.parametrize("kind", ["requests", "plans", "decisions", "approvals"])
def test_a_record_that_is_not_here_is_waited_for(kind: str) -> None:
    """It closes nothing, is named, and runs once it is back."""
    world = approved(World())
    kept = dict(world.disk[kind].records)
    world.disk[kind].records.clear()
    restarted(world)
    assert (world.runs(), world.refusals("execution")) == ([], [])
    assert "missing" in told(world)[0] or "gone" in told(world)[0]

    world.disk[kind].records.update(kept)
    world.turn(0, "execution")
    assert len(world.runs()) == 1


def looked_again(world: World) -> None:
    """A new executor, which does one pass over records that the world's own checks could not read."""

    async def once() -> None:
        world.boot(0, "execution")
        assert await world.stages[0]["execution"].step(True) == []

    for _ in range(2):
        in_turn(once())


@pytest.mark.parametrize("damage", [(b'"schema":', b""), (b"cloud-r", b"clouD-r")], ids=["torn", "edited"])
def test_a_damaged_attempt_that_has_ended_holds_up_nothing(damage: tuple[bytes, bytes]) -> None:
    """Its outcome says how it ended: it is over, and the damaged record is refused once, by name."""
    world = approved(World())
    world.turn(0, "execution")
    (attempt,) = world.records("attempts", Attempt)
    world.disk["attempts"].records[attempt.attempt_id] = attempt.encoded().replace(*damage)
    looked_again(world)

    assert world.stages[0]["execution"]._executions.open_letters() == []
    assert [(r.subject_kind, r.subject_id) for r in world.refusals("execution")] == [("attempt", attempt.attempt_id)]
    assert len(world.runs()) == 1


def test_a_damaged_attempt_holds_up_its_own_execution_alone() -> None:
    """Open when it was damaged: nothing is overwritten or run, the step goes on, and people are told of the file."""
    world = approved(World())
    world.runners["cloud-runner"].cuts = ["connect"] * 100
    world.turn(0, "execution")
    (attempt,) = world.records("attempts", Attempt)
    world.disk["attempts"].records[attempt.attempt_id] = torn = b'{"attempt_id":'
    looked_again(world)

    assert world.disk["attempts"].records == {attempt.attempt_id: torn}
    named = {(r.subject_kind, r.subject_id) for r in world.refusals("execution")}
    assert named == {("attempt", attempt.attempt_id)}
    assert attempt.attempt_id in told(world)[0]
    assert "bring back the true one" in told(world)[1]

    whole = attempt.encoded()
    world.disk["attempts"].records[attempt.attempt_id] = whole
    world.runners["cloud-runner"].cuts = []
    for _ in range(2):
        world.turn(0, "execution")
    assert len(world.runs()) == 1


def test_a_slot_of_what_is_not_believed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """As after a new key without the old one in `trusted_keys`: logged once, kept for people, and refused by name."""
    world = approved(World())
    world.disk["attempts"].create("attempt-old", b'{"of": "another key"}', slot="pg-active-1")
    looked_again(world)

    assert world.runs() == []
    assert "attempt-old has the slot pg-active-1, and is damaged or not believed here" in told(world)[0]
    assert "trusted_keys" in told(world)[1]
    assert capsys.readouterr().err.count("execution waits") == 2  # once in each life of the executor
    assert [(r.subject_kind, r.subject_id) for r in world.refusals("execution")] == [("attempt", "attempt-old")]


class LostEpoch(MeteredStarts):
    """Its number is damaged until somebody mends it."""

    lost = True

    def next_epoch(self) -> int:
        """As the files do."""
        if self.lost:
            raise RecordError("starts/epoch: not a number", hint="write a number into it")
        return super().next_epoch()


def test_a_damaged_epoch_keeps_the_attempt_open() -> None:
    """It is no refusal by anybody: open, with the mend for people, and run when it is mended."""
    world = World()
    starts = LostEpoch()
    starts.meter = world.meter
    world.starts = starts
    world.boot(0, "execution")
    approved(world)
    for _ in range(2):
        world.turn(0, "execution")
    (attempt,) = world.records("attempts", Attempt)
    note = world.starts.hindrance(attempt.attempt_id)

    assert (world.outcomes(), note is not None and note.error) == ([], "NotNotedError")
    starts.lost = False
    world.turn(0, "execution")
    assert [outcome.outcome for outcome in world.outcomes()] == [Outcome.SUCCEEDED]


@pytest.mark.fault(29)
@pytest.mark.req("EXE-3")
def test_an_execution_for_a_generation_that_is_over_is_refused() -> None:
    """An outcome says that the service is at 2: it was approved for 1, and is refused, recorded and not run."""
    world = approved(World())
    request = world.records("requests", DispatchRequest)[-1]
    now = world.clock.now() - timedelta(seconds=1)
    moved = AttemptOutcome(
        outcome_id="outcome-other",
        attempt_id="attempt-other",
        run_id="run-other",
        timestamp_utc=now,
        outcome=Outcome.FAILED,
        reason="failed after the promotion",
        exit_code=20,
        service=request.service,
        generation_before=1,
        generation_after=2,
        primary_after="cloud-db",
        journal_head=canonical.digest_bytes(b""),
    )
    world.disk["outcomes"].create(moved.outcome_id, sign_record(moved, KEYS["execution"]).encoded())
    world.turn(0, "execution")

    assert world.runs() == []
    assert ["stale" in r.reason for r in world.refusals("execution")] == [True]
