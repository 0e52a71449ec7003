"""Moving all records of a loop from one place to another, byte for byte, so that at no moment both are used (LOOP-3).

The target is closed before anything is written there and opened last of all; the source is closed when everything was
compared. So between any two steps a stage that starts finds the one place that is complete and open, or is told to
finish the move; and a move that was killed is finished by giving the same command again: what is there is not written
twice, and what stands is never changed.

Who moves back finds a closed copy of the day on which the records left. What was removed at the source since then still
lies in it, and nobody else would ever mend that: where its sign says that it is a copy of this source, what it has
beside the source's is moved aside and named. That many at once, or all of them, are no removals by hand but the wrong
source: then a person says so first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hyops.errors import Effect, NotVerifiedError, PrerequisiteError
from hyops.ports.moves import Held, Kind, RecordPlace

ASIDE_MAX = 16  # records that somebody removed by hand since the last move; a store that lost its records lacks more


@dataclass
class Moved:
    """What a move did. `kinds`: kind -> records and slots that are there now, and how many of them this call wrote."""

    source: str
    target: str
    already: bool = False
    kinds: dict[Kind, tuple[int, int, int]] = field(default_factory=dict)
    left: dict[Kind, dict[str, str]] = field(default_factory=dict)
    """What lies at the source and is no record: it stays there."""
    aside: dict[Kind, dict[str, str]] = field(default_factory=dict)
    """What only the target had: record, or `slot <slot>`, -> where it is now."""


def move(
    source: RecordPlace,
    target: RecordPlace,
    say: Callable[[str], None] = lambda _: None,
    *,
    aside_max: int | None = None,
) -> Moved:
    """Copy, compare, close the source, open the target; nothing is copied while a stage runs on either side.

    Args:
        source: where the records are. target: where they shall be. say: told of each kind that is copied.
        aside_max: how many records of a closed copy may be moved aside; None: a few, and none where the source is
            empty.
    Raises:
        PrerequisiteError: a stage runs, the target is in use or has what the source has not; nothing was touched.
        RecordError: the target has another record under an id. NotVerifiedError: the two sides are not alike.
    """
    moved = Moved(source.name, target.name)
    ours = target.closed() is None
    if ours and source.closed() is not None:
        moved.already = True
        moved.kinds = {kind: (len(held.records), len(held.slots), 0) for kind, held in _all(target).items()}
        return moved
    _nobody_serves(source)
    _nobody_serves(target)
    if ours:
        if there := {kind: held for kind, held in _all(target).items() if held.records}:
            count = sum(len(held.records) for held in there.values())
            raise PrerequisiteError(
                f"{target.name}: has {count} records already, and no sign that they were moved away: both places are "
                "in use, or the direction is wrong; nothing was touched",
                hint=f"see which side the stages are configured for; `--from` names that one, now {source.name}",
            )
        target.close(f"the records of this loop are being moved here from {source.name}")
    try:
        with source.quiet():
            _clear(source, target, moved, aside_max)
            _copy(source, target, moved, say)
            _compare(source, target, untouched=not ours and not moved.aside and not _written(moved))
            _remember(source, target)
            source.close(f"the records of this loop are in {target.name}")
    except PrerequisiteError:
        if ours and not any(held.records for held in _all(target).values()):
            target.open()  # refused before anything was written: as it was
        raise
    target.open()
    return moved


def _nobody_serves(place: RecordPlace) -> None:
    if who := place.serving():
        raise PrerequisiteError(
            f"{place.name}: still running: {', '.join(who)}; nothing was touched",
            hint="stop the services of all four stages on every control host, then give this command again; a host "
            "that died is forgotten within a quarter of a minute",
        )


def _all(place: RecordPlace) -> dict[Kind, Held]:
    return {kind: place.held(kind) for kind in place.kinds()}


def _copy(source: RecordPlace, target: RecordPlace, moved: Moved, say: Callable[[str], None]) -> None:
    for kind in source.kinds():
        held, there, written = source.held(kind), target.held(kind), 0
        slot_of = {record_id: slot for slot, record_id in held.slots.items()}
        for record_id, data in held.records.items():
            slot = slot_of.get(record_id)
            if there.records.get(record_id) == data and (slot is None or there.slots.get(slot) == record_id):
                continue
            written += target.add(kind, record_id, data, slot)
        moved.kinds[kind] = (len(held.records), len(held.slots), written)
        if held.faults:
            moved.left[kind] = held.faults
        say(f"{kind[0]}/{kind[1]}: {len(held.records)} records, {len(held.slots)} slots; {written} written")


def _written(moved: Moved) -> int:
    return sum(written for _, _, written in moved.kinds.values())


def _clear(source: RecordPlace, target: RecordPlace, moved: Moved, aside_max: int | None) -> None:
    """Move aside what the closed target has and the source has not, where that is known to be old."""
    found = {kind: odd for kind in sorted({*source.kinds(), *target.kinds()}) if (odd := _odd(kind, source, target))}
    places = [target.where(kind, name) for kind, odd in found.items() for name in odd.records or odd.slots]
    if not found:
        return
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    copies = {f"the records of this loop are {how} {source.name}" for how in ("in", "being moved here from")}
    damaged = next((source.where(kind, name) for kind, odd in found.items() for name in odd.damaged), None)
    if damaged is not None or not target.signs() <= copies:
        why = (
            f"and {damaged} is damaged" if damaged else f"and its sign does not say that it is a copy of {source.name}"
        )
        raise PrerequisiteError(
            f"{target.name}: {places[0]}{more} is not as in {source.name}, {why}; nothing was touched",
            hint=f"see which of the two counts. If {target.name} does, move in the other direction; if {source.name} "
            "does, keep what is named elsewhere, remove it there, and give the command again",
        )
    count = sum(len(odd.records) for odd in found.values())
    empty = not any(held.records for held in _all(source).values())
    if count > ((0 if empty else ASIDE_MAX) if aside_max is None else aside_max):
        raise PrerequisiteError(
            f"{source.name} has {'no record at all' if empty else f'{count} records less'}, and {target.name} has "
            f"{places[0]}{more}; nothing was touched",
            hint=f"see that this is the right {source.name}, and that it has not lost its records (else restore it); "
            f"if they were removed on purpose, `--aside-max {count}` moves them aside",
        )
    for kind, odd in found.items():
        moved.aside[kind] = target.set_aside(kind, odd.records, odd.slots)


@dataclass(frozen=True)
class _Odd:
    """Of one kind, what stands in the way at the target; `damaged`: of these, what the source has and cannot read."""

    records: list[str]
    slots: list[str]
    damaged: list[str]

    def __bool__(self) -> bool:
        return bool(self.records or self.slots)


def _odd(kind: Kind, source: RecordPlace, target: RecordPlace) -> _Odd:
    here, there = source.held(kind), target.held(kind)
    slots = [slot for slot, holder in there.slots.items() if here.slots.get(slot) != holder]
    bare = {holder for slot, holder in here.slots.items() if there.slots.get(slot) != holder}
    records = [name for name, data in there.records.items() if here.records.get(name) != data or name in bare]
    records += [name for name in here.records if _faulty(name, there)]
    return _Odd(sorted(records), sorted(slots), sorted(name for name in records if _faulty(name, here)))


def _faulty(name: str, held: Held) -> bool:
    return name in held.faults or f"{name}.json" in held.faults


def _compare(source: RecordPlace, target: RecordPlace, *, untouched: bool) -> None:
    """Every byte and every slot, both ways."""
    for kind in sorted({*source.kinds(), *target.kinds()}):
        here, there = source.held(kind), target.held(kind)
        unlike = [f"record {name}" for name in _unlike(here.records, there.records)]
        unlike += [f"slot {name}" for name in _unlike(here.slots, there.slots)]
        if unlike:
            raise NotVerifiedError(
                f"{kind[0]}/{kind[1]}: {unlike[0]} is not the same in {source.name} and {target.name}"
                + (f", nor are {len(unlike) - 1} more" if len(unlike) > 1 else ""),
                hint=f"{source.name} is in use as before and {target.name} stays closed; give the command again, and "
                f"where it says the same look at {target.where(kind, unlike[0].partition(' ')[2])}",
                effect=Effect.NONE if untouched else None,
            )


def _remember(source: RecordPlace, target: RecordPlace) -> None:
    """Without it an epoch is handed out twice, or a run is believed never to have been started."""
    known = source.remembered()
    target.remember(known)
    there = target.remembered()
    if there.epoch < known.epoch or not known.sent <= there.sent:
        raise NotVerifiedError(
            f"{target.name}: does not know all that the executors of {source.name} remember: epoch {there.epoch} of "
            f"{known.epoch}, {len(known.sent - there.sent)} marks are missing",
            hint="both places are left as they are, and a closed one stays closed; give the command again",
        )


def _unlike(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    return sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
