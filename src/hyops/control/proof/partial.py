"""What is looked at of a policy whose table is too large to be complete: a part, always the same one (DEC-4).

It proves nothing, and `table/too-large` says so; but what it shows is as wrong as what a whole table shows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import product

from hyops.control.checks import is_wal
from hyops.control.proof.places import lost, sites_of
from hyops.control.proof.situation import (
    BLOCKS,
    BURSTING,
    Setting,
    Situation,
    Word,
    look_of,
    modes_of,
    places_of,
    sizes_of,
)
from hyops.control.proof.table import Table, acts, again, respelled, row_of, sampled
from hyops.model.policy import ServicePolicy

DRAWN = 4000
"""Situations out of the whole product; a second or two."""


def part_of(setting: Setting) -> Table:
    """What `_starts` and `_told` say, with every mode and with everything that may stand in the way; of `_starts` also
    with every other word of any one signal; then many that are drawn.
    """
    rows = [row_of(setting, one, 0) for one in _near(setting)]
    rows += sampled(setting, DRAWN)
    moved = [row for row in rows if acts(row.emission) and row.situation.block == "none"]
    rows += [later for row in moved for later in again(setting, row)]
    rows += respelled(setting, moved)
    return Table(rows, 0, len(rows), [])


def _near(setting: Setting) -> Iterator[Situation]:
    policy = setting.policy
    signals = {signal.name: signal for signal in policy.signals}
    blocks = [*BLOCKS, *([BURSTING] if policy.burst is not None else [])]
    starts = list(_starts(setting))
    for start, mode in product([*(one for one, _ in starts), *_told(policy)], modes_of(policy)):
        yield from (replace(start, mode=mode, block=block) for block in blocks)
        yield from (replace(start, mode=mode, size=size) for size in sizes_of(policy))
    for (start, sizes), mode in product(starts, modes_of(policy)):
        for (name, vantage), said in start.words.items():
            others = (word for word in setting.words(signals[name], vantage) if word is not said)
            for word, size in product(others, sizes):
                yield replace(start, words={**start.words, (name, vantage): word}, mode=mode, size=size)


def _starts(setting: Setting) -> Iterator[tuple[Situation, range]]:
    """All is well, there is load, the primary is lost for everyone, or one site is lost; with the sizes of a burst that
    make a difference there.
    """
    policy, sites = setting.policy, sites_of(setting.policy)
    well = {(signal.name, vantage): Word.OK for signal, vantage in places_of(policy)}
    load = {(signal.name, at): Word.BAD for signal, at in places_of(policy) if signal.about == "pressure"}
    yield Situation(well), sizes_of(policy)
    if load:
        yield Situation({**well, **load}), sizes_of(policy)
    yield _primary_is(policy, Word.BAD), range(1)
    for member in policy.members:
        yield lost(policy, member, sites), range(1)


def _told(policy: ServicePolicy) -> Iterator[Situation]:
    """What alone moves no service: a loss that is no certain one, that one vantage point has, or that one signal or one
    look tells; the others are well, or say nothing.
    """
    vantages = sorted({vantage for signal in policy.signals for vantage in signal.vantages})
    told = [signal for signal in policy.signals if signal.about == "primary"]
    alike = {look: {signal.name for signal in told if look_of(signal) == look} for look in map(look_of, told)}
    for word in Word:
        yield _primary_is(policy, word)
    for rest in (Word.OK, Word.ERROR):
        for vantage in vantages:
            yield _primary_is(policy, Word.BAD, rest, at=vantage)
        for names in (*({signal.name} for signal in told), *alike.values()):
            yield _primary_is(policy, Word.BAD, rest, by=names)


def _primary_is(
    policy: ServicePolicy, word: Word, rest: Word = Word.OK, *, at: str | None = None, by: Collection[str] = ()
) -> Situation:
    """This is said of the primary, by all or by one; WAL has stopped, and the target is well."""
    words = {}
    for signal, vantage in places_of(policy):
        if signal.about == "primary":
            told = word if at in (None, vantage) and (not by or signal.name in by) else rest
        else:
            told = Word.BAD if is_wal(signal) else Word.OK
        words[signal.name, vantage] = told
    return Situation(words)
