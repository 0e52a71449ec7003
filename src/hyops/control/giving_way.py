"""What a burst gives way to: it is a comfort, and a service that is lost is not (EXE-3, DEC-4).

A run of a burst keeps nobody from *deciding* an unplanned move, which then waits for its end; and a burst that has not
begun when such a move is asked for never begins. Both follow from records that nobody changes, so every stage, every
host and every desk finds the same, at any time. Begun is a burst of which a start may have been sent, by the mark that
is set right before it: until then an attempt that is recorded gives way as well, by whoever holds the right to dial.
"""

from __future__ import annotations

from collections.abc import Iterable

from hyops.model.dispatch import DispatchRequest
from hyops.model.observed import Mode
from hyops.model.vocabulary import DecisionType, Occasion, RequestStatus

MOVES = (DecisionType.FAILOVER, DecisionType.FAILBACK)
ASKED = (RequestStatus.AWAITING_APPROVAL, RequestStatus.QUEUED)


def blocking(mode: Mode, occasion: Occasion) -> str | None:
    """Why nothing of this occasion may be decided now: an unknown end, or an open run that is no burst's."""
    if mode.uncertain is not None:
        return mode.uncertain
    if mode.open_attempt is None or (mode.open_type is DecisionType.BURST and occasion is Occasion.UNPLANNED):
        return None
    return f"attempt {mode.open_attempt} is open"


def superseded(request: DispatchRequest, others: Iterable[DispatchRequest]) -> str | None:
    """Why a burst's request runs no more: an unplanned move of its service was asked for after it; None otherwise.

    For good: what became of the move later, a rejection included, brings a burst of before the loss not back.
    """
    if request.decision_type is not DecisionType.BURST:
        return None
    for other in others:
        same = (other.service, other.generation, other.target_env) == (
            request.service,
            request.generation,
            request.target_env,
        )
        lost = other.decision_type in MOVES and other.occasion is Occasion.UNPLANNED and other.condition is None
        after = request.timestamp_utc <= other.timestamp_utc < request.expires_at
        if same and lost and after and other.status in ASKED:
            return f"it gives way to {other.dispatch_id}: an unplanned {other.decision_type} of {other.service}"
    return None
