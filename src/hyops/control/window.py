"""Samples become stretches of one status (DEC-3, DEC-4): what cannot be trusted is `unknown`, and a gap starts anew.

All arithmetic is on the receiver's monotonic clock. A vantage point's own wall clock is used only against itself, to
see that a line arrives later than its fellows did (thawed process, blocked pipe).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from hyops.model.observed import Series, Span
from hyops.model.policy import ServicePolicy, Signal
from hyops.model.signal import Sample
from hyops.model.vocabulary import CheckStatus

SPANS_KEPT = 8
LATE_S = 0.5  # a sample that took this much longer than the quickest one on its way is not about the present
STEPPED_S = 10.0  # evenly late for this long is no delay, which piles up or drains: that clock was set back

_UNSEEN = {"status": CheckStatus.UNKNOWN, "count": 1, "value": None, "reason": "the connection was lost"}


@dataclass
class _Stream:
    """One vantage point since its last connection."""

    quickest_s: float = math.inf
    late_since_s: float | None = None
    late_by_s: float = 0.0
    sequences: dict[str, int] = field(default_factory=dict)

    def late(self, on_its_way_s: float, received_s: float) -> bool:
        """Whether a sample took longer than its fellows did.

        All of them evenly late for `STEPPED_S` make a new measure: else a clock that was set back would leave this
        vantage point without a voice until it is dialled anew.
        """
        self.quickest_s = min(self.quickest_s, on_its_way_s)
        if on_its_way_s - self.quickest_s <= LATE_S:
            self.late_since_s = None
            return False
        if self.late_since_s is None or abs(on_its_way_s - self.late_by_s) > LATE_S:
            self.late_since_s, self.late_by_s = received_s, on_its_way_s
        if received_s - self.late_since_s < STEPPED_S:
            return True
        self.quickest_s, self.late_since_s = on_its_way_s, None
        return False


class Window:
    """The latest stretches of every series of one service."""

    def __init__(self, policy: ServicePolicy) -> None:
        self._signals = {signal.name: signal for signal in policy.signals}
        self._series: dict[tuple[str, str], Series] = {}
        self._streams: dict[str, _Stream] = {}
        self._broken: set[tuple[str, str]] = set()

    def series(self) -> list[Series]:
        """All series, by signal and vantage point."""
        return [self._series[key] for key in sorted(self._series)]

    def reset(self, vantage: str, now_s: float) -> None:
        """The connection was lost: what comes next does not continue what was.

        What was bad, and asked for an action by that, is unknown from now on: time does not confirm what nobody looks
        at. What was good, or about the target, stands in the way of one for as long as its sample would.
        """
        self._streams.pop(vantage, None)
        for key in self._series:
            if key[1] == vantage:
                self._broken.add(key)
                if self._signals[key[0]].about != "target":
                    self._series[key] = unseen(self._series[key], now_s)

    def forget(self) -> None:
        """The primary is another one now, or a run has just let go of it: nothing that was seen is about it."""
        self._series.clear()
        self._streams.clear()
        self._broken.clear()

    def add(self, sample: Sample, received_s: float) -> bool:
        """Take one sample in; False when it is none of ours, repeated, or older than one already taken."""
        signal = self._signals.get(sample.signal)
        if signal is None or (signal.vantages and sample.vantage not in signal.vantages):
            return False
        stream = self._streams.setdefault(sample.vantage, _Stream())
        last = stream.sequences.get(sample.signal)
        if last is not None and sample.sequence <= last:
            return False
        stream.sequences[sample.signal] = sample.sequence
        on_its_way_s = received_s - sample.taken_at.timestamp() - (sample.elapsed_s or 0.0)
        key = (sample.signal, sample.vantage)
        before = self._series.get(key)
        gap = key in self._broken or (last is not None and sample.sequence > last + 1)
        self._broken.discard(key)
        late = stream.late(on_its_way_s, received_s)
        self._series[key] = folded(before, sample, received_s, signal, gap=gap, late=late)
        return True


def folded(
    before: Series | None, sample: Sample, received_s: float, signal: Signal, *, gap: bool = False, late: bool = False
) -> Series:
    """The series with one more sample: its last stretch prolonged, or a new one begun."""
    spans = list(before.spans) if before else []
    last = spans[-1] if spans else None
    known = next((s.status for s in reversed(spans) if s.status is not CheckStatus.UNKNOWN), None)
    status, reason = judged(sample, signal, known, late=late)
    began_s = received_s - min(sample.elapsed_s or 0.0, signal.timeout_s + 1.0)
    if last is not None and last.status is status and not gap and received_s - last.last_s <= signal.max_age_s:
        since_s, count = last.since_s, last.count + 1
        spans.pop()
    else:
        since_s, count = (max(began_s, last.last_s) if last else began_s), 1
    spans.append(
        Span(
            status=status,
            since_s=round(since_s, 6),
            last_s=round(received_s, 6),
            count=count,
            taken_at=sample.taken_at,
            value=sample.value,
            reason=reason,
        )
    )
    return Series(signal=sample.signal, vantage=sample.vantage, spans=spans[-SPANS_KEPT:])


def unseen(series: Series, now_s: float) -> Series:
    """The series of somebody who sees nothing any more; another one only where the last word was bad."""
    last = series.spans[-1]
    if last.status is not CheckStatus.BAD:
        return series
    since_s = round(max(now_s, last.last_s), 6)
    spans = [*series.spans, last.model_copy(update={**_UNSEEN, "since_s": since_s, "last_s": since_s})]
    return series.model_copy(update={"spans": spans[-SPANS_KEPT:]})


def judged(
    sample: Sample, signal: Signal, known: CheckStatus | None, *, late: bool = False
) -> tuple[CheckStatus, str | None]:
    """One sample against its signal's thresholds; `known` is the last status that was not unknown (hysteresis)."""
    said = sample.error or sample.detail
    if late:
        return CheckStatus.UNKNOWN, "arrived late"
    if not sample.healthy_vantage:
        unwell = "the vantage point is not well itself"
        return CheckStatus.UNKNOWN, said if said and said.startswith(unwell) else unwell
    if sample.value is None or not math.isfinite(sample.value):
        return CheckStatus.UNKNOWN, said or "no value"
    line = signal.threshold
    if known is CheckStatus.BAD and signal.leave_threshold is not None:
        line = signal.leave_threshold
    good = sample.value >= line if signal.comparator == "gte" else sample.value <= line
    return (CheckStatus.OK if good else CheckStatus.BAD), said


def current(series: Series, signal: Signal, now_s: float) -> Span | None:
    """The present stretch; None when the last sample is older than the signal allows (stale is unknown)."""
    last = series.spans[-1]
    return last if -0.001 <= now_s - last.last_s <= signal.max_age_s else None


def of_signal(series: Iterable[Series], name: str) -> list[Series]:
    """The series of one signal."""
    return [one for one in series if one.signal == name]
