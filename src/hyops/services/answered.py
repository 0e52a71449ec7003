"""Which decision a run answers, and what that makes of latch and size: by derived ids alone (LOOP-1, DEC-6).

A dispatch id ends with eight hex digits of the decision that it answers, so an attempt leads back to its decision
although the decision service reads neither requests nor executions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from hyops.control.holding import FUTURE_MAX_S
from hyops.model import ids
from hyops.model.decision import Decision
from hyops.model.execution import AttemptOutcome
from hyops.model.observed import Latch, Mode
from hyops.model.vocabulary import DecisionType, Level, Occasion
from hyops.services.inbox import Inbox
from hyops.services.standing import Standing

_ANY = datetime(2000, 1, 1, tzinfo=UTC)  # the ending of an id does not depend on its time


class Answered:
    """The decisions of one service by the ending of the dispatch ids that answer them."""

    def __init__(self, service: str, decisions: Inbox[Decision], standing: Standing) -> None:
        self._service, self._decisions, self._standing = service, decisions, standing
        self._removals, self._read = -1, 0
        self._by: dict[str, Decision] = {}

    def refresh(self) -> None:
        """Take in the decisions that are new."""
        if self._removals != self._decisions.removals:
            self._removals, self._read = self._decisions.removals, 0
            self._by.clear()
        for decision in self._decisions.taken[self._read :]:
            if decision.service == self._service:
                self._by[ending_of(decision)] = decision
        self._read = len(self._decisions.taken)

    def decision(self, outcome: AttemptOutcome) -> Decision | None:
        """The decision that an outcome's run answers; None when it is not here (written by hand, or removed)."""
        attempt = self._standing.attempt(outcome.attempt_id)
        if attempt is None:
            return None
        return self._by.get("-".join(attempt.source_dispatch_id.rsplit("-", 2)[1:]))

    def latch(self, mode: Mode, acknowledged: Mapping[int, datetime]) -> Latch | None:
        """The latch of a switch to the present generation that the loop triggered and nobody acknowledged since.

        Nobody speaks of what is yet to come: a word about a later generation, or about this one from before the switch
        to it, sets nothing free. A switch whose decision is not here is taken for one of the loop's: nor does what is
        not known.
        """
        if mode.unserved is not None:
            return None
        said_at = acknowledged.get(mode.generation)
        _, outcomes = self._standing.telling(self._service)
        for outcome in outcomes:
            raised = outcome.generation_after == mode.generation > outcome.generation_before
            if not raised or outcome.primary_after is None:
                continue
            if said_at is not None and said_at >= outcome.timestamp_utc - timedelta(seconds=FUTURE_MAX_S):
                return None
            decision = self.decision(outcome)
            by_itself = decision is None or (
                decision.requested_by is None
                and decision.level is Level.TRIGGER
                and decision.occasion is Occasion.UNPLANNED
            )
            if by_itself:
                return Latch(generation=mode.generation, decision_id=decision.decision_id if decision else None)
        return None

    def scale(self) -> int:
        """How many steps of burst are confirmed: what the newest burst that succeeded made of it."""
        newest: tuple[datetime, int] | None = None
        for outcome in self._standing.succeeded(self._service):
            decision = self.decision(outcome)
            if decision is None or decision.scaling is None:
                continue
            if newest is None or outcome.timestamp_utc >= newest[0]:
                newest = outcome.timestamp_utc, decision.scaling.size_after
        return newest[1] if newest else 0

    def closes(self, outcome: AttemptOutcome, decision: Decision) -> bool:
        """Whether an outcome says how a decision ended: a burst's is its own, a move's is none of a burst."""
        answered = self.decision(outcome)
        if decision.decision_type is DecisionType.BURST:
            return answered is not None and answered.decision_id == decision.decision_id
        return answered is None or answered.decision_type is not DecisionType.BURST


def ending_of(decision: Decision) -> str:
    """`<type>-<8 hex>`, as every dispatch id of this decision ends."""
    made = ids.derived("dispatch", _ANY, decision.digest(), decision.source_decision_type or decision.decision_type)
    return "-".join(made.rsplit("-", 2)[1:])
