"""What the signals ask for before anybody asks whether it may be done: a move, a hold that says why not, or nothing.

A quorum of vantage points that lost the primary for `confirm_for_s` without a gap asks for a move; one voice, a standby
that still receives WAL, or anything unknown asks for a hold; a degraded target denies, naming the check (FAULTS 1-8).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from hyops.control.checks import Vote, confidence_of, readiness, wal_still_arrives
from hyops.model import ids
from hyops.model.decision import Scaling
from hyops.model.observed import DecisionInputs
from hyops.model.vocabulary import CheckStatus, DecisionType, Level, Occasion

PLANNED = "planned"
HEALED_WORTH_S = 2.0  # a shorter loss that never confirmed is not worth a record


@dataclass(frozen=True)
class Wanted:
    """What should be done, and the key that tells its incident from others of its type."""

    kind: DecisionType
    rationale: str
    key: str = ""
    deny: bool = False
    confidence: float | None = None
    level: Level | None = None
    occasion: Occasion = Occasion.UNPLANNED
    scaling: Scaling | None = None


def lost_primary(inputs: DecisionInputs, votes: list[Vote]) -> Wanted | None:
    """What a loss of the primary asks for; None when no vantage point has lost it for long."""
    policy = inputs.policy
    lost = [vote for vote in votes if vote.confirmed]
    if not lost:
        return None
    names = ", ".join(vote.vantage for vote in lost)
    since_s = inputs.now_s - max(vote.since_s for vote in lost)
    lasting = inputs.now_s - min(v.since_s for v in lost) >= 2 * policy.confirm_for_s
    confidence = confidence_of(inputs, votes)
    if len(lost) < policy.quorum:
        text = f"{len(lost)} of {policy.quorum} needed vantage points lost the primary ({names}): no quorum"
        return Wanted(DecisionType.HOLD, text, "quorum", confidence=confidence) if lasting else None
    if confidence < policy.confidence_min:
        text = f"confidence {confidence:.2f} is under {policy.confidence_min:.2f} although {names} lost the primary"
        return Wanted(DecisionType.HOLD, text, "confidence", confidence=confidence) if lasting else None
    if wal_still_arrives(inputs):
        text = f"{names} lost the primary, but the standby still receives WAL: the path is broken, not the primary"
        return Wanted(DecisionType.HOLD, text, "path", confidence=confidence)
    ready = readiness(inputs)
    away = inputs.mode.primary != policy.preferred
    move = DecisionType.FAILBACK if away else DecisionType.FAILOVER  # the route's plan says from where to where
    text = f"{inputs.mode.primary} lost by {names} for {since_s:.1f} s"
    text = f"{text}; {inputs.mode.unserved}" if inputs.mode.unserved else text
    if ready.bad:
        text = f"{text}; denied: target check {ready.bad} is bad"
        return Wanted(move, text, deny=True, confidence=confidence)
    if ready.unknown:
        text = f"{text}; nothing is known of target check {ready.unknown}"
        return Wanted(DecisionType.HOLD, text, "target-unknown", confidence=confidence) if lasting else None
    return Wanted(move, text, confidence=confidence)


def healed(inputs: DecisionInputs, votes: list[Vote]) -> Wanted | None:
    """A loss that a quorum saw and that ended before it was confirmed: say what would have happened, and when."""
    policy = inputs.policy
    losses: list[tuple[float, float]] = []
    for vote in votes:
        series = vote.heaviest
        if vote.state != "sees" or series is None or len(series.spans) < 2:
            continue
        bad, good = series.spans[-2], series.spans[-1]
        if bad.status is CheckStatus.BAD and good.status is CheckStatus.OK:
            losses.append((bad.since_s, good.since_s))
    worth_s = max(policy.confirm_for_s / 2, HEALED_WORTH_S)
    losses = [(a, b) for a, b in losses if worth_s <= b - a < policy.confirm_for_s]
    if len(losses) < policy.quorum:
        return None
    began_s, ended_s = min(a for a, _ in losses), max(b for _, b in losses)
    if any(past.age_s <= inputs.now_s - began_s for past in inputs.past):
        return None
    would = inputs.at + timedelta(seconds=began_s + policy.confirm_for_s - inputs.now_s)
    text = (
        f"{len(losses)} vantage points lost the primary for {ended_s - began_s:.1f} s and it came back; after "
        f"{policy.confirm_for_s:g} s, at {ids.stamp(would)}, a failover would have been decided"
    )
    return Wanted(DecisionType.HOLD, text, "healed")


def way_back(inputs: DecisionInputs, votes: list[Vote]) -> Wanted | None:
    """Away from home, and home is ready and both are stable: recommend the way back, never trigger it."""
    policy, mode = inputs.policy, inputs.mode
    if mode.primary == policy.preferred or policy.options.get("failback") == "never":
        return None
    stable = [v for v in votes if v.state == "sees" and inputs.now_s - v.stable_since_s >= policy.stable_for_s]
    ready = readiness(inputs)
    if len(stable) < policy.quorum or not ready.asked or ready.bad or ready.unknown:
        return None
    if inputs.now_s - ready.since_s < policy.stable_for_s or not wal_still_arrives(inputs, needed=False):
        return None
    text = f"{mode.primary} serves and {policy.preferred} follows, both stable for {policy.stable_for_s:g} s"
    level = policy.level if policy.level is Level.MONITOR else Level.RECOMMEND
    return Wanted(DecisionType.FAILBACK, text, PLANNED, level=level, occasion=Occasion.PLANNED)
