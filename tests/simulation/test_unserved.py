"""A run raised the generation and promoted nobody: what the loop decides next, there and back (DEC-6, DEC-4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hyops.control.decision import evaluate
from hyops.errors import StaleGenerationError
from hyops.model.decision import Decision
from hyops.model.dsse import sign_record
from hyops.model.observed import DecisionInputs, Mode
from hyops.model.run import RunResult
from hyops.model.vocabulary import DecisionType, Outcome
from simulation.world import KEYS, FakeRunner, World

pytestmark = [pytest.mark.req("DEC-6"), pytest.mark.fault(27)]


def ends(runner: FakeRunner, outcome: Outcome, code: int, *, after: int | None, primary: str | None = None) -> None:
    """The next runs of a runner end like this."""

    def told(result: RunResult) -> RunResult:
        changes = {"outcome": outcome, "exit_code": code, "generation_after": after, "primary_after": primary}
        return sign_record(result.model_copy(update=changes), KEYS[f"runner:{runner.ref}"])

    runner.forge = told


def honest(runner: FakeRunner) -> None:
    """The next run succeeds, and says so."""
    runner.forge = lambda result: result


def mode(world: World) -> Mode:
    """Where the decision stage sees the service."""
    world.turn(0, "decision")
    found: Mode = world.stages[0]["decision"].mode
    return found


def raised_only() -> World:
    """The site died, a failover was decided and run; it raised the generation and then could prove no fence."""
    world = World(mode="dispatch")
    world.stand()
    world.watch(3)
    ends(world.runners["cloud-runner"], Outcome.FAILED, 20, after=2)
    world.site_dies()
    world.watch(2)
    world.settle()
    return world


def test_the_mode_says_that_nobody_serves_as_soon_as_it_is_confirmed() -> None:
    """The old primary stays named as the last one that was promoted; the new generation is nobody's yet."""
    found = mode(raised_only())

    assert (found.generation, found.primary, found.uncertain) == (2, "onprem-db", None)
    assert found.unserved is not None


@pytest.mark.req("DEC-4", "DEC-5")
def test_the_next_failover_leads_on_to_the_other_member_and_replays() -> None:
    """Decided again under the raised generation, from the recorded inputs byte for byte; its run settles it."""
    world = raised_only()
    honest(world.runners["cloud-runner"])
    world.watch(4)
    world.settle()

    first, second = sorted(world.decisions(DecisionType.FAILOVER), key=lambda d: d.generation or 0)
    assert (first.generation, second.generation) == (1, 2)
    assert "nobody was promoted" in second.rationale
    for decision in (first, second):
        again = evaluate(inputs_of(world, decision))
        assert again is not None
        assert again.decision.unsigned() == decision.unsigned()
    found = mode(world)
    assert (found.generation, found.primary, found.unserved) == (3, "cloud-db", None)


def test_an_old_primary_that_was_readmitted_serves_again() -> None:
    """The other direction: the next run finds it readmitted and ends stale; the loop goes on with it as the primary."""
    world = raised_only()
    ends(world.runners["cloud-runner"], Outcome.FAILED, StaleGenerationError.exit_code, after=3)
    world.watch(4)
    world.settle()
    world.site_lives()
    world.watch(30)

    found = mode(world)
    assert (found.generation, found.primary, found.unserved) == (3, "onprem-db", None)
    assert [d for d in world.decisions() if d.generation == 3] == []


@pytest.mark.req("DEC-4")
def test_where_nobody_serves_there_is_nothing_to_heal_or_to_give_back() -> None:
    """The vantage points see the old primary's port again although nobody may serve: no note, no way back."""
    world = raised_only()
    world.site_lives()
    world.watch(60)

    assert [d.decision_type for d in world.decisions() if d.generation == 2] == []


@pytest.mark.req("DEC-5")
@pytest.mark.parametrize("changed", [lambda m: m.model_copy(update={"unserved": None}), lambda m: m])
def test_only_the_recorded_mode_gives_the_recorded_decision(changed: Callable[[Mode], Mode]) -> None:
    """That nobody serves is one of the inputs: a replay without it is another decision."""
    world = raised_only()
    world.watch(4)
    (decision,) = [d for d in world.decisions(DecisionType.FAILOVER) if d.generation == 2]
    inputs = inputs_of(world, decision)
    other = inputs.model_copy(update={"mode": changed(inputs.mode)})

    again = evaluate(other)

    assert again is not None
    assert (again.decision.unsigned() == decision.unsigned()) is (other == inputs)


def inputs_of(world: World, decision: Decision) -> DecisionInputs:
    """What was recorded beside it."""
    name = str(decision.inputs_digest).removeprefix("sha256:")
    return DecisionInputs.read(world.disk["inputs"].records[name])
