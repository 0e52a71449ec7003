"""The whole table: every class of situations, evaluated by the real `evaluate` (DEC-4, DEC-5)."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from hyops.control import decision
from hyops.control.decision import Emission
from hyops.control.proof.classes import (
    Class,
    hearing,
    primary_classes,
    primary_key,
    target_classes,
    target_key,
    without_load,
)
from hyops.control.proof.situation import (
    BLOCKS,
    BURSTING,
    SWITCH_WAITS,
    Place,
    Setting,
    Situation,
    Word,
    modes_of,
    places_of,
    sizes_of,
)
from hyops.model.observed import Past
from hyops.model.vocabulary import DecisionType, DrMode

SAMPLES, SEED = 75, 20_260_101
SWITCHES = (DecisionType.FAILOVER, DecisionType.FAILBACK)
MOVES = {*SWITCHES, DecisionType.BURST}


@dataclass(frozen=True)
class Row:
    """One class of situations and what follows from it; `count` situations are like it."""

    situation: Situation
    emission: Emission | None
    count: int

    @property
    def verdict(self) -> str:
        """The decision in a word: its type, with what makes it another one."""
        if self.emission is None:
            return "nothing"
        made = self.emission.decision
        if made.decision_type is DecisionType.HOLD:
            return f"hold ({self.emission.slot.rsplit('-', 1)[0].partition('-hold-')[2] or 'other'})"
        what = f"{made.decision_type} {made.scaling.direction}" if made.scaling else str(made.decision_type)
        return f"{'deny ' if made.dr_mode is DrMode.DENY else ''}{what} ({made.level}, {made.occasion})"


def acts(emission: Emission | None) -> bool:
    """Whether the decision asks for something to be done."""
    if emission is None or emission.decision.decision_type not in MOVES:
        return False
    return emission.decision.dr_mode is not DrMode.DENY


@dataclass(frozen=True)
class Table:
    """All rows. `situations`: how many there are in all. `odd`: drawn ones that are not like their class."""

    rows: list[Row]
    situations: int
    sampled: int
    odd: list[Row]


def table_of(setting: Setting) -> Table:
    """Evaluate every class of situations, and compare it with some that are drawn from the unreduced product."""
    primary, target = primary_classes(setting), target_classes(setting)
    heard = hearing(setting, primary, target)
    rows = list(_rows(setting, primary, target, heard))
    moves: dict[object, set[str]] = {}
    for row, key in rows:
        moves.setdefault(key, set()).add(_move(row))
    made = [row for row, _ in rows]
    drawn = [*sampled(setting), *respelled(setting, [row for row in made if row.count and acts(row.emission)])]
    odd = [row for row in drawn if _move(row) not in moves.get(_key(setting, row.situation, heard), ())]
    return Table([*made, *drawn], sum(row.count for row in made), len(drawn), odd)


def _move(row: Row) -> str:
    """What is asked for; that two rows hold for different reasons is no difference."""
    return row.verdict if acts(row.emission) else "no action"


def _key(setting: Setting, situation: Situation, heard: Collection[object]) -> object:
    about = {signal.name: signal.about for signal in setting.policy.signals}
    primary = {place: word for place, word in situation.words.items() if about[place[0]] == "primary"}
    target = {place: word for place, word in situation.words.items() if about[place[0]] != "primary"}
    of_primary, of_target = primary_key(setting, primary)[0], target_key(setting, target, situation.size)
    of_target = of_target if of_primary in heard else of_target[:-1]
    return (of_primary, of_target, situation.mode, situation.block)


def _rows(
    setting: Setting, primary: Sequence[Class], target: Sequence[Class], heard: Collection[object]
) -> Iterator[tuple[Row, object]]:
    modes, blocks = list(modes_of(setting.policy)), ("none", *BLOCKS, *([BURSTING] if setting.policy.burst else []))
    unloaded = without_load(target)
    pairs = ((one, other) for one in primary for other in (target if one.key in heard else unloaded))
    for one, other in pairs:
        words, count = {**one.words, **other.words}, one.count * other.count
        for mode, block in product(modes, blocks):
            row = row_of(setting, Situation(words, mode, block, size=other.size), count)
            yield row, (one.key, other.key, mode, block)
            if acts(row.emission) and block == "none":
                for later in again(setting, row):
                    yield later, None


def row_of(setting: Setting, situation: Situation, count: int) -> Row:
    """What is decided in one situation."""
    return Row(situation, decision.evaluate(setting.inputs(situation)), count)


def again(setting: Setting, row: Row) -> Iterator[Row]:
    """The same situation once its decision has been made: it stands, or its run has only just ended."""
    assert row.emission is not None
    made = row.emission.decision
    _, key = decision.place_of(made)
    past = Past(decision_id=made.decision_id, decision_type=made.decision_type, ordinal=1, age_s=0.5, reason_key=key)
    for block, changes in PASTS.items():
        later = replace(row.situation, block=block, past=[past.model_copy(update=changes)])
        yield row_of(setting, later, 0)
    if made.decision_type is DecisionType.BURST:
        moves = (past.model_copy(update={"decision_type": kind, "reason_key": None}) for kind in SWITCHES)
        for move in moves:
            yield row_of(setting, replace(row.situation, block=SWITCH_WAITS, past=[move]), 0)


PASTS: dict[str, dict[str, object]] = {
    "decided": {},
    "just failed": {"closed": "failed", "closed_age_s": 0.0},
}
"""What has become of a decision that was made in this very situation."""


def sampled(setting: Setting, many: int = SAMPLES) -> Iterator[Row]:
    """Situations out of the whole product, nothing reduced; always the same ones."""
    draw = random.Random(SEED)  # noqa: S311  # no secret: the same table every time
    places, modes = places_of(setting.policy), list(modes_of(setting.policy))
    for _ in range(many):
        often = draw.choice([(Word.BAD, Word.OK), (Word.BAD, Word.ERROR), (Word.OK, Word.BACK)])
        words: dict[Place, Word] = {}
        for signal, vantage in places:
            words[signal.name, vantage] = draw.choice([*often, *often, draw.choice(list(Word))])
        mode, block = draw.choice(modes), draw.choice(["none", "none", *BLOCKS])
        yield row_of(setting, Situation(words, mode, block, size=draw.choice(sizes_of(setting.policy))), 0)


def respelled(setting: Setting, rows: Sequence[Row]) -> Iterator[Row]:
    """Situations in which something is done, with other words that the window takes for the same."""
    draw = random.Random(SEED)  # noqa: S311  # as above
    signals = {signal.name: signal for signal in setting.policy.signals}
    for row in draw.choices(rows, k=2 * SAMPLES if rows else 0):  # few rows have many spellings
        words: dict[Place, Word] = {}
        for (name, vantage), word in row.situation.words.items():
            alike = setting.words(signals[name], vantage).get(word, [word])
            words[name, vantage] = draw.choice(alike)
        yield row_of(setting, Situation(words, row.situation.mode, size=row.situation.size), 0)
