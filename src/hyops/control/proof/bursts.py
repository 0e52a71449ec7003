"""What must hold of every burst, whatever the policy says: it rests on pressure that stood, and on nothing else.

A burst moves nothing, so nobody has to have lost the primary for it; on the contrary, nobody may have (DEC-4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hyops.control.burst import burst
from hyops.control.checks import Vote
from hyops.control.proof.rules import Where
from hyops.control.proof.situation import (
    BURSTING,
    STAND_IN,
    SWITCH_WAITS,
    UNCONFIRMED,
    Place,
    Setting,
    Situation,
    Word,
    declared,
    means,
    places_of,
)
from hyops.model.decision import Decision
from hyops.model.policy import ServicePolicy, Signal
from hyops.model.vocabulary import CheckStatus, DecisionType, Direction

Told = tuple[str, Where, str]


def burst_key(setting: Setting, words: Mapping[Place, Word], size: int) -> tuple[object, ...]:
    """What `evaluate` can learn of pressure and of the checks of a burst: what the real `burst` answers where the
    primary is well, the one time it is heard. With it, which claims the answer breaks by itself.
    """
    policy = setting.policy
    if policy.burst is None:
        return ()
    sees = [Vote(f"v{number}", "sees", False, 0.0, 0.0, 0.0, 1.0, None) for number in range(policy.quorum)]
    wanted = burst(setting.inputs(Situation(words, size=size)), sees)
    if wanted is None:
        return (None,)
    if wanted.scaling is None or wanted.deny:
        return (wanted.kind, wanted.key, wanted.deny)
    broken = tuple((rule, where) for rule, where, _ in _unproved(policy, words, wanted.scaling.direction))
    return (wanted.kind, wanted.key, wanted.level, wanted.occasion, wanted.scaling.direction, broken)


def of_burst(policy: ServicePolicy, situation: Situation, made: Decision) -> Iterator[Told]:
    """Every claim that a burst breaks."""
    if made.decision_type is not DecisionType.BURST or made.scaling is None:
        return
    yield from _unproved(policy, situation.words, made.scaling.direction)
    said = f"capacity goes {made.scaling.direction}"
    if situation.mode != "home":
        yield "burst/beside", ("burst",), f"{said} although the service is {situation.mode}, not at home"
    if situation.block in (BURSTING, SWITCH_WAITS):
        what = "a burst runs" if situation.block == BURSTING else "a switch is decided and waits"
        yield "burst/beside", ("burst",), f"{said} although {what}"
    for vantage, statuses in _views(policy, situation).items():
        if statuses == {CheckStatus.BAD}:
            yield "burst/beside", ("burst",), f"{said} although {vantage} has lost the primary"


def _views(policy: ServicePolicy, situation: Situation) -> dict[str, set[CheckStatus]]:
    """What the signals about the primary say to each vantage point, confirmed or not."""
    found: dict[str, set[CheckStatus]] = {}
    for signal, vantage in places_of(policy):
        word = situation.words.get((signal.name, vantage))
        if signal.about == "primary" and signal.vantages and signal.weight > 0 and word is not None:
            bad = word in UNCONFIRMED or means(signal, word) is CheckStatus.BAD
            found.setdefault(vantage, set()).add(CheckStatus.BAD if bad else means(signal, word))
    return found


def _unproved(policy: ServicePolicy, words: Mapping[Place, Word], way: Direction) -> Iterator[Told]:
    """Pressure that nobody confirmed or knows of, ease that is a moment old, a check of the burst that is not ok."""
    rule, pressure = policy.burst, _pressure(policy)
    if rule is None:
        return
    out = way is Direction.OUT
    firm = Word.BAD if out else Word.OK
    stood = sum(signal.weight for _, signal in pressure if set(_said(signal, words)) == {firm})
    total = sum(signal.weight for _, signal in pressure)
    if not total or stood / total < (rule.confidence_min if out else 1.0):
        yield _why(pressure, words, firm, out=out)
    for index, signal in enumerate(policy.signals):
        if not out or signal.name not in rule.checks:
            continue
        statuses = {means(signal, word) for word in _said(signal, words)}
        if CheckStatus.BAD in statuses:
            yield "act/target-bad", ("signals", index), f"check {signal.name} is bad, and capacity is bought"
        elif CheckStatus.OK not in statuses:
            yield "act/target-unknown", ("signals", index), f"nothing is known of {signal.name}, and capacity is bought"


def _why(pressure: list[tuple[int, Signal]], words: Mapping[Place, Word], firm: Word, *, out: bool) -> Told:
    """By which key it is not enough: a silence that is declared to be bad, a window, or the signals at all."""
    hasty = UNCONFIRMED if out else {Word.BACK}
    done = "capacity is bought" if out else "capacity is given back"
    for index, signal in pressure:
        if declared(signal) and Word.ABSENT in _said(signal, words):
            text = f"{signal.name} is absent, which says nothing of the load, and {done}"
            return "act/unknown", ("signals", index, "absence"), text
    for _, signal in pressure:
        if (said := set(_said(signal, words))) <= {firm, *hasty} and said & hasty:
            key = "confirm_for_s" if out else "stable_for_s"
            return "act/unconfirmed", ("burst", key), f"what {signal.name} has not said for long is enough: {done}"
    return "act/unknown", ("signals", pressure[0][0] if pressure else 0), f"nobody knows of the load, and {done}"


def _pressure(policy: ServicePolicy) -> list[tuple[int, Signal]]:
    return [(i, s) for i, s in enumerate(policy.signals) if s.about == "pressure" and s.weight > 0]


def _said(signal: Signal, words: Mapping[Place, Word]) -> list[Word]:
    found = (words.get((signal.name, vantage)) for vantage in signal.vantages or [STAND_IN])
    return [word for word in found if word is not None]
