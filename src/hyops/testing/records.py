"""A record store in memory, with the same contract as the one on files."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator

from hyops.errors import RecordError
from hyops.ports.records import Created

NAMES = (re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}"), re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,159}"))
"""Of records and of slots, as every store has them."""


class MemoryRecordStore:
    """Survives its users: keep the object over a simulated crash, as a disk would be kept."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.slots: dict[str, str] = {}
        self.broken: dict[str, str] = {}
        self._log: list[str] = []
        self._logged: dict[str, bytes] = {}
        self._changed = asyncio.Event()
        self._lock = threading.Lock()

    def create(self, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
        """Create once; see the port."""
        for name, pattern in zip((record_id, slot or "x"), NAMES, strict=True):
            if not pattern.fullmatch(name):
                raise RecordError(f"{name[:80]!r} cannot be the name of a record or slot")
        with self._lock:
            return self._create(record_id, data, slot)

    def _create(self, record_id: str, data: bytes, slot: str | None) -> Created:
        holder = self.slot(slot) if slot is not None else None
        if holder is not None:
            return Created(False, holder)
        if record_id in self.records:
            if self.records[record_id] != data:
                raise RecordError(f"{record_id} exists with other bytes")
            if slot is not None:
                raise RecordError(f"{record_id} exists without the slot {slot}")
            return Created(False, record_id)
        self.records[record_id] = data
        if slot is not None:
            self.slots[slot] = record_id
        self._changed.set()
        return Created(True, record_id)

    def read(self, record_id: str) -> bytes:
        """The bytes; KeyError when there is none."""
        return self.records[record_id]

    def slot(self, slot: str) -> str | None:
        """The id that holds a slot."""
        holder = self.slots.get(slot)
        return holder if holder in self.records else None

    def known(self, slot: str) -> str | None:
        """The same."""
        return self.slot(slot)

    def complete(self) -> None:
        """Nobody dies half-way in here."""

    def ids(self) -> list[str]:
        """Every id, oldest name first."""
        return sorted(self.records)

    def changed(self, since: int) -> tuple[int, list[str]]:
        """What came, changed or went; also when a test changed `records` itself."""
        for name in sorted(self._logged.keys() | self.records.keys()):
            if self._logged.get(name) is not self.records.get(name):
                self._log.append(name)
        self._logged = dict(self.records)
        return len(self._log), self._log[since:]

    def faults(self) -> dict[str, str]:
        """What lies there and is no record."""
        return dict(self.broken)

    async def changes(self, rescan_s: float) -> AsyncIterator[list[str]]:
        """Known ids first, then new ones by event."""
        known: set[str] = set()
        first = True
        while True:
            self._changed.clear()
            fresh = [name for name in self.ids() if name not in known]
            known = set(self.records)
            if fresh or first:
                first = False
                yield fresh
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rescan_s):
                    await self._changed.wait()
