"""The records of one store, as little of each as somebody needs: a look costs what is new, however many there are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from hyops.errors import RecordError

T = TypeVar("T")


class Readable(Protocol):
    """The part of a record store that is read here (see `ports.records`)."""

    def changed(self, since: int) -> tuple[int, list[str]]:
        """A mark for the next call, and the ids that came, changed or went after the mark `since`."""

    def read(self, record_id: str) -> bytes:
        """The bytes; raises KeyError when there is no such record."""


class OneLook:
    """A store as of the first look at it, for a command that asks several things: it is listed once."""

    def __init__(self, store: Readable) -> None:
        self._store = store
        self._found: tuple[int, list[str]] | None = None

    def changed(self, since: int) -> tuple[int, list[str]]:
        """What there was at the first look; nothing comes after it."""
        if self._found is None:
            self._found = self._store.changed(0)
        mark, names = self._found
        return mark, [] if since else names

    def read(self, record_id: str) -> bytes:
        """The bytes; raises KeyError when there is no such record."""
        return self._store.read(record_id)


@dataclass
class Seen(Generic[T]):
    """`pick` is given a name and its bytes; None, or an error that such bytes cause, is nothing to keep."""

    store: Readable
    pick: Callable[[str, bytes], T | None]
    found: dict[str, T] = field(default_factory=dict)
    mark: int = 0
    again: set[str] = field(default_factory=set)
    """What is new and could not be read: it is asked for again, however often."""

    def refresh(self) -> dict[str, T]:
        """Name -> what was picked; PrerequisiteError when the store cannot be read."""
        self.mark, names = self.store.changed(self.mark)
        self.again |= {*names}
        for name in sorted(self.again):
            self.found.pop(name, None)
            try:
                data = self.store.read(name)
            except KeyError:
                self.again.discard(name)  # gone
                continue
            except RecordError:
                continue  # nobody can read it now
            self.again.discard(name)
            with contextlib.suppress(
                RecordError, KeyError, ValueError, AttributeError, TypeError, RecursionError, OverflowError
            ):  # no record: the stage that reads it says so
                if (picked := self.pick(name, data)) is not None:
                    self.found[name] = picked
        return self.found
