"""Recorded signals through the window and the evaluation in virtual time: what a policy would have done (DEC-5).

Nothing live is needed, and the same recording gives the same result to the byte. Nobody answers here: a decision stays
open until it expires, as it would where no approver is awake, and the service stays where it is. Times are seconds
since the epoch; the evaluation sees them as its monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hyops.control import decision
from hyops.control.checks import confidence_of, votes_of, wal_still_arrives
from hyops.control.window import Window, current
from hyops.model.decision import Decision
from hyops.model.observed import DecisionInputs, Mode, Past
from hyops.model.policy import ServicePolicy
from hyops.model.signal import Sample
from hyops.model.vocabulary import CheckStatus, DrMode

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STEP_S = 1.0  # how often it is evaluated although no sample came, as the decision stage does
CALM_S = 30.0  # and while every signal is good, and stays so
PAST_KEPT = 64
NOBODY = "none"


@dataclass(frozen=True)
class Change:
    """From `at_s` on, until the next one."""

    at_s: float
    value: str | float


@dataclass(frozen=True)
class Made:
    """A decision that would have been made."""

    at_s: float
    decision: Decision

    @property
    def word(self) -> str:
        """Its type in a word."""
        denied = "denied " if self.decision.dr_mode is DrMode.DENY else ""
        return f"{denied}{self.decision.decision_type}"


@dataclass
class Replay:
    """What would have happened between `began_s` and `ended_s`. `tracks`: per vantage point, how it voted."""

    policy: ServicePolicy
    began_s: float
    ended_s: float
    samples: int
    tracks: dict[str, list[Change]] = field(default_factory=dict)
    confidence: list[Change] = field(default_factory=list)
    wal: list[Change] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)

    def gaps(self) -> dict[str, float]:
        """Seconds in which a vantage point had nothing to say: no samples, unwell, or unknown."""
        found: dict[str, float] = {}
        for vantage, track in self.tracks.items():
            spans = pairwise([*track, Change(self.ended_s, "")])
            found[vantage] = round(sum(b.at_s - a.at_s for a, b in spans if a.value == NOBODY), 3)
        return found

    def windows(self) -> list[tuple[float, float, bool]]:
        """When a quorum of vantage points had lost the primary: from, to, and whether that was confirmed."""
        times = sorted({change.at_s for track in self.tracks.values() for change in track})
        found: list[tuple[float, float, bool]] = []
        for at_s, next_s in pairwise([*times, self.ended_s]):
            states = [_at(track, at_s) for track in self.tracks.values()]
            if sum(state in {"lost", "confirmed"} for state in states) < self.policy.quorum:
                continue
            confirmed = sum(state == "confirmed" for state in states) >= self.policy.quorum
            if found and found[-1][1] == at_s:
                found[-1] = (found[-1][0], next_s, found[-1][2] or confirmed)
            else:
                found.append((at_s, next_s, confirmed))
        return found


def _at(track: Sequence[Change], at_s: float) -> str | float:
    last: str | float = NOBODY
    for change in track:
        if change.at_s > at_s:
            break
        last = change.value
    return last


def time_of(sample: Sample) -> float:
    """When a sample was complete, seconds since the epoch."""
    return (sample.taken_at - EPOCH).total_seconds() + (sample.elapsed_s or 0.0)


def ordered(samples: Iterable[Sample]) -> list[Sample]:
    """As a receiver would have got them; the same for any order of the recording."""
    return sorted(samples, key=lambda one: (time_of(one), one.vantage, one.signal, one.sequence))


def replay(policy: ServicePolicy, samples: Sequence[Sample]) -> Replay:
    """Put samples (as `ordered` has them, at least one) through the policy."""
    began_s, ended_s = time_of(samples[0]), time_of(samples[-1])
    run = _Run(policy, Replay(policy, began_s, ended_s, len(samples)))
    restarted: dict[tuple[str, str], int] = {}
    pace_s = min(signal.interval_s for signal in policy.signals)
    idle_s = max(signal.max_age_s for signal in policy.signals)
    last_s = began_s
    for sample in samples:
        at_s = time_of(sample)
        if at_s > last_s and last_s - run.judged_s >= pace_s:
            run.judge(last_s)  # with all that had come by then
        for between_s in _steps(last_s, at_s, idle_s):
            run.judge(between_s)
        key = (sample.vantage, sample.signal)
        if sample.sequence <= restarted.get(key, -1):
            run.window.reset(sample.vantage, at_s)  # its probe was started anew: what it says continues nothing
            restarted = {known: n for known, n in restarted.items() if known[0] != sample.vantage}
        restarted[key] = sample.sequence
        run.window.add(sample, at_s)
        last_s = at_s
    run.judge(ended_s)
    return run.told


def _steps(last_s: float, next_s: float, idle_s: float) -> Iterator[float]:
    """The moments of a pause in which time alone changes something: until the last sample is too old, and once then."""
    count = 1
    while last_s + count * STEP_S < min(next_s, last_s + idle_s + 2 * STEP_S):
        yield last_s + count * STEP_S
        count += 1


class _Run:
    """The state of a replay."""

    def __init__(self, policy: ServicePolicy, told: Replay) -> None:
        self.policy, self.told = policy, told
        self.window = Window(policy)
        self.judged_s = float("-inf")
        self._signals = {signal.name: signal for signal in policy.signals}
        self._calm = False
        self._seen: tuple[object, ...] = ()
        mode = Mode(generation=1, primary=policy.preferred)
        self._base = DecisionInputs(at=EPOCH, now_s=0.0, policy=policy, mode=mode)

    def judge(self, at_s: float) -> None:
        """Evaluate now, unless all is as good as it was a moment ago: then nothing can follow at home."""
        series = self.window.series()
        seen = tuple(
            span.status if (span := current(one, self._signals[one.signal], at_s)) is not None else None
            for one in series
        )
        calm = seen == self._seen and all(status is CheckStatus.OK for status in seen)
        if calm and at_s - self.judged_s < CALM_S:
            return
        self._seen, self.judged_s = seen, at_s
        at = EPOCH + timedelta(seconds=at_s)
        changes = {"at": at, "now_s": round(at_s, 6), "series": series, "past": self._past(at_s)}
        inputs = self._base.model_copy(update=changes)
        self._tell(inputs, at_s)
        emission = decision.evaluate(inputs)
        if emission is not None:
            self.told.made.append(Made(at_s, emission.decision))

    def _past(self, at_s: float) -> list[Past]:
        found = []
        for made in self.told.made[-PAST_KEPT:]:
            ordinal, key = decision.place_of(made.decision)
            expires = made.decision.expires_at
            found.append(
                Past(
                    decision_id=made.decision.decision_id,
                    decision_type=made.decision.decision_type,
                    ordinal=ordinal,
                    age_s=round(at_s - made.at_s, 6),
                    denied=made.decision.dr_mode is DrMode.DENY,
                    expired=expires is not None and at_s >= (expires - EPOCH).total_seconds(),
                    reason_key=key,
                )
            )
        return found

    def _tell(self, inputs: DecisionInputs, at_s: float) -> None:
        votes = votes_of(inputs)
        for vote in votes:
            state = "confirmed" if vote.confirmed else vote.state
            _note(self.told.tracks.setdefault(vote.vantage, []), at_s, state)
        _note(self.told.confidence, at_s, confidence_of(inputs, votes))
        _note(self.told.wal, at_s, "arrives" if wal_still_arrives(inputs) else "not seen")


def _note(track: list[Change], at_s: float, value: str | float) -> None:
    if not track or track[-1].value != value:
        track.append(Change(at_s, value))
