"""The records of a loop in files below the stages' homes, as a move sees them (see `ports.moves`)."""

from __future__ import annotations

import fcntl
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hyops.adapters import store_moved
from hyops.adapters.listing import SUFFIX
from hyops.adapters.starts_files import FileStarts
from hyops.adapters.store_files import LOCK_RETRY_S, LOCK_WAIT_S, FileRecordStore
from hyops.errors import PrerequisiteError, RecordError
from hyops.ownership import as_owner, make_folder, open_lock
from hyops.ports.moves import Held, Kind
from hyops.ports.starts import Remembered

ASIDE, SLOTS = ".aside", ".slots"


class FilePlace:
    """`homes`: stage -> folder. A folder of records is one that has `.slots`; others below `state` are none.

    `kinds`: stage -> folders that may have records which somebody put there by hand, and no `.slots` therefore.
    """

    name = "files"

    def __init__(self, homes: Mapping[str, str], kinds: Mapping[str, Sequence[str]] | None = None) -> None:
        self._known = kinds or {}
        self._states = {stage: Path(home) / "state" for stage, home in sorted(homes.items())}

    def closed(self) -> str | None:
        """The sign below any of the homes."""
        return next((words for state in self._states.values() if (words := store_moved.moved(state)) is not None), None)

    def signs(self) -> set[str | None]:
        """Below each of the homes."""
        return {store_moved.moved(state) for state in self._states.values()}

    def close(self, words: str) -> None:
        """Below every home."""
        for state in self._states.values():
            with _told(state):
                store_moved.sign(state, words)

    def open(self) -> None:
        """Everywhere."""
        for state in self._states.values():
            with _told(state):
                store_moved.unsign(state)

    def serving(self) -> list[str]:
        """The homes whose lock a running stage shares."""
        found = []
        for stage, state in self._states.items():
            try:
                with _told(state), store_moved.serving(state, alone=True):
                    pass
            except store_moved.ServingError:
                found.append(f"{stage} ({state.parent})")
        return found

    def served(self) -> list[str]:
        """The stages that run, for whoever only looks: it keeps none from starting, and makes nothing."""
        found = []
        for stage, state in self._states.items():
            with _told(state):
                if store_moved.is_served(state):
                    found.append(stage)
        return found

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Every home to this process alone, and the writers' lock of every kind."""
        with ExitStack() as stack:
            for state in self._states.values():
                with _told(state):
                    stack.enter_context(store_moved.serving(state, alone=True))
            for kind in self.kinds():
                folder = self._folder(kind)
                FileRecordStore(folder).ids()  # what a dead writer had begun is finished before
                stack.enter_context(_locked(folder))
            yield

    def kinds(self) -> list[Kind]:
        """Those with slots, and those with a record."""
        found: set[Kind] = set()
        for stage, state in self._states.items():
            if state.is_dir():
                found |= {(stage, f.name) for f in state.iterdir() if (f / ".slots").is_dir()}
            found |= {(stage, kind) for kind in self._known.get(stage, ()) if any((state / kind).glob("*.json"))}
        return sorted(found)

    def held(self, kind: Kind) -> Held:
        """Read from disk."""
        folder = self._folder(kind)
        store, slots = FileRecordStore(folder), {}
        records = {record_id: store.read(record_id) for record_id in store.ids()}
        if (folder / ".slots").is_dir():
            for entry in os.scandir(folder / ".slots"):
                if entry.is_symlink() and (holder := store.slot(entry.name)) is not None:
                    slots[entry.name] = holder
        return Held(records, slots, store.faults())

    def add(self, kind: Kind, record_id: str, data: bytes, slot: str | None) -> bool:
        """As a stage would."""
        made = FileRecordStore(self._folder(kind), moving=True).create(record_id, data, slot=slot)
        if made.record_id != record_id:
            raise RecordError(f"{self._folder(kind)}: slot {slot} is held by {made.record_id}, not by {record_id}")
        return made.made

    def where(self, kind: Kind, record_id: str) -> str:
        """Its file."""
        return str(self._folder(kind) / f"{record_id}{SUFFIX}")

    def set_aside(self, kind: Kind, records: Sequence[str], slots: Sequence[str]) -> dict[str, str]:
        """Into `state/.aside/<kind>`, where nobody looks for records. A slot goes first: one without holder is free."""
        folder, state = self._folder(kind), self._states[kind[0]]
        aside = state / ASIDE / kind[1]
        with _told(state), as_owner(state):
            make_folder(aside / SLOTS, 0o750)
            gone = {f"slot {slot}": _moved(folder / SLOTS / slot, aside / SLOTS) for slot in slots}
            gone |= {name: _moved(folder / f"{name}{SUFFIX}", aside) for name in records}
            for changed in (aside / SLOTS, aside, folder / SLOTS, folder):
                if changed.is_dir():
                    store_moved.sync(changed)
        return gone

    def remembered(self) -> Remembered:
        """Of the executor's folder on this host."""
        return FileStarts(self._states["execution"] / "starts").remembered()

    def remember(self, known: Remembered) -> None:
        """Marks, and a number that is not lower; a place without any is left without any."""
        if known.epoch or known.sent:
            FileStarts(self._states["execution"] / "starts").remember(known)

    def _folder(self, kind: Kind) -> Path:
        return self._states[kind[0]] / kind[1]


def _moved(file: Path, aside: Path) -> str:
    """Rename it to a name that nothing has there yet: what is aside is never written over."""
    names = (f"{file.name}{f'~{number}' if number else ''}" for number in itertools.count())
    place = next(aside / name for name in names if not os.path.lexists(aside / name))
    os.rename(file, place)
    return str(place)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The writers' own lock; its text stays, so that what a dead one left is still settled by the next."""
    fd = open_lock(folder / ".lock", 0o640)
    try:
        give_up = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise PrerequisiteError(f"{folder}: another writer holds the lock", hint="stop it first") from None
                time.sleep(LOCK_RETRY_S)
        yield
    finally:
        os.close(fd)


@contextmanager
def _told(state: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise PrerequisiteError(
            f"{exc.filename or state}: {exc.strerror}", hint="a move runs as root, or as the owner of all four homes"
        ) from exc
