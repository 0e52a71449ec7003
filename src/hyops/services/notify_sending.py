"""One sink's messages: in order of urgency, tried again, never lost, and a flood becomes a summary (UX-4).

At least once: the mark is written after the other side took the message. Killed between the two, it is told once more,
under the same delivery id where nothing else came meanwhile; that moment is the only one that doubles.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

from hyops.errors import HyopsError, PrerequisiteError, RecordError
from hyops.model.notify import STILL_OPEN, URGENCY, Notice, Pace, Since, Told
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.sink import Message, Sink, UndeliveredError

MINUTE_S = 60.0
MARK_RETRY_S = 5.0
SINCE = "since"
How = Literal["delivered", "summarised", "overtaken", "gave-up"]


class Sender:
    """Tells one sink; knows from its marks what it has told."""

    def __init__(
        self, name: str, sink: Sink, pace: Pace, marks: RecordStore, clock: Clock, log: Callable[..., None]
    ) -> None:
        self.name = name
        self._sink, self._pace, self._marks, self._clock, self._log = sink, pace, marks, clock, log
        self._since = since(marks, clock)
        self._done = {*marks.ids()}
        self._pending: dict[str, Notice] = {}
        self._tries: dict[str, int] = {}
        self._unmarked: dict[str, Told] = {}
        self._sent: deque[float] = deque()
        self._wake = asyncio.Event()

    @property
    def pending(self) -> Sequence[Notice]:
        """What is to be told, the most urgent first, then the oldest."""
        return sorted(self._pending.values(), key=lambda n: (URGENCY[n.event], n.at, n.notice_id))

    def offer(self, notice: Notice) -> None:
        """Have it told, unless it was, is to be, or was over before this sink was first served."""
        old = notice.at < self._since and notice.event not in STILL_OPEN
        if not old and notice.notice_id not in self._done and notice.notice_id not in self._pending:
            self._pending[notice.notice_id] = notice
            self._wake.set()

    def overtake(self, about: str) -> None:
        """What still asks for an answer about something that is answered meanwhile is not told any more."""
        for notice in [n for n in self._pending.values() if n.about == about and n.command is not None]:
            self._settle([notice], "overtaken")

    async def run(self) -> None:
        """Tell what is offered, for ever."""
        while True:
            await self._clock.sleep(await self.turn())
            if not self._pending and not self._unmarked:
                self._wake.clear()
                await self._wake.wait()

    async def turn(self) -> float:
        """Send one message if one may go now; returns the seconds to wait before the next turn."""
        self._mark_again()
        if not self._pending:
            return MARK_RETRY_S if self._unmarked else 0.0
        wait_s = self._room_in_s()
        if wait_s > 0:
            return wait_s
        batch = self._batch()
        message = Message(_delivery_id(self.name, batch), tuple(batch))
        try:
            await self._sink.deliver(message)
        except HyopsError as exc:
            return self._failed(batch, exc)
        self._sent.append(self._clock.monotonic())
        self._settle(self._still(batch), "delivered" if len(batch) == 1 else "summarised")
        return 0.0

    def _still(self, batch: Sequence[Notice]) -> list[Notice]:
        """Those that were not settled while the message was under way, by an answer that came meanwhile."""
        return [notice for notice in batch if notice.notice_id in self._pending]

    def _batch(self) -> list[Notice]:
        """One notice; all of them, when they are more than may still go one by one in this minute."""
        pending = list(self.pending)
        return pending[:1] if len(pending) <= self._pace.per_minute - len(self._sent) else pending

    def _room_in_s(self) -> float:
        now = self._clock.monotonic()
        while self._sent and now - self._sent[0] >= MINUTE_S:
            self._sent.popleft()
        return self._sent[0] + MINUTE_S - now if len(self._sent) >= self._pace.per_minute else 0.0

    def _failed(self, batch: list[Notice], exc: HyopsError) -> float:
        for notice in batch:
            self._tries[notice.notice_id] = self._tries.get(notice.notice_id, 0) + 1
        tries = self._tries[batch[0].notice_id]
        self._log("not delivered", sink=self.name, notice_id=batch[0].notice_id, tries=tries, reason=exc.message)
        self._settle([n for n in batch if self._tries[n.notice_id] >= self._pace.tries_max], "gave-up", exc.message)
        pause_s = min(self._pace.retry_first_s * 2.0 ** min(tries - 1, 30), self._pace.retry_last_s)
        return max(pause_s, exc.wait_s if isinstance(exc, UndeliveredError) else 0.0)

    def _settle(self, batch: Sequence[Notice], how: How, reason: str | None = None) -> None:
        for notice in batch:
            tries = self._tries.pop(notice.notice_id, 0) + (how in ("delivered", "summarised"))
            self._done.add(notice.notice_id)
            del self._pending[notice.notice_id]
            told = Told(
                told_id=notice.notice_id,
                sink=self.name,
                notice_id=notice.notice_id,
                event=notice.event,
                about=notice.about,
                at=self._clock.now(),
                how=how,
                tries=tries,
                reason=reason,
            )
            self._unmarked[told.told_id] = told
            if how == "gave-up":
                self._log("gave up", sink=self.name, notice_id=notice.notice_id, tries=tries, reason=reason or "")
        self._mark_again()

    def _mark_again(self) -> None:
        """Make the marks durable; on a full disk they are kept and tried again, and nothing is told twice for it."""
        for told_id, told in list(self._unmarked.items()):
            try:
                self._marks.create(told_id, told.encoded())
            except PrerequisiteError as exc:
                self._log("mark not written", sink=self.name, notice_id=told.notice_id, reason=exc.message)
                return
            except RecordError:
                pass  # it stands, made by another instance at another second
            del self._unmarked[told_id]


def since(marks: RecordStore, clock: Clock) -> datetime:
    """When this sink was first served, durable: what was over before that is nobody's news."""
    with contextlib.suppress(RecordError):
        marks.create(SINCE, Since(since=clock.now()).encoded())
    return Since.read(marks.read(SINCE), source=SINCE).since


def _delivery_id(sink: str, batch: Sequence[Notice]) -> str:
    """Derived from what is told, so that a receiver knows a message that came twice."""
    names = "\n".join([sink, *sorted(notice.notice_id for notice in batch)])
    return f"delivery-{hashlib.sha256(names.encode()).hexdigest()[:32]}"
