"""What every record store must do; subclass it and say how a store is made."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from hyops.errors import RecordError
from hyops.ports.records import Created, RecordStore

ONE, TWO = b'{"n":1}\n', b'{"n":2}\n'


class RecordStoreContract:
    """One suite for every adapter and for the fake."""

    @pytest.fixture
    def store(self) -> RecordStore:
        """A store without records."""
        raise NotImplementedError

    @pytest.mark.req("LOOP-1")
    def test_where_nobody_died_there_is_nothing_to_complete(self, store: RecordStore) -> None:
        """Before the first record as well as after it: it makes none, and harms none."""
        store.complete()
        assert store.ids() == []
        store.create("a-1", ONE, slot="one")
        store.complete()
        store.complete()
        assert (store.ids(), store.slot("one"), store.read("a-1")) == (["a-1"], "a-1", ONE)

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
        assert store.slot("pg-g1-failover-1") == store.known("pg-g1-failover-1") == "a-1"
        assert store.known("pg-g1-failover-2") is None
        assert store.ids() == ["a-1"]

    @pytest.mark.req("LOOP-1")
    def test_a_repetition_with_the_slot_is_no_error(self, store: RecordStore) -> None:
        """The same call again says who stands; the id without its slot, or with another one, is another record's."""
        store.create("a-1", ONE, slot="s")
        assert store.create("a-1", ONE, slot="s") == Created(False, "a-1")
        assert store.create("a-1", ONE) == Created(False, "a-1")
        store.create("a-2", TWO)
        with pytest.raises(RecordError):
            store.create("a-2", TWO, slot="late")
        assert store.slot("late") is None
        assert store.ids() == ["a-1", "a-2"]

    @pytest.mark.req("LOOP-2")
    @pytest.mark.parametrize(
        ("record_id", "slot"), [("r" * 65, None), ("a-1", "s" * 161), ("", None), ("../a", None), ("a-1", ".a")]
    )
    def test_a_name_has_a_length_and_an_alphabet(self, store: RecordStore, record_id: str, slot: str | None) -> None:
        """The longest id and slot are taken; one letter more, and what could lead elsewhere, is refused everywhere."""
        assert store.create("r" * 64, ONE, slot="s" * 160).made
        with pytest.raises(RecordError, match="cannot be the name"):
            store.create(record_id, TWO, slot=slot)
        assert store.ids() == ["r" * 64]

    @pytest.mark.req("LOOP-2")
    def test_a_large_record_reads_back(self, store: RecordStore) -> None:
        """Much larger than any that a stage writes, and not ASCII."""
        large = ('{"n":"' + "ö" * 100_000 + '"}\n').encode()
        assert store.create("large", large).made
        assert store.read("large") == large
        assert store.changed(0)[1] == ["large"]

    @pytest.mark.req("LOOP-1", "LOOP-3")
    def test_of_many_writers_at_once_one_holds_the_slot(self, store: RecordStore) -> None:
        """Each with an id of its own: one is told that it made the record, all are told who did."""
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda n: store.create(f"a-{n}", b'{"n":%d}\n' % n, slot="s"), range(12)))

        made = [one.record_id for one in found if one.made]
        assert len(made) == 1
        assert {one.record_id for one in found} == {*made} == {store.slot("s")}
        assert store.ids() == made

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
