"""The executor's memory, in memory: give the same object to a restarted executor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from hyops.errors import DialLostError, RecordError
from hyops.ports.records import Created, RecordStore
from hyops.ports.starts import Hindrance, Rival


class MemoryStarts:
    """Same contract as the files. A lock is released when its `with` ends, also by a simulated crash."""

    def __init__(self) -> None:
        self.epoch = 0
        self.sent: set[str] = set()
        self.dialled: set[str] = set()
        self.hindered: dict[str, Hindrance] = {}
        self._waiting: dict[str, list[asyncio.Event]] = {}

    def next_epoch(self) -> int:
        """One more than the last."""
        self.epoch += 1
        return self.epoch

    def last_epoch(self) -> int:
        """As it stands."""
        return self.epoch

    def at_least(self, epoch: int, *, leap_max: int) -> None:
        """Count from there."""
        if epoch > self.epoch + leap_max:
            raise RecordError(f"epoch {epoch} is too far ahead of {self.epoch}")
        self.epoch = max(self.epoch, epoch)

    def note(self, attempt_id: str) -> None:
        """Remember the intent."""
        self.sent.add(attempt_id)

    def forget(self, attempt_id: str) -> None:
        """It was not sent."""
        self.sent.discard(attempt_id)

    def maybe_sent(self, attempt_id: str) -> bool:
        """Whether it was noted."""
        return attempt_id in self.sent

    def hinder(self, attempt_id: str, by: Hindrance | None) -> None:
        """Note or forget."""
        if by is None:
            self.hindered.pop(attempt_id, None)
        else:
            self.hindered[attempt_id] = by

    def hindrance(self, attempt_id: str) -> Hindrance | None:
        """What was noted."""
        return self.hindered.get(attempt_id)

    @contextlib.contextmanager
    def dialling(self, attempt_id: str) -> Iterator[bool]:
        """Only one at a time."""
        if attempt_id in self.dialled:
            yield False
            return
        self.dialled.add(attempt_id)
        try:
            yield True
        finally:
            self.dialled.discard(attempt_id)
            for event in self._waiting.pop(attempt_id, []):
                event.set()

    async def freed(self, attempt_id: str) -> None:
        """Until the `with` of its holder ends."""
        if attempt_id in self.dialled:
            event = asyncio.Event()
            self._waiting.setdefault(attempt_id, []).append(event)
            await event.wait()

    def create(
        self, attempt_id: str, store: RecordStore, record_id: str, data: bytes, *, slot: str | None = None
    ) -> Created:
        """As the store does, for whoever holds the right."""
        if attempt_id not in self.dialled:
            raise DialLostError(f"nobody holds the right to dial for {attempt_id}")
        return store.create(record_id, data, slot=slot)

    def settle(
        self, attempt_id: str, store: RecordStore, record_id: str, data: bytes, *, slot: str, rival: Rival
    ) -> Created | None:
        """One of the two, by the right to dial."""
        with self.dialling(attempt_id) as mine:
            return store.create(record_id, data, slot=slot) if mine and not rival.stands() else None
