"""Which of several runs goes first when a runner has no room for all: by severity, then by age (EXE-1, RUN-11).

A service that nobody serves comes before one that is merely moved, however long the latter has waited; a run that a
runner may know already comes before both, because nothing that is new may stand between people and its outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hyops.model.execution import Execution
from hyops.model.vocabulary import DecisionType, Occasion

STARTED, LOST, PRESSED, MOVED, OTHER = range(5)


@dataclass(frozen=True, order=True)
class Rank:
    """Smaller goes first. `name` makes the order total, so that every executor finds the same one."""

    severity: int
    since: datetime
    name: str


def rank_of(execution: Execution, *, started: bool) -> Rank:
    """The place of an execution in the queue; `started`: its runner may have it already."""
    severity = STARTED if started else _severity(execution.decision_type, execution.occasion)
    return Rank(severity, execution.timestamp_utc, execution.execution_id)


def _severity(kind: DecisionType, occasion: Occasion) -> int:
    if kind is DecisionType.BURST:
        return PRESSED
    if kind not in (DecisionType.FAILOVER, DecisionType.FAILBACK):
        return OTHER
    return LOST if occasion is Occasion.UNPLANNED else MOVED
