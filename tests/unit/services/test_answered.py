"""Which decision a run answers, told by derived ids alone; what nobody can tell sets nothing free (DEC-6, LOOP-1)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hyops.control.decision import asked_inputs, operator_decision
from hyops.control.holding import FUTURE_MAX_S
from hyops.model.dsse import sign_record
from hyops.model.observed import Asked, Mode
from hyops.model.vocabulary import DecisionType, Occasion, Outcome
from simulation.world import KEYS, World


def asked_for(world: World, occasion: Occasion = Occasion.UNPLANNED) -> None:
    """Bob asks for a failover, and ada approves it: level trigger, as the loop's own has."""
    wish = Asked(decision_type=DecisionType.FAILOVER, occasion=occasion, rationale="now", requested_by="bob")
    known = asked_inputs(world.policy, world.stages[0]["decision"].mode, wish, world.clock.now())
    decision = sign_record(operator_decision(known), KEYS["decision"])
    world.disk["decisions"].create(decision.decision_id, decision.encoded())
    world.settle()
    world.say_yes()
    world.settle()
    world.turn(0, "decision")


@pytest.mark.req("DEC-6")
@pytest.mark.parametrize("occasion", list(Occasion))
def test_a_switch_that_a_person_asked_for_latches_nothing(occasion: Occasion) -> None:
    """Somebody wanted it, so nobody has to acknowledge it."""
    world = World()
    world.watch(5)
    asked_for(world, occasion)
    stage = world.stages[0]["decision"]

    assert stage.mode.generation == 2
    assert stage.inputs_now().latch is None


@pytest.mark.req("DEC-6", "LOOP-1")
def test_every_attempt_leads_back_to_its_own_decision() -> None:
    """Two failovers of one service, one of the loop that failed and one that a person asked for."""
    world = World()
    world.watch(5)
    world.runners["cloud-runner"].outcome, world.runners["cloud-runner"].exit_code = Outcome.FAILED, 20
    world.stand()
    world.site_dies()
    world.watch(2)
    world.settle()
    world.turn(0, "decision")
    world.runners["cloud-runner"].outcome, world.runners["cloud-runner"].exit_code = Outcome.SUCCEEDED, 0
    world.watch(1)
    asked_for(world)
    answered = world.stages[0]["decision"]._answered
    found = [answered.decision(outcome) for outcome in world.outcomes()]

    assert [d.requested_by for d in found if d is not None] == [None, "bob"]


@pytest.mark.req("DEC-6")
def test_where_nobody_serves_there_is_no_latch() -> None:
    """A failover that raised the generation and promoted nobody is not over: the loop may try again by itself."""
    world = World()
    world.watch(5)
    world.stand()
    world.site_dies()
    for _ in range(6):
        world.watch(0.5)
        world.settle()
    world.turn(0, "decision")
    answered = world.stages[0]["decision"]._answered
    settled = Mode(generation=2, primary="cloud-db")

    assert answered.latch(settled, {}) is not None
    assert answered.latch(settled.model_copy(update={"unserved": "nobody was promoted"}), {}) is None
    assert answered.latch(settled, {2: world.outcomes()[-1].timestamp_utc}) is None


@pytest.mark.req("DEC-6")
def test_nobody_acknowledges_what_is_yet_to_come() -> None:
    """A word about a later generation, or about this one from long before the switch to it, leaves the latch."""
    world = World()
    world.watch(5)
    world.stand()
    world.site_dies()
    for _ in range(6):
        world.watch(0.5)
        world.settle()
    world.turn(0, "decision")
    answered = world.stages[0]["decision"]._answered
    settled = Mode(generation=2, primary="cloud-db")
    switched = world.outcomes()[-1].timestamp_utc

    for said in (
        {3: switched},
        {2**53: switched},
        {1: switched},
        {2: switched - timedelta(seconds=FUTURE_MAX_S + 1), 3: switched},
    ):
        assert answered.latch(settled, said) is not None, said
    for said in ({2: switched - timedelta(seconds=FUTURE_MAX_S)}, {2: switched, 3: switched}):
        assert answered.latch(settled, said) is None, said
