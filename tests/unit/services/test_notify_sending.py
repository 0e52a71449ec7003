"""One sink's messages: each told once, tried again, given up in time, summarised in a flood (UX-4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from hyops.errors import PrerequisiteError
from hyops.model.notify import Notice, Pace, Told
from hyops.ports.records import Created
from hyops.ports.sink import Message, UndeliveredError
from hyops.services.notify_sending import SINCE, Sender
from hyops.testing.clock import EPOCH, FakeClock
from hyops.testing.records import MemoryRecordStore
from waiting import PATIENCE_S


def notice(number: int, event: str = "waiting", **more: object) -> Notice:
    """One of many."""
    words = {"title": f"no {number}", "command": "hyops approval grant x --key k", **more}
    return Notice.model_validate(
        {"notice_id": f"notice-{event}-{number}", "event": event, "about": f"dispatch-{number}", "at": EPOCH, **words}
    )


class Scripted:
    """A sink that takes a message, or raises what is next in its script."""

    def __init__(self, *script: Exception) -> None:
        self.script, self.taken = list(script), list[Message]()

    async def deliver(self, message: Message) -> None:
        """Take it or raise."""
        if self.script:
            raise self.script.pop(0)
        self.taken.append(message)

    def told(self) -> list[str]:
        """What arrived, one entry for each notice in each message."""
        return [notice.notice_id for message in self.taken for notice in message.notices]


class Desk:
    """A sender that can be killed: its marks and its sink survive."""

    def __init__(self, *script: Exception, **pace: float) -> None:
        self.sink, self.marks, self.clock = Scripted(*script), MemoryRecordStore(), FakeClock()
        self.pace = Pace.model_validate(pace)
        self.logged: list[str] = []
        self.restart()

    def restart(self) -> None:
        """A new process over the same disk."""
        self.sender = Sender("ops", self.sink, self.pace, self.marks, self.clock, self.log)

    def log(self, event: str, **facts: object) -> None:
        """What would stand in the journal."""
        self.logged.append(f"{event} {facts}")

    def turn(self) -> float:
        """One turn of the sender; the pause that it asks for."""
        return asyncio.run(self._turn())

    async def _turn(self) -> float:
        return await self.sender.turn()

    def until(self, holds: Callable[[], bool], turns_max: int = 500) -> float:
        """Turns with the pauses between them, until it holds; the seconds that passed."""
        began = self.clock.monotonic()
        for _ in range(turns_max):
            if holds():
                return self.clock.monotonic() - began
            self.clock.advance(self.turn())
        raise AssertionError("it never held")

    def mark(self, notice_id: str) -> Told:
        """What stands about a notice."""
        return Told.read(self.marks.read(notice_id))


@pytest.mark.req("UX-4", "LOOP-1")
def test_a_notice_is_told_once_and_marked() -> None:
    """Offered twice, and again after a restart: one message, one mark."""
    desk = Desk()
    desk.sender.offer(notice(1))
    desk.sender.offer(notice(1))
    desk.turn()
    desk.restart()
    desk.sender.offer(notice(1))
    desk.turn()

    assert desk.sink.told() == ["notice-waiting-1"]
    assert (desk.mark("notice-waiting-1").how, desk.mark("notice-waiting-1").tries) == ("delivered", 1)


class KilledError(BaseException):
    """kill -9."""


class Dying(MemoryRecordStore):
    """The process is killed at a write of a mark: before it, or right after it."""

    def __init__(self, *, after: bool) -> None:
        super().__init__()
        self.armed, self.after = False, after

    def create(self, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
        """Write, or not, and be killed."""
        if not self.armed:
            return super().create(record_id, data, slot=slot)
        self.armed = False
        if self.after:
            super().create(record_id, data, slot=slot)
        raise KilledError


@pytest.mark.fault(13)
@pytest.mark.req("UX-4", "LOOP-1")
@pytest.mark.parametrize(("after", "times"), [(False, 2), (True, 1)])
def test_killed_at_the_mark_nothing_is_lost_and_one_message_at_most_doubles(after: bool, times: int) -> None:
    """Between the message and its mark is the only moment that doubles, and it doubles under the same delivery id."""
    desk = Desk()
    desk.marks = Dying(after=after)
    desk.restart()
    desk.marks.armed = True
    desk.sender.offer(notice(1))
    with pytest.raises(KilledError):
        desk.turn()
    desk.restart()
    for number in (1, 2):
        desk.sender.offer(notice(number))
    desk.until(lambda: not desk.sender.pending)

    assert sorted(desk.sink.told()) == ["notice-waiting-1"] * times + ["notice-waiting-2"]
    assert len({message.delivery_id for message in desk.sink.taken}) == 2


@pytest.mark.fault(13)
@pytest.mark.req("UX-4")
def test_killed_before_it_is_sent_it_is_sent_after_the_restart() -> None:
    """The intent needs no mark: it derives from the records, which are offered again."""
    desk = Desk(UndeliveredError("HTTP 500"))
    desk.sender.offer(notice(1))
    desk.turn()
    desk.restart()
    desk.sender.offer(notice(1))
    desk.turn()

    assert desk.sink.told() == ["notice-waiting-1"]


@pytest.mark.req("UX-4")
def test_it_is_tried_again_with_growing_pauses_and_not_before_the_sink_allows() -> None:
    """1, 2, 4 s, at most the longest one; and as long as the sink itself asked for."""
    failures = [UndeliveredError("HTTP 500") for _ in range(5)]
    desk = Desk(*failures, UndeliveredError("HTTP 429", wait_s=300.0), retry_last_s=8)
    desk.sender.offer(notice(1))
    pauses = [desk.turn() for _ in range(6)]
    desk.turn()

    assert pauses == [1, 2, 4, 8, 8, 300]
    assert desk.mark("notice-waiting-1").tries == 7


@pytest.mark.req("UX-4", "INV-7")
def test_what_is_given_up_is_recorded_and_holds_nothing_up() -> None:
    """After the last try: a mark with the reason, a line in the log; the next message goes, also after a restart."""
    desk = Desk(*[UndeliveredError("HTTP 500")] * 3, tries_max=3)
    desk.sender.offer(notice(1))
    desk.until(lambda: not desk.sender.pending)
    desk.restart()
    desk.sender.offer(notice(1))
    desk.sender.offer(notice(2))
    desk.until(lambda: not desk.sender.pending)
    mark = desk.mark("notice-waiting-1")

    assert (mark.how, mark.tries, mark.reason) == ("gave-up", 3, "HTTP 500")
    assert any(line.startswith("gave up") for line in desk.logged)
    assert desk.sink.told() == ["notice-waiting-2"]


@pytest.mark.req("UX-4")
def test_a_missing_file_of_ours_is_tried_again_like_a_dead_sink() -> None:
    """A secret that is being rotated is no reason to forget whom to wake."""
    desk = Desk(PrerequisiteError("webhook secret /etc/x: No such file"))
    desk.sender.offer(notice(1))
    desk.until(lambda: not desk.sender.pending)

    assert desk.sink.told() == ["notice-waiting-1"]


@pytest.mark.req("UX-4")
def test_a_flood_becomes_a_summary_and_the_urgent_stand_first() -> None:
    """Three a minute, and 200 at once: one message with all of them; the next ones wait for room and come together."""
    desk = Desk(per_minute=3)
    for number in range(199):
        desk.sender.offer(notice(number, "denied", command=None))
    desk.sender.offer(notice(200))
    first = desk.until(lambda: not desk.sender.pending)
    for number in range(300, 340):
        desk.sender.offer(notice(number, "denied", command=None))
        desk.turn()
    second = desk.until(lambda: not desk.sender.pending)

    assert len(desk.sink.taken[0].notices) == 200
    assert desk.sink.taken[0].notices[0].event == "waiting"
    assert len(desk.sink.taken[0].text()) < 20_000
    assert "and 170 more" in desk.sink.taken[0].text()
    assert (first, len(desk.sink.taken)) == (0, 4)
    assert second == pytest.approx(60)
    assert len(desk.sink.told()) == len(set(desk.sink.told())) == 240
    assert desk.mark("notice-waiting-200").how == "summarised"


@pytest.mark.req("UX-4")
def test_what_was_over_before_the_sink_was_first_served_is_no_news() -> None:
    """An old end is not told to a sink that is new; what still waits is, and what ended while nobody ran is."""
    desk = Desk()
    old = EPOCH - timedelta(days=1)
    desk.sender.offer(notice(1, "ended", at=old))
    desk.sender.offer(notice(2, "waiting", at=old))
    desk.clock.advance(3600)
    desk.restart()
    desk.sender.offer(notice(3, "ended", at=EPOCH + timedelta(seconds=60)))
    desk.sender.offer(notice(2, "waiting", at=old))
    desk.until(lambda: not desk.sender.pending)

    assert sorted(desk.sink.told()) == ["notice-ended-3", "notice-waiting-2"]
    assert SINCE in desk.marks.ids()


@pytest.mark.req("UX-4")
def test_who_is_not_asked_any_more_is_not_woken() -> None:
    """Answered while the sink was down: the question is marked as overtaken, and other messages still go."""
    desk = Desk(UndeliveredError("HTTP 500"))
    for one in (notice(1), notice(2), notice(1, "rejected", command=None)):
        desk.sender.offer(one)
    desk.turn()
    desk.sender.overtake("dispatch-1")
    desk.until(lambda: not desk.sender.pending)

    assert sorted(desk.sink.told()) == ["notice-rejected-1", "notice-waiting-2"]
    assert desk.mark("notice-waiting-1").how == "overtaken"


class Full(MemoryRecordStore):
    """A disk that is full until it is not."""

    full = False

    def create(self, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
        """Refuse while it is full."""
        if self.full:
            raise PrerequisiteError("No space left on device")
        return super().create(record_id, data, slot=slot)


@pytest.mark.req("UX-4", "LOOP-1")
def test_a_full_disk_neither_stops_nor_doubles_messages() -> None:
    """They go out, once; their marks are written when there is room."""
    desk = Desk()
    desk.marks = Full()
    desk.restart()
    desk.marks.full = True
    for number in (1, 2):
        desk.sender.offer(notice(number))
    desk.until(lambda: not desk.sender.pending)
    there = desk.marks.ids()
    desk.marks.full = False
    desk.turn()

    assert there == [SINCE]
    assert desk.marks.ids() == ["notice-waiting-1", "notice-waiting-2", SINCE]
    assert sorted(desk.sink.told()) == ["notice-waiting-1", "notice-waiting-2"]


@pytest.mark.req("UX-4")
def test_an_idle_sender_waits_for_an_offer_and_not_for_a_clock() -> None:
    """It is woken, sends, and sleeps again."""
    desk = Desk()

    async def served() -> None:
        task = asyncio.ensure_future(desk.sender.run())
        for number in (1, 2):
            desk.sender.offer(notice(number))
            async with asyncio.timeout(PATIENCE_S):
                while len(desk.sink.taken) < number:
                    await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(served())
    assert desk.sink.told() == ["notice-waiting-1", "notice-waiting-2"]
