"""The record store contract on real etcd, of one member and of three, and what only etcd can suffer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from etcd_kit import Overheard, Records, ask, delete, put, value_of
from hyops.adapters import etcd_records_follow as follow
from hyops.adapters import etcd_records_session as session
from hyops.adapters.etcd_gateway import b64
from hyops.errors import PrerequisiteError, StaleGenerationError
from hyops.ports.records import Created, RecordStore
from hyops.testing.contract_records import ONE, TWO, RecordStoreContract
from loopback import Etcd, missing
from waiting import wait_for

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))


class Late:
    """The first watch of one kind says nothing, and then breaks; of what is read then, the second part is late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        monkeypatch.setattr(session, "HEARTBEAT_S", 60.0)
        self.watched, self.stalled = threading.Event(), threading.Event()
        self._broken: asyncio.Event | None = None
        real = follow.Follower._watch

        async def watch(follower: follow.Follower) -> None:
            if follower.keys.kind != kind or self.watched.is_set():
                await real(follower)
                return
            self._broken = asyncio.Event()
            self.watched.set()
            await self._broken.wait()

        monkeypatch.setattr(follow.Follower, "_watch", watch)

    def hold(self, mine: Overheard) -> None:
        """Break the watch now; the second of the reads of values waits until the session ends."""
        call, parts = mine.session.gateway.call, list[int]()

        async def slow(path: str, body: dict[str, Any], **how: Any) -> dict[str, Any]:
            read = body.get("success", [{}])[0].get("request_range", {})
            if "revision" in read and "range_end" not in read:
                parts.append(len(body["success"]))
                if len(parts) == 2:
                    self.stalled.set()
                    await asyncio.Event().wait()
            return await call(path, body, **how)

        async def broken() -> None:
            assert self._broken is not None
            self._broken.set()

        mine.session.gateway.call = slow  # type: ignore[method-assign]
        mine.session.do(broken)

    @staticmethod
    def made(endpoint: str, env: str) -> int:
        """The revision of the newest request."""
        found = ask(endpoint, "/v3/kv/range", key=b64(f"/hyops/{env}/records/dispatch/requests/request-1"))
        return int(found["kvs"][0]["mod_revision"])


class OnEtcd(RecordStoreContract):
    """Each test has a loop of its own on one cluster."""

    count: ClassVar[int]
    etcd: ClassVar[Etcd]
    number: ClassVar[int] = 0

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _etcd(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with Etcd(tmp_path_factory.mktemp("etcd"), count=cls.count) as cls.etcd:
            yield

    @pytest.fixture
    def records(self) -> Iterator[Records]:
        """A process of its own, so to speak."""
        type(self).number += 1
        with Records(self.etcd.endpoints, f"test-{self.number}") as records:
            yield records

    @pytest.fixture
    def store(self, records: Records) -> RecordStore:
        """Without records."""
        return records.store()


class TestOneMember(OnEtcd):
    """A single host that is about to get company."""

    count = 1

    @pytest.mark.req("LOOP-3", "UX-1")
    def test_what_is_too_large_for_etcd_is_refused_and_not_written(self, store: RecordStore) -> None:
        """It is not even sent."""
        for size in (1_800_000, 4_000_000):
            with pytest.raises(PrerequisiteError, match="nothing was written") as large:
                store.create("big", b'{"n":"' + b"x" * size + b'"}\n')
            assert "1.5 MiB" in large.value.hint
        assert store.ids() == []

    @pytest.mark.req("LOOP-3")
    def test_large_and_many_records_are_read_in_pages(self, store: RecordStore, records: Records) -> None:
        """More than one answer may hold: nothing is missing."""
        large = {f"large-{n}": b'{"n":"' + b"%d" % n * 400_000 + b'"}\n' for n in range(3)}
        for name, data in large.items():
            store.create(name, data)
        for number in range(40):
            store.create(f"small-{number:03}", ONE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(follow, "NAMES_A_PAGE", 7)
            other = records.store()
            assert other.ids() == [*large, *(f"small-{n:03}" for n in range(40))]
            assert other.ids() == store.ids()
        assert all(other.read(name) == data for name, data in large.items())

    @pytest.mark.req("LOOP-1", "LOOP-3")
    @pytest.mark.fault(13)
    def test_a_first_load_tells_each_part_and_goes_on_where_it_was_cut_off(
        self, store: RecordStore, records: Records
    ) -> None:
        """So a stage that loads longer than it may start is not begun anew, and one that hangs is."""
        for number in range(8):  # and the mark: nine keys
            store.create(f"r-{number}", ONE)
        with pytest.MonkeyPatch.context() as patch, Overheard(records.endpoints, records.env) as slow:
            patch.setattr(follow, "VALUES_AT_ONCE", 3)
            parts = list[int]()
            slow.session.progress = lambda: parts.append(len(slow.sent))
            values = list[int]()

            def cut_off(body: dict[str, Any]) -> bool:
                """The third read of values finds nobody."""
                if "revision" not in str(body):
                    return False
                values.append(len(body["success"]))
                return len(values) == 3

            slow.stop, loaded = cut_off, slow.store()
            with pytest.raises(PrerequisiteError):
                loaded.ids()
            assert (values, len(parts)) == ([3, 3, 3], 3)  # the names, and twice three values
            assert loaded.ids() == [f"r-{n}" for n in range(8)]
            assert (values, len(parts)) == ([3, 3, 3, 3], 5)  # the names again, and the three that were wanting

    @pytest.mark.req("LOOP-3")
    def test_who_looks_once_reads_everything_once(self, store: RecordStore, records: Records) -> None:
        """Not each record again; what has come since is asked for, and what is missing is missing at the next look."""
        names = [f"r-{n}" for n in range(20)]
        for name in names:
            store.create(name, ONE)
        with Overheard(self.etcd.endpoints, records.env) as other:
            looked = other.store()
            assert sorted(looked.changed(0)[1]) == sorted(names)
            before = len(other.sent)
            assert [looked.read(name) for name in names] == [ONE] * 20
            assert len(other.sent) == before
            store.create("r-later", TWO)
            delete(self.etcd.endpoints[0], f"/hyops/{records.env}/records/dispatch/requests/r-0")
            assert looked.read("r-later") == TWO
            assert "r-0" not in looked.ids()
            with pytest.raises(KeyError):
                looked.read("r-0")

    @pytest.mark.req("LOOP-1", "LOOP-3")
    def test_who_would_create_it_asks_for_a_free_slot_without_a_request(self, records: Records) -> None:
        """Whoever took it a moment ago is told of by the creation."""
        with Overheard(self.etcd.endpoints, records.env) as mine:
            store = mine.store()
            assert [store.ids(), store.ids()] == [[], []]
            before = len(mine.sent)
            assert store.known("s") is None
            assert len([body for body in mine.sent[before:] if "count_only" not in str(body)]) == 0
            assert records.store().create("a-1", ONE, slot="s").made
            assert store.create("a-2", TWO, slot="s") == Created(False, "a-1")

    @pytest.mark.req("LOOP-3")
    def test_its_own_creation_hides_nobody_elses(self, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another one made a record just before, and no event of either has come: the next look knows both."""
        with Overheard(self.etcd.endpoints, records.env) as mine:
            store = mine.store()
            assert [store.ids(), store.ids()] == [[], []]
            monkeypatch.setattr(follow.Follower, "_take", lambda *_: None)  # events are late
            records.store().create("a-1", ONE)
            store.create("a-2", TWO)
            assert store.ids() == ["a-1", "a-2"]

    @pytest.mark.req("LOOP-3")
    def test_half_a_reload_is_not_all(self, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
        """A watch broke, what came since is read in parts, and the second part is late: nobody looks at the first."""
        monkeypatch.setattr(follow, "VALUES_AT_ONCE", 2)
        late = Late(monkeypatch, "approvals")
        with Overheard(self.etcd.endpoints, records.env) as mine:
            requests, approvals = mine.store(), mine.store("approval", "approvals")
            assert [requests.ids(), requests.ids(), approvals.ids(), approvals.ids()] == [[], [], [], []]
            wait_for(late.watched.is_set, "the watch that breaks")
            names = [f"approval-{number}" for number in range(5)]
            for name in names:
                records.store("approval", "approvals").create(name, ONE)
            late.hold(mine)
            wait_for(late.stalled.is_set, "the second part")
            records.store().create("request-1", ONE)
            wait_for(lambda: mine.session.seen >= late.made(self.etcd.endpoints[0], records.env), "its event")
            try:
                seen = approvals.ids()
            except PrerequisiteError:
                seen = names  # that it cannot be known is an answer too
            assert seen == names

    @pytest.mark.req("LOOP-3")
    def test_what_was_removed_by_hand_and_not_told_is_found_by_counting(
        self, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its event is lost; the marks say nothing of it, also when they were compared since."""
        take = follow.Follower._take
        with Overheard(self.etcd.endpoints, records.env) as mine:
            store, other = mine.store(), mine.store("dispatch", "refusals")
            store.create("a-1", ONE)
            assert [store.ids(), store.ids(), other.ids(), other.ids()] == [["a-1"], ["a-1"], [], []]
            monkeypatch.setattr(
                follow.Follower, "_take", lambda self, *said: self.keys.kind == "requests" or take(self, *said)
            )
            delete(self.etcd.endpoints[0], f"/hyops/{records.env}/records/dispatch/requests/a-1")
            other.create("b-1", ONE)
            assert other.ids() == ["b-1"]
            wait_for(lambda: store.ids() == [], "the next heartbeat")

    @pytest.mark.req("LOOP-3")
    def test_those_who_ask_at_once_are_answered_at_once(self, records: Records) -> None:
        """By the question of one of them, which covers what was seen before; whoever counts asks for himself."""
        with Overheard(self.etcd.endpoints, records.env) as mine:
            store = mine.store()
            assert [store.ids(), store.ids()] == [[], []]

            async def four() -> None:
                await mine.session.confirm()  # the first heartbeat is over
                mine.session.saw(mine.session._confirmed + 1)
                asks = (mine.session.confirm(counted=number == 2, covered=number != 2) for number in range(4))
                await asyncio.gather(*asks)

            before = len(mine.sent)
            mine.session.do(four)
            asked = ["count_only" in str(body) for body in mine.sent[before:]]
            assert asked == [True, False, True]

    @pytest.mark.req("LOOP-3")
    def test_who_waits_for_a_record_finds_the_question_asked(
        self, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An event that a stage waits for sends it at once, one that nobody waits for does not; nobody asks again."""
        monkeypatch.setattr(session, "HEARTBEAT_S", 60.0)
        with Overheard(self.etcd.endpoints, records.env) as mine:
            awaited, other = mine.store(), mine.store("dispatch", "refusals")
            assert [awaited.ids(), awaited.ids(), other.ids(), other.ids()] == [[], [], [], []]
            mine.session.do(mine.session.confirm)  # the first heartbeat is over
            before, seen = len(mine.sent), mine.session.seen
            records.store("dispatch", "refusals").create("n-1", ONE)
            wait_for(lambda: mine.session.seen > seen, "the event of the other kind")
            assert mine.sent[before:] == []
            assert other.ids() == ["n-1"]
            assert len(mine.sent) == before + 1

            async def waits() -> None:
                changes = awaited.changes(60.0)
                assert await anext(changes) == []
                before = len(mine.sent)
                await asyncio.to_thread(records.store().create, "a-1", ONE)
                assert await anext(changes) == ["a-1"]
                assert [awaited.ids(), other.ids()] == [["a-1"], ["n-1"]]
                assert len(mine.sent) == before + 1
                await changes.aclose()

            asyncio.run(waits())

    @pytest.mark.req("LOOP-1", "DSP-3")
    def test_what_was_removed_by_hand_frees_its_slot(self, store: RecordStore, records: Records) -> None:
        """The slot of a record that is gone is taken by the next one; both processes see who holds it."""
        other = records.store()
        store.create("a-1", ONE, slot="s")
        assert (store.ids(), store.ids(), other.slot("s")) == (["a-1"], ["a-1"], "a-1")
        delete(self.etcd.endpoints[0], f"/hyops/{records.env}/records/dispatch/requests/a-1")
        assert other.slot("s") is None
        assert other.create("a-2", TWO, slot="s").made
        assert store.create("a-3", TWO, slot="s").record_id == "a-2"
        assert (store.ids(), store.slot("s"), other.slot("s")) == (["a-2"], "a-2", "a-2")

    @pytest.mark.req("LOOP-1", "LOOP-2")
    def test_what_is_no_record_is_a_fault_and_left_there(self, store: RecordStore, records: Records) -> None:
        """Torn, empty, foreign names: named with the reason, and no ids."""
        prefix = f"/hyops/{records.env}/records/dispatch/requests/"
        for name, data in (("torn", b'{"n":'), ("empty", b""), ("list", b"[]"), (".odd", ONE), ("a/b", ONE)):
            put(self.etcd.endpoints[0], prefix + name, data)
        store.create("a-1", ONE)
        assert store.ids() == ["a-1"]
        assert set(store.faults()) == {"torn", "empty", "list", ".odd", "a/b"}
        assert "torn or not JSON" in store.faults()["torn"]
        assert value_of(self.etcd.endpoints[0], prefix + "torn") == b'{"n":'

    @pytest.mark.req("LOOP-3")
    def test_a_guard_holds_in_the_transaction_itself(self, records: Records) -> None:
        """A creation on a condition that no longer holds makes nothing and says so."""
        store, key = records.store(), f"/hyops/{records.env}/lead"
        put(self.etcd.endpoints[0], key, b"me")
        mine = {"key": b64(key), "target": "VALUE", "result": "EQUAL", "value": b64("me")}
        assert store.create("a-1", ONE, guards=[mine]).made
        put(self.etcd.endpoints[0], key, b"somebody else")
        with pytest.raises(StaleGenerationError):
            store.create("a-2", ONE, slot="s", guards=[mine])
        assert (store.ids(), store.slot("s")) == (["a-1"], None)
        assert not store.create("a-1", ONE, guards=[mine]).made


class TestThreeMembers(OnEtcd):
    """As it is meant."""

    count = 3
