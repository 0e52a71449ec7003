"""What is known of one kind of record in etcd, from reads and events alone: no network here.

An entry is replaced or dropped only by what etcd did later than what is known, so that a reload, an event and what this
process has just written itself may come in any order. `complete` is the revision up to which nothing is missing.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from hyops.adapters.etcd_records_keys import MARK, SLOTS, Kept
from hyops.adapters.listing import NAME, check_document
from hyops.errors import RecordError
from hyops.model.canonical import BYTES_MAX

VALUES_BYTES_MAX = 32 * 1024 * 1024


class Mirror:
    """Names, slots and faults; the values too, as far as they fit. Used by the stage's thread and by etcd's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revisions: dict[str, int] = {}  # name below the prefix -> revision of its last change
        self._ids: list[str] = []
        self._slots: dict[str, str] = {}
        self._faults: dict[str, str] = {}
        self._log: list[str] = []
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._values_bytes = 0
        self.complete = 0

    def changed(self, since: int) -> tuple[int, list[str]]:
        """A mark for the next call, and the ids that came, changed or went since."""
        with self._lock:
            return len(self._log), self._log[since:]

    def ids(self) -> list[str]:
        """Of complete records, sorted."""
        with self._lock:
            return list(self._ids)

    def present(self, names: Iterable[str]) -> list[str]:
        """Those of them that are records now, sorted, each once."""
        with self._lock:
            return sorted({n for n in names if n in self._revisions and n not in self._faults})

    def faults(self) -> dict[str, str]:
        """Name -> why it is not a record."""
        with self._lock:
            return dict(sorted(self._faults.items()))

    def value(self, record_id: str) -> bytes | None:
        """The bytes of a record, where they are still at hand."""
        with self._lock:
            return self._values.get(record_id) if record_id in self._revisions else None

    def holder(self, slot: str) -> str | None:
        """The record that holds a slot, as far as is known."""
        with self._lock:
            record_id = self._slots.get(slot)
            return record_id if record_id in self._revisions else None

    def slots(self) -> dict[str, str]:
        """Slot -> the record that holds it, of those that are there."""
        with self._lock:
            return {slot: holder for slot, holder in self._slots.items() if holder in self._revisions}

    def unknown(self, there: Mapping[str, int]) -> list[str]:
        """Which of these names, at these revisions, have to be read."""
        with self._lock:
            return [name for name, revision in there.items() if self._revisions.get(name, 0) < revision]

    def agrees(self, mark: int, count: int | None, revision: int) -> bool:
        """Whether nothing is missing up to `revision`, at which etcd had this mark and this many keys.

        `count` None, it was not counted: whether no creation is missing, which the mark tells.
        """
        with self._lock:
            alike = self._revisions.get(MARK, 0) == mark and count in (None, len(self._revisions))
            if alike and count is not None:
                self.complete = max(self.complete, revision)
            return alike or self.complete >= revision

    def put(self, name: str, kept: Kept) -> bool:
        """Take in one key; False when something later is known already."""
        with self._lock:
            if self._revisions.get(name, 0) >= kept.changed:
                return False
            self._forget(name)
            self._revisions[name] = kept.changed
            if name.startswith(SLOTS):
                self._slots[name.removeprefix(SLOTS)] = kept.value.decode(errors="backslashreplace")
            elif name != MARK:
                self._take(name, kept.value)
            return True

    def drop(self, name: str, revision: int) -> bool:
        """It was deleted at `revision`."""
        with self._lock:
            if not 0 < self._revisions.get(name, 0) <= revision:
                return False
            self._forget(name)
            return True

    def keep_only(self, there: Mapping[str, int], revision: int) -> None:
        """These are all the names that there were at `revision`."""
        with self._lock:
            for name in [n for n, changed in self._revisions.items() if n not in there and changed <= revision]:
                self._forget(name)

    def reset(self) -> None:
        """The store is another one than before (restored from a snapshot): nothing that was known counts."""
        with self._lock:
            for name in list(self._revisions):
                self._forget(name)
            self.complete = 0

    def _take(self, name: str, value: bytes) -> None:
        fault = _fault(name, value)
        if fault is not None:
            self._faults[name] = fault
            return
        bisect.insort(self._ids, name)
        self._log.append(name)
        self._values[name] = value
        self._values_bytes += len(value)
        while self._values_bytes > VALUES_BYTES_MAX:
            self._values_bytes -= len(self._values.popitem(last=False)[1])

    def _forget(self, name: str) -> None:
        if self._revisions.pop(name, None) is None:
            return
        self._faults.pop(name, None)
        self._slots.pop(name.removeprefix(SLOTS), None) if name.startswith(SLOTS) else None
        self._values_bytes -= len(self._values.pop(name, b""))
        at = bisect.bisect_left(self._ids, name)
        if self._ids[at : at + 1] == [name]:
            del self._ids[at]
            self._log.append(name)


def _fault(name: str, value: bytes) -> str | None:
    """Why a key is no record."""
    if not NAME.fullmatch(name):
        return "not a record's name"
    if len(value) > BYTES_MAX:
        return f"more than {BYTES_MAX} bytes"
    try:
        check_document(value, name)
    except RecordError as exc:
        return exc.message
    return None
