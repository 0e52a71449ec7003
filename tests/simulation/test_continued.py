"""A run that failed after its promotion and went on: the loop records the second end, and evidence of both."""

from __future__ import annotations

import pytest

from hyops.errors import HyopsError, PrerequisiteError
from hyops.model.vocabulary import Outcome
from simulation.test_reconcile import prove, run_id, word
from simulation.world import FakeRunner, World

pytestmark = [pytest.mark.req("INV-7", "VOC-5"), pytest.mark.fault(27)]


def half_done() -> tuple[World, FakeRunner]:
    """A failover that ended "promoted, not switched"."""
    world = World()
    runner = world.runners["cloud-runner"]
    runner.outcome, runner.exit_code, runner.promoted = Outcome.FAILED, 20, True
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.settle()
    assert [o.outcome for o in world.outcomes()] == [Outcome.FAILED]
    return world, runner


def goes_on(runner: FakeRunner, outcome: Outcome = Outcome.SUCCEEDED) -> None:
    """`hyops run resume`."""
    runner.outcome, runner.exit_code, runner.life = outcome, 0 if outcome is Outcome.SUCCEEDED else 20, 2


def test_the_loop_records_the_second_end_by_itself() -> None:
    """Resumed to success: one outcome beside the failed one, signed by the executor; the service is where it was."""
    world, runner = half_done()
    goes_on(runner)
    world.settle()
    first, second = sorted(world.outcomes(), key=lambda o: o.exit_code, reverse=True)
    assert (first.outcome, second.outcome, second.reconciles) == (Outcome.FAILED, Outcome.SUCCEEDED, first.outcome_id)
    mode = world.stages[0]["decision"].mode
    assert (mode.generation, mode.primary, mode.uncertain) == (2, "cloud-db", None)
    world.settle()
    assert len(world.outcomes()) == 2
    with pytest.raises(PrerequisiteError, match=r"ended (succeeded|failed): there is nothing"):
        prove(world)


@pytest.mark.parametrize("life", [1, 2])
def test_what_still_fails_is_recorded_once(life: int) -> None:
    """Not resumed, or failed again: nothing is added, by the loop or by hand."""
    world, runner = half_done()
    runner.life = life
    world.settle()
    with pytest.raises(PrerequisiteError, match="ended failed: there is nothing to reconcile"):
        prove(world)
    assert [o.outcome for o in world.outcomes()] == [Outcome.FAILED]


def test_an_operator_records_it_without_the_loop() -> None:
    """`hyops run reconcile` takes the runner's proof; no person's word ever changes a proved end."""
    world, runner = half_done()
    with pytest.raises(PrerequisiteError, match="no word changes it"):
        word(world)
    goes_on(runner)
    with pytest.raises(PrerequisiteError, match="no word changes it"):
        word(world)
    assert prove(world).outcome is Outcome.SUCCEEDED
    assert run_id(world)


@pytest.mark.fault(18)
def test_a_forged_second_result_is_not_recorded() -> None:
    """What does not verify leaves the failed end as it is."""
    world, runner = half_done()
    goes_on(runner)
    runner.forge = lambda result: result.model_copy(update={"primary_after": "onprem-db"})
    world.settle()
    with pytest.raises(HyopsError, match="does not verify"):
        prove(world)
    assert [o.outcome for o in world.outcomes()] == [Outcome.FAILED]


def test_evidence_of_the_first_end_has_its_own_result_and_journal() -> None:
    """Made late, after the run went on: the bundle of each end gets what that end was signed over."""
    world, runner = half_done()
    world.hook.given.clear()
    world.boot(0, "execution")
    goes_on(runner)
    world.settle()
    told = {o.outcome: world.hook.returned[o.outcome_id] for o in world.outcomes()}
    first, second = told[Outcome.FAILED], told[Outcome.SUCCEEDED]
    assert first is not None
    assert second is not None
    assert (first.journal, first.result.outcome) == (b"the first end\n", Outcome.FAILED)
    assert (second.journal, second.result.outcome) == (b"the first end\nthe second end\n", Outcome.SUCCEEDED)
