"""What every record store must do; subclass it and say how a store is made."""

from __future__ import annotations

import asyncio

import pytest

from hyops.errors import RecordError
from hyops.ports.records import RecordStore

ONE, TWO = b'{"n":1}\n', b'{"n":2}\n'


class RecordStoreContract:
    """One suite for every adapter and for the fake."""

    @pytest.fixture
    def store(self) -> RecordStore:
        """A store without records."""
        raise NotImplementedError

    @pytest.mark.req("LOOP-2")
    def test_a_record_reads_back_byte_for_byte(self, store: RecordStore) -> None:
        """What was created is there, whole, and listed."""
        assert store.create("a-1", ONE).made
        assert store.read("a-1") == ONE
        assert store.ids() == ["a-1"]

    @pytest.mark.req("LOOP-2")
    def test_a_record_is_never_written_over(self, store: RecordStore) -> None:
        """The same bytes again are no error and make nothing; other bytes are refused and change nothing."""
        store.create("a-1", ONE)
        assert not store.create("a-1", ONE).made
        with pytest.raises(RecordError):
            store.create("a-1", TWO)
        assert store.read("a-1") == ONE

    @pytest.mark.req("LOOP-1")
    def test_a_slot_has_one_holder(self, store: RecordStore) -> None:
        """Two ids want one slot: the second is told who has it, and its record does not exist."""
        first = store.create("a-1", ONE, slot="pg-g1-failover-1")
        second = store.create("a-2", TWO, slot="pg-g1-failover-1")

        assert (first.made, first.record_id) == (True, "a-1")
        assert (second.made, second.record_id) == (False, "a-1")
        assert store.slot("pg-g1-failover-1") == "a-1"
        assert store.ids() == ["a-1"]

    def test_what_is_missing_is_missing(self, store: RecordStore) -> None:
        """No record: KeyError. No slot: None. No directory yet: no ids."""
        with pytest.raises(KeyError):
            store.read("a-1")
        assert store.slot("s") is None
        assert store.ids() == []
        assert store.faults() == {}

    @pytest.mark.req("LOOP-1")
    def test_what_is_new_is_told_once(self, store: RecordStore) -> None:
        """From the start: everything. From a mark: only what came after it, and nothing when nothing did."""
        store.create("a-1", ONE)
        mark, first = store.changed(0)
        nothing = store.changed(mark)
        store.create("a-2", TWO, slot="s")
        after, second = store.changed(mark)

        assert (first, nothing, second) == (["a-1"], (mark, []), ["a-2"])
        assert store.changed(after) == (after, [])
        assert store.changed(0) == (after, ["a-1", "a-2"])

    @pytest.mark.req("LOOP-1")
    def test_changes_tell_all_that_is_there_and_all_that_comes(self, store: RecordStore) -> None:
        """Known records first, then each new one by event, long before the rescan."""

        async def watch() -> list[list[str]]:
            store.create("a-1", ONE)
            changes = store.changes(rescan_s=60.0)
            seen = [await anext(changes)]
            following = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            store.create("a-2", TWO, slot="s")
            async with asyncio.timeout(5):
                seen.append(await following)
            return seen

        assert asyncio.run(watch()) == [["a-1"], ["a-2"]]
