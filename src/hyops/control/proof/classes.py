"""All situations of a policy by few representatives, each with the number of situations that it stands for.

Why this is sound. `evaluate` learns of the signals only through four functions of `control.checks` and through
`burst`, and each of them takes the signals apart the same way:
- `votes_of` makes one vote per vantage point, of that vantage point's own signals about the primary and nothing else.
  So what one vantage point says may be replaced by anything that gives an equal vote (since when it is lost counts
  in a confirmed vote alone, by whether that is long, and since when it is stable in one that sees the primary);
- `confidence_of` adds up weights over votes and over what the service itself asks: those that say lost over those of
  which anything is known. It is compared with one number, and a fraction is over that number when its numerator less
  the number times its denominator is over 0 (`_pull`), which adds up over votes. So of what one vantage point says with
  one vote the strongest and the weakest pull speak for those between; the share at that one vantage point does not,
  for a weight of which nothing is known there lets the others' count for more;
- `readiness` and `wal_still_arrives` look at signals about the target alone, so these are a factor of their own, and
  of two words of a target signal that give equal answers alone one is enough. They, and the checks of a burst, take
  the signals one after the other and remember no more than their answer (the name in it makes no difference), so of
  the words of several signals that give equal answers one is enough for whatever the next signal says;
- `burst` alone looks at signals about pressure, at its own checks and at how many steps are in use. It is heard when
  the primary is well, and looks at votes for nothing else, so its answer for that case is all that can be learned;
  beside votes with which it answers nothing, whatever the load (`hearing`), even that makes no difference;
- where a service is (mode), what stands open, and a hold, are further factors, none of which reads a signal.
Vantage points that look at the same signals with the same weights may change places: only names would differ.
The classes come from calling those functions, never from a copy of their rules; facts that a claim looks at
(`fact_of`) are part of a class as well. That the factors really are independent is not taken on trust: `table`
draws whole situations from the unreduced product and compares what follows with their class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, groupby, product
from math import ceil, factorial, prod

from hyops.control.burst import burst
from hyops.control.checks import Vote, confidence_of, is_wal, readiness, votes_of, wal_still_arrives
from hyops.control.proof.bursts import burst_key
from hyops.control.proof.situation import (
    NOW_S,
    STAND_IN,
    Place,
    Setting,
    Situation,
    Word,
    look_of,
    means,
    modes_of,
    sizes_of,
)
from hyops.control.wanted import healed
from hyops.model.policy import ServicePolicy, Signal
from hyops.model.vocabulary import CheckStatus

WORDS_MAX = 60_000  # combinations of one vantage point: about seven signals that differ in weight
CLASSES_MAX = 40_000


class TooLargeError(Exception):
    """The table cannot be made complete within its limits; `what` says why."""


@dataclass(frozen=True)
class Class:
    """Words that `evaluate` cannot tell from others, and how many combinations they stand for."""

    words: Mapping[Place, Word]
    count: int
    key: tuple[object, ...] = ()
    pull: tuple[float, float] = (0.0, 0.0)
    size: int = 0


def fact_of(setting: Setting, vantage: str, words: Mapping[Place, Word]) -> str:
    """What the claims need to know of a vantage point: on how much it rests that the primary is lost there."""
    lost = [
        signal
        for signal in setting.policy.signals
        if signal.about == "primary"
        and signal.weight > 0
        and (word := words.get((signal.name, vantage))) is not None
        and means(signal, word) is CheckStatus.BAD
    ]
    looks = {look_of(signal) for signal in lost}
    if len(looks) == 1 and lost[0].source != "postgresql":
        return f"only {looks.pop()}"
    return "lost" if lost else "not lost"


def vantage_classes(setting: Setting, vantage: str) -> list[Class]:
    """The classes of one vantage point, by the vote that the real `votes_of` gives it alone."""
    signals = [s for s in setting.policy.signals if s.about == "primary" and vantage in s.vantages]
    choices = []
    for signal in signals:
        known = {word: len(alike) for word, alike in setting.words(signal, vantage).items()}
        if signal.weight == 0:  # it has no say; two words are enough to see that this is so
            known = {Word.OK: sum(known.values()) - 1, Word.BAD: 1}
        choices.append([((signal.name, vantage), word, count) for word, count in known.items()])
    if prod(map(len, choices)) > WORDS_MAX:
        raise TooLargeError(_names(signals, f"about the primary at {vantage}"))
    only = _only(setting, signals)
    found: dict[tuple[object, ...], list[Class]] = {}
    for combination in product(*choices):
        words = {place: word for place, word, _ in combination}
        vote = next(v for v in votes_of(only.inputs(Situation(words))) if v.vantage == vantage)
        key, pull = vote_key(setting, vote, words), _pull(setting.policy, vote)
        found.setdefault(key, []).append(Class(words, prod(n for *_, n in combination), key, pull))
    return [one for key, same in found.items() for one in _extremes(same, key)]


def _pull(policy: ServicePolicy, vote: Vote) -> tuple[float, float]:
    """How far a vote pulls the confidence over `confidence_min`, and, where it does not, how much of it is known.

    The cut is where the real one is, which rounds.
    """
    cut = ceil(policy.confidence_min * 10**4 - 1e-6) / 10**4 - 0.5e-4
    return vote.bad_weight - cut * vote.known_weight, vote.known_weight


def primary_key(setting: Setting, words: Mapping[Place, Word]) -> tuple[tuple[object, ...], float]:
    """What `evaluate` can learn of everything that is said about the primary, and the confidence in it."""
    policy, inputs = setting.policy, setting.inputs(Situation(words))
    votes = votes_of(inputs)
    alike: dict[tuple[str, ...], list[object]] = {}
    for vote in votes:
        alike.setdefault(_looks(policy, vote.vantage), []).append(vote_key(setting, vote, words))
    confidence = confidence_of(inputs, votes)
    told = tuple(tuple(sorted(keys, key=repr)) for _, keys in sorted(alike.items()))
    return (told, confidence >= policy.confidence_min), confidence


def vote_key(setting: Setting, vote: Vote, words: Mapping[Place, Word]) -> tuple[object, ...]:
    """What of a vote can make a difference."""
    lasting = NOW_S - vote.since_s >= 2 * setting.policy.confirm_for_s
    since = (lasting, fact_of(setting, vote.vantage, words)) if vote.confirmed else None
    stable = (vote.stable_since_s, _came_back(setting, vote)) if vote.state == "sees" else None
    return (vote.state, vote.confirmed, since, stable)


def _came_back(setting: Setting, vote: Vote) -> bool:
    """Whether the real `healed` takes the vote for a loss that ended by itself: then it says so, and nothing else."""
    if vote.heaviest is None or len(vote.heaviest.spans) == 1:
        return False
    alone = setting.policy.model_copy(update={"quorum": 1})
    return healed(setting.inputs(Situation({})).model_copy(update={"policy": alone}), [vote]) is not None


def primary_classes(setting: Setting) -> list[Class]:
    """The classes of everything that is said about the primary, from all vantage points and by the service itself."""
    policy = setting.policy
    vantages = sorted({v for s in policy.signals if s.about == "primary" for v in s.vantages})
    groups: dict[tuple[str, ...], list[str]] = {}
    for vantage in vantages:
        groups.setdefault(_looks(policy, vantage), []).append(vantage)
    parts = [list(_alike(vantage_classes(setting, same[0]), same)) for same in groups.values()]
    for signal in policy.signals:
        if signal.about == "primary" and not signal.vantages:
            known = setting.words(signal, STAND_IN)
            parts.append([Class({(signal.name, STAND_IN): word}, len(alike)) for word, alike in known.items()])
    if prod(map(len, parts)) > CLASSES_MAX:
        raise TooLargeError(f"{len(vantages)} vantage points whose votes differ in {[len(p) for p in parts]} ways")
    found: dict[tuple[object, ...], list[Class]] = {}
    for combination in product(*parts):
        words = _joined(one.words for one in combination)
        key, confidence = primary_key(setting, words)
        found.setdefault(key, []).append(Class(words, prod(one.count for one in combination), key, (confidence, 0.0)))
    return [one for key, same in found.items() for one in _extremes(same, key)]


def target_key(setting: Setting, words: Mapping[Place, Word], size: int = 0) -> tuple[object, ...]:
    """What `evaluate` can learn of everything that is said about the target and about pressure."""
    return (*_ready(setting, words), burst_key(setting, words, size))


def _ready(setting: Setting, words: Mapping[Place, Word]) -> tuple[object, ...]:
    """What `evaluate` can learn of the target, and what the claims look at: a check that is bad, one of which nothing
    is known, WAL that arrives. By which signal makes no difference.
    """
    inputs = setting.inputs(Situation(words))
    ready, arrives = readiness(inputs), (wal_still_arrives(inputs), wal_still_arrives(inputs, needed=False))
    facts: set[str] = set()
    for signal in setting.policy.signals:
        if signal.about == "target":
            told = (words.get((signal.name, vantage)) for vantage in signal.vantages or [STAND_IN])
            said = {means(signal, word) for word in told if word is not None}
            if not said - {CheckStatus.UNKNOWN}:
                facts.add("unknown")
            if (CheckStatus.OK if is_wal(signal) else CheckStatus.BAD) in said:
                facts.add("arrives" if is_wal(signal) else "bad")
    answer = (ready.asked, ready.bad is not None, ready.unknown is not None, ready.since_s)
    return (*answer, *arrives, frozenset(facts))


def target_classes(setting: Setting) -> list[Class]:
    """The classes of everything that is said about the target and about pressure, with each size of a burst."""
    loads = _load_classes(setting)
    joint: dict[object, Class] = {}
    for one, load in product(_checked_classes(setting), loads):
        words = {**one.words, **load.words}
        _counted(joint, target_key(setting, words, load.size), words, one.count * load.count, load.size)
    return list(joint.values())


def _load_classes(setting: Setting) -> list[Class]:
    """The classes of what is said about pressure, with each size, by what the real `burst` makes of it alone."""
    policy, sizes = setting.policy, sizes_of(setting.policy)
    signals = [signal for signal in policy.signals if signal.about == "pressure"]
    parts = [_of_signal(setting, signal) for signal in signals]
    if len(sizes) * prod(map(len, parts)) > CLASSES_MAX:
        raise TooLargeError(_names(signals, f"about pressure, and {len(sizes)} sizes of a burst"))
    rule = policy.burst and policy.burst.model_copy(update={"checks": []})
    only = Setting(policy.model_copy(update={"signals": signals, "burst": rule}))
    joint: dict[object, Class] = {}
    for combination in product(*parts):
        words, count = _joined(one.words for one in combination), prod(one.count for one in combination)
        for size in sizes:
            _counted(joint, (size, burst_key(only, words, size)), words, count, size)
    return list(joint.values())


def _checked_classes(setting: Setting) -> list[Class]:
    """The classes of what is said about the target, signal by signal; a check of a burst is looked at under pressure
    alone.
    """
    heard = [signal for signal in setting.policy.signals if signal.about == "pressure"]
    pressed = _all_bad(heard)
    looked: list[Signal] = []
    found = [Class({}, 1)]
    for signal in setting.policy.signals:
        if signal.about != "target":
            continue
        looked.append(signal)
        only, said = _only(setting, [*looked, *heard]), _of_signal(setting, signal)
        joint: dict[object, Class] = {}
        for before, one in product(found, said):
            words = {**before.words, **one.words}
            _counted(joint, target_key(only, {**pressed, **words}), words, before.count * one.count)
        found = list(joint.values())
    return found


def _all_bad(signals: Sequence[Signal]) -> dict[Place, Word]:
    return {(signal.name, vantage): Word.BAD for signal in signals for vantage in signal.vantages or [STAND_IN]}


def _names(signals: Sequence[Signal], what: str) -> str:
    return f"{len(signals)} signals ({', '.join(signal.name for signal in signals)}) {what}"


def hearing(setting: Setting, primary: Iterable[Class], target: Iterable[Class]) -> set[tuple[object, ...]]:
    """The keys of the classes about the primary with which the real `burst` has an answer for some load, anywhere."""
    loads = list({one.key[-1]: one for one in target if one.key[-1] not in ((), (None,))}.values())
    found = set()
    for one, load, mode in product(primary, loads, modes_of(setting.policy)):
        inputs = setting.inputs(Situation({**one.words, **load.words}, mode, size=load.size))
        if burst(inputs, votes_of(inputs)) is not None:
            found.add(one.key)
    return found


def without_load(target: Iterable[Class]) -> list[Class]:
    """The same classes where the load makes no difference."""
    joint: dict[object, Class] = {}
    for one in target:
        _counted(joint, one.key[:-1], one.words, one.count, one.size)
    return list(joint.values())


def _of_signal(setting: Setting, signal: Signal) -> list[Class]:
    """What one signal can say from all its vantage points, by what the real functions say of it alone."""
    places = [(signal.name, vantage) for vantage in signal.vantages or [STAND_IN]]
    rule = setting.policy.burst
    heard = [s for s in setting.policy.signals if s.about == "pressure"] if rule and signal.name in rule.checks else []
    only = _only(setting, [signal, *heard])  # a check of a burst is looked at under pressure alone
    beside = _all_bad([other for other in heard if other is not signal])
    choices = [(word, len(alike)) for word, alike in setting.words(signal, places[0][1]).items()]
    found: dict[object, Class] = {}
    for combination in combinations_with_replacement(choices, len(places)):
        said = [word for word, _ in combination]
        words = dict(zip(places, said, strict=True))
        learned = tuple(target_key(only, {**beside, **words}, size) for size in sizes_of(setting.policy))
        key = (learned, frozenset(means(signal, word) for word in said))
        _counted(found, key, words, prod(count for _, count in combination) * _orders(said))
    return list(found.values())


def _counted(
    found: dict[object, Class], key: tuple[object, ...], words: Mapping[Place, Word], count: int, size: int = 0
) -> None:
    """The first of a class stands for all of it."""
    before = found.get(key)
    first = (before.words, before.size) if before else (words, size)
    found[key] = Class(first[0], count + (before.count if before else 0), key, size=first[1])


def _only(setting: Setting, signals: Sequence[Signal]) -> Setting:
    """The policy as if it had only these signals; what the real functions say of them alone."""
    return Setting(setting.policy.model_copy(update={"signals": list(signals)}))


def _looks(policy: ServicePolicy, vantage: str) -> tuple[str, ...]:
    return tuple(s.name for s in policy.signals if s.about == "primary" and vantage in s.vantages)


def _alike(classes: Sequence[Class], vantages: Sequence[str]) -> Iterator[Class]:
    """Classes of several vantage points that may change places: of every selection, one order."""
    for chosen in combinations_with_replacement(range(len(classes)), len(vantages)):
        picked = [classes[index] for index in chosen]
        words = _joined(_moved(one.words, vantage) for one, vantage in zip(picked, vantages, strict=True))
        yield Class(words, prod(one.count for one in picked) * _orders(chosen))


def _moved(words: Mapping[Place, Word], vantage: str) -> dict[Place, Word]:
    return {(name, vantage): word for (name, _), word in words.items()}


def _joined(parts: Iterable[Mapping[Place, Word]]) -> dict[Place, Word]:
    return {place: word for part in parts for place, word in part.items()}


def _orders(chosen: Sequence[object]) -> int:
    """In how many orders a selection can stand."""
    same = [len(list(group)) for _, group in groupby(chosen)]
    return factorial(len(chosen)) // prod(map(factorial, same))


def _extremes(same: Sequence[Class], key: tuple[object, ...]) -> list[Class]:
    """Of classes with one key: those that pull least and most; the one that pulls least stands for the rest."""
    low, high = min(same, key=lambda one: one.pull), max(same, key=lambda one: one.pull)
    total = sum(one.count for one in same)
    if low.pull == high.pull:
        return [Class(low.words, total, key, low.pull)]
    return [
        Class(low.words, total - high.count, key, low.pull),
        Class(high.words, high.count, key, high.pull),
    ]
