"""Who goes first: severity before age, what runs already before both (EXE-1)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hyops.control.queue import rank_of
from hyops.model.execution import Execution
from hyops.model.vocabulary import DecisionType, Occasion
from hyops.testing.evidence import START, failover

LOST, PLANNED = Occasion.UNPLANNED, Occasion.PLANNED
FAILOVER, FAILBACK, BURST = DecisionType.FAILOVER, DecisionType.FAILBACK, DecisionType.BURST


def execution(kind: DecisionType, occasion: Occasion = LOST, age_s: float = 0.0) -> Execution:
    """An approved request that has waited for so long."""
    told = {"decision_type": kind, "occasion": occasion, "timestamp_utc": START - timedelta(seconds=age_s)}
    return failover().execution.model_copy(update=told)


@pytest.mark.req("EXE-1")
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (execution(FAILOVER), execution(FAILOVER, PLANNED, age_s=3600)),
        (execution(FAILBACK), execution(FAILOVER, PLANNED, age_s=3600)),
        (execution(FAILOVER), execution(BURST, age_s=3600)),
        (execution(BURST), execution(FAILBACK, PLANNED, age_s=3600)),
        (execution(FAILOVER, age_s=2), execution(FAILOVER, age_s=1)),
        (execution(FAILBACK, age_s=2), execution(FAILOVER, age_s=1)),
    ],
    ids=["lost-before-moved", "lost-either-way", "lost-before-pressed", "pressed-before-moved", "older", "older-lost"],
)
def test_the_more_severe_goes_first_and_then_the_older(first: Execution, then: Execution) -> None:
    """However long the less severe one has waited."""
    assert rank_of(first, started=False) < rank_of(then, started=False)


@pytest.mark.req("EXE-1", "RUN-5")
def test_what_may_be_under_way_goes_before_everything() -> None:
    """A planned move that a runner may have already stands before a lost site that it has never heard of."""
    known = rank_of(execution(FAILOVER, PLANNED), started=True)

    assert known < rank_of(execution(FAILOVER, age_s=3600), started=False)


@pytest.mark.req("LOOP-1")
def test_the_order_is_total() -> None:
    """Of two that were approved at once every executor puts the same one first."""
    one = execution(FAILOVER)
    other = one.model_copy(update={"execution_id": one.execution_id + "x"})

    assert sorted([other, one], key=lambda e: rank_of(e, started=False)) == [one, other]
