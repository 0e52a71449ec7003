"""Evidence that could not be made at once is made later, and one that cannot be made holds up no other (INV-7)."""

from __future__ import annotations

import asyncio

import pytest

from hyops.errors import EvidenceError
from hyops.model import ids
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.ports.transport import RunReturn
from simulation.world import KEYS, Hook, World


class Fussy(Hook):
    """Evidence that cannot be written for some outcomes."""

    def __init__(self, refuses: set[str]) -> None:
        super().__init__()
        self.refuses = refuses
        self.asked: list[str] = []

    async def closed(self, attempt: Attempt, outcome: AttemptOutcome, returned: RunReturn | None) -> None:
        """Take it, or fail."""
        self.asked.append(outcome.outcome_id)
        if outcome.outcome_id in self.refuses:
            raise EvidenceError("the disk is full")
        await super().closed(attempt, outcome, returned)


def three_closed() -> tuple[World, list[str]]:
    """Three attempts that ended long ago on two runners, and no evidence of any; oldest first."""
    world = World()
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval", "execution"):
        world.turn(0, name)
    (attempt,) = world.records("attempts", Attempt)
    (outcome,) = world.outcomes()
    for number, runner_ref in enumerate(("cloud-runner", "onprem-runner")):
        again = attempt.model_copy(
            update={
                "attempt_id": ids.derived("attempt", attempt.timestamp_utc, f"{number}"),
                "run_id": ids.derived("run", attempt.timestamp_utc, f"{number}"),
                "execution_mode": "dry-run",
                "runner_ref": runner_ref,
            }
        )
        ended = outcome.model_copy(
            update={
                "outcome_id": ids.derived("outcome", outcome.timestamp_utc, f"{number}"),
                "attempt_id": again.attempt_id,
                "run_id": again.run_id,
            }
        )
        world.starts.sent.add(again.attempt_id)
        runner = world.runners[runner_ref]
        runner.specs[again.run_id] = world.runners["cloud-runner"].specs[attempt.run_id]
        world.disk["attempts"].create(again.attempt_id, sign_record(again, KEYS["execution"]).encoded())
        world.disk["outcomes"].create(ended.outcome_id, sign_record(ended, KEYS["execution"]).encoded())
    world.hook = Fussy(set())
    world.boot(0)
    world.stages[0]["execution"].look()
    return world, [found.outcome_id for found in world.outcomes()]


def finish(world: World) -> int:
    """One pass over what is left."""
    left: int = asyncio.run(world.stages[0]["execution"].finish_hooks())
    return left


@pytest.mark.fault(14)
@pytest.mark.req("INV-7", "EVD-1")
def test_one_runner_that_is_away_holds_up_no_other() -> None:
    """The first runner does not answer: the others' evidence is made, and its own when it is back."""
    world, names = three_closed()
    world.runners["onprem-runner"].cuts = ["connect"]

    assert finish(world) == 1
    assert len(world.hook.given) == 2
    assert finish(world) == 0
    assert sorted(world.hook.given) == sorted(names)


@pytest.mark.fault(14)
def test_a_runner_that_is_away_is_asked_once_a_pass() -> None:
    """Two outcomes of one silent runner cost one connection attempt, not two time limits."""
    world, _ = three_closed()
    world.runners["cloud-runner"].cuts = ["connect", "connect"]

    assert finish(world) == 2
    assert world.runners["cloud-runner"].cuts == ["connect"]


@pytest.mark.fault(32)
@pytest.mark.req("INV-7")
@pytest.mark.parametrize("which", range(3))
def test_one_bundle_that_cannot_be_written_holds_up_no_other(which: int) -> None:
    """Evidence fails for one outcome: the rest is made, that one is tried again in each pass until it is made."""
    world, names = three_closed()
    hook = world.hook = Fussy({names[which]})
    world.boot(0)
    world.stages[0]["execution"].look()

    assert finish(world) == 1
    assert finish(world) == 1
    assert sorted(hook.given) == sorted(set(names) - {names[which]})
    assert hook.asked.count(names[which]) == 2

    hook.refuses.clear()

    assert finish(world) == 0
    assert sorted(hook.given) == sorted(names)


def test_an_attempt_that_is_being_dialled_is_left_alone() -> None:
    """Whoever closes the attempt just now makes its evidence; nobody makes it beside him."""
    world, names = three_closed()
    attempts = {found.attempt_id for found in world.records("attempts", Attempt)}
    world.starts.dialled |= attempts

    assert finish(world) == 3
    assert world.hook.given == []

    world.starts.dialled.clear()

    assert finish(world) == 0
    assert sorted(world.hook.given) == sorted(names)
