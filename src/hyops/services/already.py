"""Which records of its own a stage has made already, told by their ids where a slot does not tell (LOOP-1).

The slot of a record is the rule: it holds for any number of writers at once. But records that were brought back without
their slots (`cp *.json`) are records all the same, and an id ends with eight hex digits of what it answers. So a stage
that finds a slot empty looks at the endings before it writes a second time, and believes what it signed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Generic, TypeVar

from hyops.errors import RecordError
from hyops.model.base import Record
from hyops.model.dsse import verify_record
from hyops.ports.records import RecordStore
from hyops.ports.signer import Verifier

R = TypeVar("R", bound=Record)


class Already(Generic[R]):
    """The records of one store by the ending of their ids. `role` is what their signer must be allowed to speak for."""

    def __init__(self, store: RecordStore, kind: type[R], verifier: Verifier, role: str) -> None:
        self._store, self._kind, self._verifier, self._role = store, kind, verifier, role
        self._by: defaultdict[str, set[str]] = defaultdict(set)
        self._mark = 0

    def refresh(self) -> None:
        """Take in the names that are new."""
        self._mark, names = self._store.changed(self._mark)
        for name in names:
            self._by[_ending(name)].add(name)

    def made(self, like: str, fits: Callable[[R], bool]) -> str | None:
        """The id of one that fits, which is of another time than `like` at most; None when there is none."""
        for name in sorted(self._by.get(_ending(like), ())):
            try:
                record = self._kind.read(self._store.read(name), source=name)
                keyid = verify_record(record, self._verifier)
            except (KeyError, RecordError):
                continue  # gone, damaged or a stranger's: nothing was made
            if record.record_id == name and self._role in self._verifier.roles(keyid) and fits(record):
                return name
        return None


def _ending(name: str) -> str:
    """All but the time of a derived id: `<prefix>-<token>-<8 hex>`."""
    prefix, _, rest = name.partition("-")
    return f"{prefix}-{rest.partition('-')[2]}"
