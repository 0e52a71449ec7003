"""What searches of schedules found, each as the plain story that it was shrunk to."""

from __future__ import annotations

import pytest

from hyops.errors import RecordError
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.vocabulary import DecisionType
from simulation.test_loop import asked_by
from simulation.world import World


@pytest.mark.req("LOOP-1", "INV-7")
def test_a_damaged_plan_holds_up_no_other_request() -> None:
    """A stored plan was changed, so its next decision cannot be dispatched: the one behind it is."""
    world = World()
    asked_by(world, "ada")
    world.turn(0, "dispatch")
    (name,) = world.disk["plans"].records
    world.disk["plans"].records[name] = world.disk["plans"].records[name].replace(b"native/fence", b"native/fancy")
    world.clock.advance(1)
    asked_by(world, "bob")
    behind = Decision(decision_id="synthetic-1", decision_type=DecisionType.FAILBACK, rationale="check", service="pg")
    world.disk["decisions"].create(behind.decision_id, behind.encoded())

    for _ in range(2):
        with pytest.raises(RecordError, match="exists with other bytes"):
            world.turn(0, "dispatch")

    assert [r.source_decision_id for r in world.records("requests", DispatchRequest)][-1:] == ["synthetic-1"]
    assert len(world.disk["requests"].records) == 2
