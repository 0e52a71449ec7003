"""Votes of vantage points, readiness of the target, and the checks that a decision shows (DEC-2, DEC-4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyops.control.window import current, of_signal
from hyops.model.observed import DecisionInputs, Series, Span
from hyops.model.policy import Signal
from hyops.model.signal import Check
from hyops.model.vocabulary import CheckStatus

WAL_RECEIVED = "wal_received"
CONFIRMING_SAMPLES_MIN = 2  # one bad sample never confirms anything, however short `confirm_for_s` is


@dataclass(frozen=True)
class Vote:
    """What one vantage point says of the primary. `confirmed`: lost, without a gap, for `confirm_for_s`."""

    vantage: str
    state: Literal["lost", "sees", "none"]
    confirmed: bool
    since_s: float
    stable_since_s: float
    bad_weight: float
    known_weight: float
    heaviest: Series | None


@dataclass(frozen=True)
class Readiness:
    """Whether the target can take over: the first check that is bad, or of which nothing is known."""

    asked: bool
    bad: str | None
    unknown: str | None
    since_s: float


def votes_of(inputs: DecisionInputs) -> list[Vote]:
    """One vote per vantage point that some probed signal about the primary names."""
    watched = [s for s in inputs.policy.signals if s.about == "primary" and s.vantages]
    vantages = sorted({vantage for signal in watched for vantage in signal.vantages})
    return [_vote(inputs, vantage, [s for s in watched if vantage in s.vantages]) for vantage in vantages]


def _vote(inputs: DecisionInputs, vantage: str, signals: list[Signal]) -> Vote:
    total = sum(signal.weight for signal in signals)
    weight = dict.fromkeys(CheckStatus, 0.0)
    confirmed_weight, since_s, stable_since_s = 0.0, 0.0, 0.0
    heaviest: tuple[float, Series] | None = None
    for signal in signals:
        series = next((s for s in of_signal(inputs.series, signal.name) if s.vantage == vantage), None)
        span = current(series, signal, inputs.now_s) if series else None
        weight[span.status if span else CheckStatus.UNKNOWN] += signal.weight
        if series is None or span is None or signal.weight == 0:
            continue
        if heaviest is None or signal.weight > heaviest[0]:
            heaviest = (signal.weight, series)
        if span.status is CheckStatus.OK:
            stable_since_s = max(stable_since_s, span.since_s)
        if span.status is CheckStatus.BAD and _confirmed(span, inputs):
            confirmed_weight += signal.weight
            since_s = max(since_s, span.since_s)
    least = inputs.policy.confidence_min * total
    lost = total > 0 and weight[CheckStatus.BAD] >= least
    sees = total > 0 and not lost and weight[CheckStatus.OK] >= least
    return Vote(
        vantage=vantage,
        state="lost" if lost else "sees" if sees else "none",
        confirmed=lost and confirmed_weight >= least,
        since_s=since_s,
        stable_since_s=stable_since_s,
        bad_weight=confirmed_weight if lost else 0.0,
        known_weight=weight[CheckStatus.OK] + weight[CheckStatus.BAD],
        heaviest=heaviest[1] if heaviest else None,
    )


def _confirmed(span: Span, inputs: DecisionInputs) -> bool:
    return span.count >= CONFIRMING_SAMPLES_MIN and inputs.now_s - span.since_s >= inputs.policy.confirm_for_s


def confidence_of(inputs: DecisionInputs, votes: list[Vote]) -> float:
    """Weight of what says that the primary is lost, over the weight of all that is known; 0 when nothing is."""
    bad, known = sum(vote.bad_weight for vote in votes), sum(vote.known_weight for vote in votes)
    for signal in inputs.policy.signals:
        if signal.about == "primary" and not signal.vantages:
            statuses = {span.status for span in spans_of(inputs, signal)}
            bad += signal.weight * (CheckStatus.BAD in statuses)
            known += signal.weight * bool(statuses - {CheckStatus.UNKNOWN})
    return round(bad / known, 4) if known else 0.0


def wal_still_arrives(inputs: DecisionInputs, *, needed: bool = True) -> bool:
    """True when any vantage point sees the standby receive WAL. With `needed` False: also when nobody watches it."""
    watched = [s for s in inputs.policy.signals if is_wal(s)]
    if not watched:
        return not needed
    return any(span.status is CheckStatus.OK for signal in watched for span in spans_of(inputs, signal))


def readiness(inputs: DecisionInputs) -> Readiness:
    """Judge every signal about the target. That WAL has stopped is no fault of the target."""
    asked, since_s = False, 0.0
    bad = unknown = None
    for signal in inputs.policy.signals:
        if signal.about != "target":
            continue
        spans = spans_of(inputs, signal)
        statuses = {span.status for span in spans}
        if is_wal(signal):
            if not statuses - {CheckStatus.UNKNOWN}:
                unknown = unknown or signal.name  # a standby that cannot be asked may well still receive
            continue
        asked = True
        if CheckStatus.BAD in statuses:
            bad = bad or signal.name
        elif CheckStatus.OK not in statuses:
            unknown = unknown or signal.name
        else:
            since_s = max([since_s, *(span.since_s for span in spans if span.status is CheckStatus.OK)])
    return Readiness(asked, bad, unknown, since_s)


def is_wal(signal: Signal) -> bool:
    """Whether the signal says that the standby receives WAL (value: age of the newest message in seconds)."""
    return signal.about == "target" and signal.source == "postgresql" and signal.measure == WAL_RECEIVED


def spans_of(inputs: DecisionInputs, signal: Signal) -> list[Span]:
    """The present stretch of every fresh series of a signal."""
    found = (current(series, signal, inputs.now_s) for series in of_signal(inputs.series, signal.name))
    return [span for span in found if span is not None]


def checks_of(inputs: DecisionInputs) -> list[Check]:
    """Every series as it stood, in a fixed order. Signals about the target have `target.` before their name, except
    that WAL has stopped: that is how a lost primary looks from there, and no approver must acknowledge it.
    """
    checks = []
    for signal in sorted(inputs.policy.signals, key=lambda s: s.name):
        name = f"target.{signal.name}"[:64] if signal.about == "target" and not is_wal(signal) else signal.name
        found = of_signal(inputs.series, signal.name)
        checks += [_check(name, signal, series, inputs.now_s) for series in found]
        if not found:
            checks.append(Check(name=name, status=CheckStatus.UNKNOWN, query=signal.query, reason="nothing seen"))
    return checks


def _check(name: str, signal: Signal, series: Series, now_s: float) -> Check:
    last = series.spans[-1]
    fresh = current(series, signal, now_s)
    return Check(
        name=name,
        status=fresh.status if fresh else CheckStatus.UNKNOWN,
        query=signal.query,
        value=last.value,
        threshold=signal.threshold,
        comparator=signal.comparator,
        sampled_at=last.taken_at,
        age_s=round(now_s - last.last_s, 3),
        vantage=series.vantage,
        reason=last.reason if fresh else "stale",
    )
