"""What every memory of starts must do; subclass it and say how it is made."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from hyops.errors import DialLostError, RecordError
from hyops.ports.records import RecordStore
from hyops.ports.starts import Hindrance, Rival, Starts

A = "attempt-20260314T030000Z-failover-0123abcd"
B = "attempt-20260314T030000Z-failover-4567cdef"
ONE = b'{"n":1}\n'
LIMIT_S = 60.0


class StartsContract:
    """One suite for every adapter and for the fake."""

    @pytest.fixture
    def starts(self) -> Starts:
        """A memory in which nothing is."""
        raise NotImplementedError

    @pytest.fixture
    def store(self) -> RecordStore:
        """Records beside it."""
        raise NotImplementedError

    def another(self, starts: Starts) -> Starts:
        """The same memory, as another executor sees it."""
        raise NotImplementedError

    @pytest.mark.req("INV-3", "LOOP-3")
    def test_no_epoch_is_handed_out_twice(self, starts: Starts) -> None:
        """They rise, whoever asks, also at once."""
        both = (starts, self.another(starts))
        with ThreadPoolExecutor(4) as threads:
            drawn = list(threads.map(lambda n: both[n % 2].next_epoch(), range(20)))
        assert sorted(drawn) == list(range(1, 21))
        assert starts.next_epoch() == 21

    @pytest.mark.req("INV-3")
    def test_epochs_are_raised_and_never_lowered(self, starts: Starts) -> None:
        """What is too far ahead is refused and changes nothing; the last one is told, and none is drawn for that."""
        assert starts.last_epoch() == 0
        starts.at_least(40, leap_max=100)
        starts.at_least(7, leap_max=100)
        with pytest.raises(RecordError):
            starts.at_least(1000, leap_max=100)
        assert self.another(starts).last_epoch() == 40
        assert self.another(starts).next_epoch() == 41
        assert starts.last_epoch() == 41

    @pytest.mark.req("EXE-1", "INV-7")
    def test_a_mark_is_seen_by_every_executor(self, starts: Starts) -> None:
        """Noted by one, known to all; forgotten only by whoever has the right."""
        other = self.another(starts)
        with starts.dialling(A) as mine:
            assert mine
            starts.note(A)
            starts.note(A)
            assert [other.maybe_sent(name) for name in (A, B)] == [True, False]
            starts.forget(A)
            starts.forget(A)
        assert not other.maybe_sent(A)

    @pytest.mark.req("EXE-1", "LOOP-3")
    def test_one_executor_dials_at_a_time(self, starts: Starts) -> None:
        """The second is turned away, within a process too; another attempt is another right."""
        other = self.another(starts)
        with starts.dialling(A) as one, other.dialling(A) as two, starts.dialling(A) as again, other.dialling(B) as b:
            assert (one, two, again, b) == (True, False, False, True)
        with other.dialling(A) as next_one:
            assert next_one

    @pytest.mark.req("EXE-1", "LOOP-3")
    @pytest.mark.fault(14)
    def test_who_was_turned_away_is_told_when_it_is_freed(self, starts: Starts) -> None:
        """By event, whichever of them waits; at once where nobody holds it."""
        other = self.another(starts)

        async def body() -> list[str]:
            told: list[str] = []

            async def waits(who: Starts, name: str) -> None:
                await who.freed(A)
                told.append(name)

            await asyncio.wait_for(other.freed(A), LIMIT_S)
            with starts.dialling(A) as mine:
                assert mine
                waiting = [asyncio.create_task(waits(who, name)) for who, name in ((other, "one"), (other, "two"))]
                await asyncio.wait(waiting, timeout=0.3)
                assert told == []
            await asyncio.wait_for(asyncio.gather(*waiting), LIMIT_S)
            return told

        assert sorted(asyncio.run(body())) == ["one", "two"]

    @pytest.mark.req("EXE-1", "EXE-3", "INV-7")
    def test_only_the_holder_ends_an_attempt(self, starts: Starts, store: RecordStore) -> None:
        """Without the right nothing is written; with it, a repetition says who stands."""
        with pytest.raises(DialLostError):
            starts.create(A, store, "outcome-1", ONE, slot="outcome-a")
        other = self.another(starts)
        with starts.dialling(A) as mine, other.dialling(A) as second:
            assert (mine, second) == (True, False)
            assert starts.create(A, store, "outcome-1", ONE, slot="outcome-a").made
            assert not starts.create(A, store, "outcome-1", ONE, slot="outcome-a").made
        assert store.ids() == ["outcome-1"]
        with pytest.raises(DialLostError):
            starts.create(A, store, "outcome-2", ONE)

    @pytest.mark.req("EXE-1", "INV-7", "LOOP-1")
    def test_an_execution_is_run_or_refused_never_both(self, starts: Starts, store: RecordStore) -> None:
        """Whichever stands, by its id or by its slot, keeps the other one out; a repetition is told who stands."""
        refused, tried = Rival(store, "closed-a", by_slot=True), Rival(store, "attempt-b")
        other = self.another(starts)

        assert (made := starts.settle(A, store, "refusal-1", ONE, slot="closed-a", rival=Rival(store, "attempt-a")))
        assert made.made
        assert other.settle(A, store, "attempt-a", ONE, slot="pg-active-1", rival=refused) is None
        assert (again := other.settle(A, store, "refusal-2", ONE, slot="closed-a", rival=Rival(store, "attempt-a")))
        assert (again.made, again.record_id) == (False, "refusal-1")

        assert other.settle(B, store, "attempt-b", ONE, slot="pg-active-1", rival=Rival(store, "closed-b", True))
        assert starts.settle(B, store, "refusal-3", ONE, slot="closed-b", rival=tried) is None
        assert store.ids() == ["attempt-b", "refusal-1"]

    @pytest.mark.req("EXE-1", "INV-7", "LOOP-3")
    def test_of_two_executors_at_once_one_settles_an_execution(self, starts: Starts, store: RecordStore) -> None:
        """One would run it and the other one refuses it: exactly one of the records is made."""
        other = self.another(starts)

        def run(one: str) -> bool:
            rival = Rival(store, f"closed-{one}", by_slot=True)
            made = starts.settle(one, store, one, ONE, slot=f"pg-active-{one}", rival=rival)
            return made is not None and made.made

        def refuse(one: str) -> bool:
            made = other.settle(one, store, f"refusal-{one}", ONE, slot=f"closed-{one}", rival=Rival(store, one))
            return made is not None and made.made

        with ThreadPoolExecutor(2) as threads:
            for one in (f"attempt-{number}" for number in range(8)):
                both = [threads.submit(run, one), threads.submit(refuse, one)]
                assert [each.result() for each in both].count(True) == 1
        assert len(store.ids()) == 8

    @pytest.mark.req("UX-1", "EXE-1")
    def test_why_an_attempt_does_not_go_on_is_kept_for_people(self, starts: Starts) -> None:
        """The last reason, for every executor, until nothing is in its way."""
        other = self.another(starts)
        told = Hindrance("2026-03-14T03:00:00Z", "DiskFullError", "cloud-runner: disk full", "hyops runner gc")
        other.hinder(A, Hindrance("", "RunnerUnreachableError", "no route", ""))
        starts.hinder(A, told)
        assert other.hindrance(A) == told
        other.hinder(A, None)
        other.hinder(A, None)
        assert starts.hindrance(A) is None
