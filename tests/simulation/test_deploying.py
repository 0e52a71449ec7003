"""An executor leaves the runs of a decision alone while somebody deploys it, and takes them over when he is gone."""

from __future__ import annotations

import pytest

from hyops.model.vocabulary import Outcome
from simulation.world import World


@pytest.mark.req("EXE-1", "RUN-8")
def test_who_deploys_a_decision_dials_for_it_alone() -> None:
    """While the decision's dial lock is held nobody else starts its run; without its holder the executor goes on."""
    world = World(seed=3)
    world.site_dies()
    world.watch(3.0)
    world.settle()
    world.say_yes()
    decision_id = world.decisions()[0].decision_id

    with world.starts.dialling(decision_id) as mine:
        assert mine
        world.settle()
        assert world.runs() == []
    world.settle()

    assert len(world.runs()) == 1
    assert [outcome.outcome for outcome in world.outcomes()] == [Outcome.SUCCEEDED]
