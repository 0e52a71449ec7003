"""Moving all records of a loop from one place to another, byte for byte, so that at no moment both are used (LOOP-3).

The target is closed before anything is written there and opened last of all; the source is closed when everything was
compared. So between any two steps a stage that starts finds the one place that is complete and open, or is told to
finish the move; and a move that was killed is finished by giving the same command again: what is there is not written
twice, and what stands is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hyops.errors import NotVerifiedError, PrerequisiteError
from hyops.ports.moves import Held, Kind, RecordPlace


@dataclass
class Moved:
    """What a move did. `kinds`: kind -> records and slots that are there now, and how many of them this call wrote."""

    source: str
    target: str
    already: bool = False
    kinds: dict[Kind, tuple[int, int, int]] = field(default_factory=dict)
    left: dict[Kind, dict[str, str]] = field(default_factory=dict)
    """What lies at the source and is no record: it stays there."""


def move(source: RecordPlace, target: RecordPlace, say: Callable[[str], None] = lambda _: None) -> Moved:
    """Copy, compare, close the source, open the target; nothing is copied while a stage runs on either side.

    Raises:
        PrerequisiteError: a stage runs, or the target is in use; nothing was touched.
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
            _copy(source, target, moved, say)
            _compare(source, target)
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


def _compare(source: RecordPlace, target: RecordPlace) -> None:
    """Every byte and every slot, both ways."""
    for kind in sorted({*source.kinds(), *target.kinds()}):
        here, there = source.held(kind), target.held(kind)
        unlike = [f"record {name}" for name in _unlike(here.records, there.records)]
        unlike += [f"slot {name}" for name in _unlike(here.slots, there.slots)]
        if unlike:
            raise NotVerifiedError(
                f"{kind[0]}/{kind[1]}: {unlike[0]} is not the same in {source.name} and {target.name}"
                + (f", nor are {len(unlike) - 1} more" if len(unlike) > 1 else ""),
                hint="both places are left as they are, and a closed one stays closed; a record that only the target "
                "has means that the other direction is the right one",
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
