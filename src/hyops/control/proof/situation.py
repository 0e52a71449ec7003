"""Situations as a policy can meet them: what each signal says from each vantage point, made real by the window itself.

A word stands for a short history of samples. Its series comes out of `control.window`, with the policy's own
thresholds and ages, so a guard that is missing there shows in the table too. All times are virtual: now is `NOW_S`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from hyops.control.proof.doors import door
from hyops.control.window import Window, current
from hyops.model.observed import DecisionInputs, Hold, Mode, Past, Series, Span
from hyops.model.policy import ServicePolicy, Signal
from hyops.model.signal import Sample
from hyops.model.vocabulary import CheckStatus, DecisionType

NOW_S = 1_000_000.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GENERATION = 7
PROLONGED_MIN = 2  # samples of one stretch
PORTS = {"http": 80, "https": 443}
STAND_IN = "prometheus"  # the vantage point of what the service itself asks


class Word(StrEnum):
    """What a signal says from one vantage point."""

    OK = "ok"
    BACK = "back"
    """Good again for a moment, after a loss that was too short to be confirmed."""
    BAD = "bad"
    """For longer than any confirm window, without a gap."""
    YOUNG = "bad, too short"
    ONCE = "bad, one sample"
    GAP = "bad, after a gap"
    ERROR = "unknown"
    NAN = "not a number"
    INFINITE = "infinite"
    UNWELL = "bad, vantage point unwell"
    LATE = "bad, arrived late"
    STALE = "bad, too old"
    ABSENT = "absent"


UNCONFIRMED = {Word.YOUNG, Word.ONCE, Word.GAP}
GOOD = {Word.OK, Word.BACK}
Place = tuple[str, str]
"""Signal and vantage point."""


@dataclass(frozen=True)
class Situation:
    """One row's left side: every signal's word at every vantage point, where the service is, what stands open, and how
    many steps of a burst are in use.
    """

    words: Mapping[Place, Word]
    mode: str = "home"
    block: str = "none"
    past: Sequence[Past] = ()
    size: int = 0


def places_of(policy: ServicePolicy) -> list[tuple[Signal, str]]:
    """Every signal at every vantage point that looks at it."""
    return [(signal, vantage) for signal in policy.signals for vantage in signal.vantages or [STAND_IN]]


def means(signal: Signal, word: Word) -> CheckStatus:
    """What the word says by itself. Of the primary, `bad` only for a loss that is confirmed, or an absence that is
    declared to be one; of the target, one sample is enough to keep off it. That nobody tells the load is no pressure.
    """
    if word is Word.BAD or (word is Word.ABSENT and declared(signal) and signal.about != "pressure"):
        return CheckStatus.BAD
    if word in UNCONFIRMED and signal.about != "primary":
        return CheckStatus.BAD
    return CheckStatus.OK if word in GOOD else CheckStatus.UNKNOWN


def declared(signal: Signal) -> bool:
    """Whether absence of the series is the failure itself (DEC-3)."""
    return signal.absence == "bad" and signal.source == "prometheus"


def look_of(signal: Signal) -> str:
    """What a signal looks through. Signals of one look have one fault in common, whatever they ask: the port of a
    member, one Prometheus, one server that answers for the database.
    """
    if signal.source not in ("prometheus", "http"):
        return signal.source
    try:
        url = urlsplit((signal.url or "").strip())
        host, port = door(url.hostname or "", url.port or PORTS.get(url.scheme, 0))
    except ValueError:
        return f"{signal.source} {signal.url}"
    return f"{signal.source} {host}:{port}"


def values_of(signal: Signal) -> tuple[float, float]:
    """A value that is good and one that is bad, whatever was before."""
    lines = [signal.threshold, *([] if signal.leave_threshold is None else [signal.leave_threshold])]
    high, low = max(lines), min(lines)
    return (high, low - 1.0) if signal.comparator == "gte" else (low, high + 1.0)


BLOCKS = ("open", "uncertain", "held")
"""What forbids every action: a run under way, one of which nobody knows how it ended, a maintenance hold."""
BURSTING = "bursting"
"""What forbids every action but an unplanned move: the run of a burst."""
SWITCH_WAITS = "a switch waits"
"""What forbids a burst: a move that was decided and has not ended."""


def sizes_of(policy: ServicePolicy) -> range:
    """How many steps of a burst can be in use."""
    return range(1 if policy.burst is None else len(policy.burst.profiles))


def modes_of(policy: ServicePolicy) -> Iterator[str]:
    """Where the service can be: at home, at each other member, or nowhere after a generation that was raised."""
    yield "home"
    yield from (member.host for member in policy.members if member.host != policy.preferred)
    yield "unserved"


class Unrecorded(DecisionInputs):
    """Inputs of a situation that nobody was in: nothing keeps them, so their digest is of no inputs."""

    def body(self) -> dict[str, Any]:
        """Nothing; writing each situation out took half of the table's time."""
        return {}


class Setting:
    """One policy, and the series of every word in it, each made once."""

    def __init__(self, policy: ServicePolicy) -> None:
        self.policy = policy
        self._series: dict[tuple[str, str, Word], Series | None] = {}
        mode = Mode(generation=GENERATION, primary=policy.preferred)
        self._modes: dict[tuple[str, str], tuple[Mode, Hold | None]] = {}
        self._words: dict[Place, dict[Word, list[Word]]] = {}
        self._places = places_of(policy)
        self._told: tuple[Mapping[Place, Word] | None, list[Series]] = (None, [])
        self._base = Unrecorded.model_construct(at=NOW, now_s=NOW_S, policy=policy, mode=mode)  # of valid parts

    def words(self, signal: Signal, vantage: str) -> dict[Word, list[Word]]:
        """The words that can be told apart by what the window keeps of them, each with all that it stands for."""
        if (signal.name, vantage) not in self._words:
            kept: dict[object, list[Word]] = {}
            for word in Word:
                series = self.series(signal, vantage, word)
                span = current(series, signal, NOW_S) if series is not None else None
                seen = None if span is None else (span.status, round(span.since_s, 3), min(span.count, 2))
                key = (seen, means(signal, word), word in UNCONFIRMED and seen is not None)
                kept.setdefault(key, []).append(word)
            self._words[signal.name, vantage] = {words[0]: words for words in kept.values()}
        return self._words[signal.name, vantage]

    def inputs(self, situation: Situation) -> DecisionInputs:
        """The situation as the decision stage would hand it to `evaluate`."""
        if situation.words is not self._told[0]:
            self._told = (situation.words, self._all_series(situation.words))
        mode, hold = self._standing(situation.mode, situation.block)
        changes = {"series": self._told[1], "mode": mode, "hold": hold, "past": list(situation.past)}
        changes |= {"scale": situation.size or None}
        return self._base.model_copy(update=changes)

    def _all_series(self, words: Mapping[Place, Word]) -> list[Series]:
        found = []
        for signal, vantage in self._places:
            word = words.get((signal.name, vantage))
            series = self.series(signal, vantage, word) if word is not None else None
            if series is not None:
                found.append(series)
        return sorted(found, key=lambda one: (one.signal, one.vantage))

    def _standing(self, mode: str, block: str) -> tuple[Mode, Hold | None]:
        if (mode, block) not in self._modes:
            at = self.policy.preferred if mode in {"home", "unserved"} else mode
            made = Mode(
                generation=GENERATION,
                primary=at,
                open_attempt="attempt-of-the-table" if block in ("open", BURSTING) else None,
                open_type=DecisionType.BURST if block == BURSTING else None,
                uncertain="attempt-of-the-table ended unknown" if block == "uncertain" else None,
                unserved="the generation was raised and nobody was promoted" if mode == "unserved" else None,
            )
            until = NOW + timedelta(hours=1)
            hold = Hold(service=self.policy.service, owner="table", reason="maintenance", until=until)
            self._modes[mode, block] = (made, hold if block == "held" else None)
        return self._modes[mode, block]

    def series(self, signal: Signal, vantage: str, word: Word) -> Series | None:
        """What the window keeps of the word's samples; None when it never got one."""
        key = (signal.name, vantage, word)
        if key not in self._series:
            self._series[key] = self._made(signal, vantage, word)
        return self._series[key]

    def _made(self, signal: Signal, vantage: str, word: Word) -> Series | None:
        if word is Word.ABSENT and not declared(signal):
            return None
        good, bad = values_of(signal)
        window, pace_s = Window(self.policy), min(signal.interval_s, signal.max_age_s) / 2
        end_s = NOW_S - (signal.max_age_s + 1.0 if word is Word.STALE else 0.0)
        before = good if word in GOOD else bad
        worst = -math.inf if signal.comparator == "gte" else math.inf
        last = {Word.ERROR: None, Word.NAN: math.nan, Word.INFINITE: worst}.get(word, before)
        if word is Word.BACK:
            before = bad
        samples = [(0, before, end_s - 2 * pace_s), (1, before, end_s - pace_s), (2, last, end_s)]
        if word is Word.GAP:
            samples[2] = (9, last, end_s)
        if word is Word.ONCE:
            samples = samples[2:]
        for sequence, value, at_s in samples:
            final = at_s == end_s and sequence == samples[-1][0]
            held_s = 60.0 if final and word is Word.LATE else 0.0
            sample = Sample(
                vantage=vantage,
                signal=signal.name,
                sequence=sequence,
                taken_at=EPOCH + timedelta(seconds=at_s - held_s),
                value=value,
                error="the look failed" if value is None else None,
                elapsed_s=signal.timeout_s if word is Word.ONCE else 0.0,
                healthy_vantage=not (final and word is Word.UNWELL),
            )
            window.add(sample, at_s)
        return self._lasting(window.series()[0], word)

    def _lasting(self, series: Series, word: Word) -> Series:
        """The last stretch made as long as the word says, if the window saw it as one; so nothing has to be replayed.

        Every stretch of a word is equally long for all signals.
        """
        policy, last = self.policy, series.spans[-1]
        if last.value is not None and not math.isfinite(last.value):  # a record of it could not be written (DEC-5)
            last = last.model_copy(update={"value": None})
            series = series.model_copy(update={"spans": [*series.spans[:-1], last]})
        if word is Word.BACK and len(series.spans) > 1:
            lost = series.spans[0].model_copy(update={"since_s": NOW_S - 0.75 * policy.confirm_for_s})
            return series.model_copy(update={"spans": [*_earlier([lost], last), last]})
        if last.count < PROLONGED_MIN:
            return series
        age_s = self._confirm_s(series.signal) / 2 if word is Word.YOUNG else self.lasting_s
        span = last.model_copy(update={"since_s": NOW_S - age_s})
        return series.model_copy(update={"spans": [*_earlier(series.spans[:-1], span), span]})

    @property
    def lasting_s(self) -> float:
        """How long everything has lasted that lasts: beyond every window of the policy."""
        policy, burst = self.policy, self.policy.burst
        confirm_s = max(policy.confirm_for_s, burst.confirm_for_s if burst else 0.0)
        return 3 * confirm_s + max(policy.stable_for_s, burst.stable_for_s if burst else 0.0) + 10.0

    def _confirm_s(self, name: str) -> float:
        """How long a signal must be bad to count: pressure has a window of its own."""
        about = {signal.name: signal.about for signal in self.policy.signals}
        burst = self.policy.burst
        return burst.confirm_for_s if burst and about[name] == "pressure" else self.policy.confirm_for_s


def _earlier(spans: Sequence[Span], than: Span) -> list[Span]:
    return [span for span in spans if span.last_s < than.since_s]
