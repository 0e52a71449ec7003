"""The contract of the executors' memory: in memory, in files, and on real etcd of one member and of three."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contract.test_records import killed_after
from etcd_kit import Overheard, Records, ask, delete, put, value_of
from hyops.adapters.etcd_gateway import b64
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.adapters.starts_files import FileStarts
from hyops.adapters.store_files import FileRecordStore
from hyops.errors import DialLostError, PrerequisiteError, RecordError
from hyops.model.execution import outcome_slot
from hyops.ports.records import Created, RecordStore
from hyops.ports.starts import Rival, Starts
from hyops.testing.contract_starts import LIMIT_S, ONE, A, B, StartsContract
from hyops.testing.records import MemoryRecordStore
from hyops.testing.starts import MemoryStarts
from loopback import Etcd, missing
from waiting import wait_for

needs_etcd = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))


class TestInMemory(StartsContract):
    """The fake."""

    @pytest.fixture
    def starts(self) -> Starts:
        """Empty."""
        return MemoryStarts()

    @pytest.fixture
    def store(self) -> RecordStore:
        """Empty."""
        return MemoryRecordStore()

    def another(self, starts: Starts) -> Starts:
        """A restarted executor is given the same object."""
        return starts


@pytest.mark.req("EXE-1", "INV-5")
def test_a_mark_that_cannot_be_looked_for_is_not_absent(tmp_path: Path) -> None:
    """A folder that is none, as one that is not ours to read: who asks is told so, and not that nothing was sent."""
    (tmp_path / "starts").write_text("")
    with pytest.raises(PrerequisiteError, match="Not a directory"):
        FileStarts(tmp_path / "starts").maybe_sent(A)


class TestInFiles(StartsContract):
    """Several executors on one host."""

    folder: Path

    @pytest.fixture
    def starts(self, tmp_path: Path) -> Starts:
        """Of a folder that is made when it is needed."""
        self.folder = tmp_path / "starts"
        return FileStarts(self.folder)

    @pytest.fixture
    def store(self, tmp_path: Path) -> RecordStore:
        """Beside it."""
        return FileRecordStore(tmp_path / "outcomes")

    def another(self, starts: Starts) -> Starts:
        """Of the same folder."""
        return FileStarts(self.folder)


REFUSAL = "refusal-1"


@dataclass
class Executor:
    """What one of them would do with the execution of attempt A; it keeps its stores, as a process does."""

    folder: Path

    def __post_init__(self) -> None:
        self.attempts, self.refusals = (FileRecordStore(self.folder / kind) for kind in ("attempts", "refusals"))
        self.starts = FileStarts(self.folder / "starts")

    def run(self) -> Created | None:
        """It would record the attempt."""
        rival = Rival(self.refusals, "closed-a", by_slot=True)
        return self.starts.settle(A, self.attempts, A, ONE, slot="pg-active-1", rival=rival)

    def refuse(self) -> Created | None:
        """It would close it."""
        return self.starts.settle(A, self.refusals, REFUSAL, ONE, slot="closed-a", rival=Rival(self.attempts, A))

    def left(self) -> list[str]:
        """What stands."""
        return [*self.attempts.ids(), *self.refusals.ids()]


@pytest.mark.fault(13)
@pytest.mark.req("EXE-1", "INV-7", "LOOP-1")
@pytest.mark.parametrize("began", ["before", "after"])
@pytest.mark.parametrize(
    ("first", "second", "own"),
    [(Executor.run, Executor.refuse, A), (Executor.refuse, Executor.run, REFUSAL)],
    ids=["run-refused", "refused-run"],
)
def test_who_is_killed_while_settling_leaves_no_room_for_the_other(
    tmp_path: Path,
    first: Callable[[Executor], Created | None],
    second: Callable[[Executor], Created | None],
    own: str,
    began: str,
) -> None:
    """Killed after each call in turn: of attempt and refusal one stands, for what can still appear counts as made.

    So for an executor that was at work before it, and for one that begins afterwards.
    """
    calls, finished, stood = 0, False, set[str]()
    while not finished:
        folder = tmp_path / str(calls)
        for kind in ("attempts", "refusals"):
            (store := FileRecordStore(folder / kind)).create("earlier", ONE)
            os.unlink(store._path("earlier"))
        other = Executor(folder)
        if began == "before":
            assert other.left() == []
        finished = killed_after(calls, lambda f=folder: first(Executor(f)))  # type: ignore[misc]
        if began == "after":
            other = Executor(folder)

        made = second(other)

        left = Executor(folder).left()
        assert len(left) == 1, f"killed after {calls} calls"
        assert (made is None) == (left == [own])
        stood.update(left)
        calls += 1

    assert stood == {A, REFUSAL}


@pytest.mark.req("EXE-1", "LOOP-1")
def test_settling_looks_at_no_folder_as_long_as_nobody_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be ten thousand records beside it, and as many executions to settle."""
    executor = Executor(tmp_path)
    assert executor.run()
    assert executor.refuse() is None
    assert executor.run()

    def listed(*_: Any) -> list[str]:
        raise AssertionError("a folder was listed")

    monkeypatch.setattr(os, "listdir", listed)
    monkeypatch.setattr(os, "scandir", listed)

    assert executor.refuse() is None
    assert (again := executor.run())
    assert not again.made


@pytest.mark.req("EXE-1", "INV-5")
def test_where_nobody_can_tell_whether_the_rival_appears_nothing_is_settled(tmp_path: Path) -> None:
    """Its folder is there and cannot be looked into: the execution waits, and whoever asks is told why."""
    (tmp_path / "refusals").write_text("")
    with pytest.raises(PrerequisiteError, match="refusals"):
        Executor(tmp_path).run()
    assert FileRecordStore(tmp_path / "attempts").ids() == []


class OnEtcd(StartsContract):
    """Each test has a loop of its own on one cluster; `another` is a process of its own, so to speak."""

    count: ClassVar[int]
    etcd: ClassVar[Etcd]
    number: ClassVar[int] = 0
    records: Records
    others: list[Records]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _etcd(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with Etcd(tmp_path_factory.mktemp("etcd"), count=cls.count) as cls.etcd:
            yield

    @pytest.fixture(autouse=True)
    def _loop(self) -> Iterator[None]:
        type(self).number += 1
        self.others = []
        with Records(self.etcd.endpoints, f"test-{self.number}") as self.records:
            yield
            for other in self.others:
                other.session.close()

    @pytest.fixture
    def starts(self) -> Starts:
        """With a lease that outlives a slow machine."""
        return EtcdStarts(self.records.session, 20)

    @pytest.fixture
    def store(self) -> RecordStore:
        """In the same loop."""
        return self.records.store("execution", "outcomes")

    def another(self, starts: Starts) -> Starts:
        """With its own connections and its own lease."""
        self.others.append(Records(self.etcd.endpoints, self.records.env))
        return EtcdStarts(self.others[-1].session, 20)


@needs_etcd
class TestOneMember(OnEtcd):
    """A single host that is about to get company."""

    count = 1


@needs_etcd
class TestThreeMembers(OnEtcd):
    """As it is meant."""

    count = 3


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One member."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@needs_etcd
class TestLost:
    """What only a lease can suffer: its holder believes in it, and somebody else has the right."""

    @pytest.mark.req("EXE-1", "EXE-3", "INV-3", "INV-7")
    @pytest.mark.fault(14)
    def test_nothing_is_noted_forgotten_or_ended_by_a_right_that_is_lost(self, etcd: Etcd) -> None:
        """Etcd compares in the very transaction, whatever the holder believes; the mark and the records stay."""
        with Records(etcd.endpoints, "lost") as records:
            starts, store = EtcdStarts(records.session, 20), records.store("execution", "outcomes")
            with starts.dialling(A) as mine, starts.dialling(B) as other:
                assert (mine, other) == (True, True)
                starts.note(B)
                for name in (A, B):
                    put(etcd.endpoints[0], f"/hyops/lost/starts/dial/{name}", b"somebody else's")
                with pytest.raises(DialLostError):
                    starts.note(A)
                with pytest.raises(DialLostError):
                    starts.forget(B)
                with pytest.raises(DialLostError):
                    starts.create(A, store, "outcome-1", ONE, slot="outcome-a")
            assert (starts.maybe_sent(A), starts.maybe_sent(B), store.ids()) == (False, True, [])
            assert value_of(etcd.endpoints[0], f"/hyops/lost/starts/dial/{A}") == b"somebody else's"

    @pytest.mark.req("EXE-1", "EXE-3", "INV-9")
    def test_nothing_is_noted_for_an_attempt_that_has_an_outcome(self, etcd: Etcd) -> None:
        """Somebody recorded one meanwhile, as of an adopted takeover; where it was removed by hand, a start may go."""
        key = "/hyops/ended/records/execution/outcomes/outcome-1"
        with Records(etcd.endpoints, "ended") as records:
            starts, store = EtcdStarts(records.session, 20), records.store("execution", "outcomes")
            with starts.dialling(A) as mine:
                assert mine
                assert store.create("outcome-1", ONE, slot=outcome_slot(A)).made
                with pytest.raises(DialLostError, match="has an outcome by now"):
                    starts.note(A)
                assert not starts.maybe_sent(A)
                delete(etcd.endpoints[0], key)
                starts.note(A)
                assert starts.maybe_sent(A)
            assert store.create("outcome-2", ONE, slot=outcome_slot(B)).made
            starts.note(B)  # without a right it only makes people look
            assert starts.maybe_sent(B)

    @pytest.mark.req("EXE-1", "EXE-3")
    @pytest.mark.fault(14)
    def test_who_loses_the_lease_is_cancelled_at_once(self, etcd: Etcd) -> None:
        """The task that dials ends with DialLostError wherever it waits, and the right can be had anew."""
        with Records(etcd.endpoints, "revoked") as records:
            starts = EtcdStarts(records.session, 2)

            async def dials() -> None:
                with starts.dialling(A) as mine:
                    assert mine
                    found = ask(etcd.endpoints[0], "/v3/kv/range", key=b64(f"/hyops/revoked/starts/dial/{A}"))
                    ask(etcd.endpoints[0], "/v3/lease/revoke", ID=found["kvs"][0]["lease"])
                    await asyncio.wait_for(asyncio.Event().wait(), LIMIT_S)

            async def body() -> None:
                with pytest.raises(DialLostError):
                    await dials()
                with starts.dialling(A) as mine:
                    assert mine
                task = asyncio.current_task()
                assert task is not None
                assert task.cancelling() == 0

            asyncio.run(body())

    @pytest.mark.req("EXE-1", "UX-1")
    def test_whoever_is_stopped_meanwhile_is_not_told_of_a_lost_right(self, etcd: Etcd) -> None:
        """A cancellation of somebody else's stays one, and the right is given back."""
        with Records(etcd.endpoints, "stopped") as records:
            starts = EtcdStarts(records.session, 20)

            async def dials(there: asyncio.Event) -> None:
                with starts.dialling(A):
                    there.set()
                    await asyncio.Event().wait()

            async def body() -> None:
                there = asyncio.Event()
                task = asyncio.create_task(dials(there))
                await asyncio.wait_for(there.wait(), LIMIT_S)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

            asyncio.run(body())
            assert value_of(etcd.endpoints[0], f"/hyops/stopped/starts/dial/{A}") is None

    @pytest.mark.req("INV-3", "LOOP-1")
    def test_a_lost_or_torn_epoch_is_not_begun_anew(self, etcd: Etcd) -> None:
        """Once something was sent the number must be there: an error with the way out, not a one."""
        key = "/hyops/epochs/starts/epoch"
        with Records(etcd.endpoints, "epochs") as records:
            starts = EtcdStarts(records.session, 20)
            assert starts.next_epoch() == 1
            for torn in (b"x", b"[]", b'{"epoch":"3","cluster":"1"}', b'{"epoch":-3,"cluster":"1"}', b"\xff"):
                put(etcd.endpoints[0], key, torn)
                with pytest.raises(RecordError, match="not an epoch") as refused:
                    starts.next_epoch()
                assert "hyops control restore" in refused.value.hint
                assert value_of(etcd.endpoints[0], key) == torn
            delete(etcd.endpoints[0], key)
            starts.note(A)
            with pytest.raises(RecordError, match="is gone, but 1 starts were sent"):
                starts.next_epoch()
            assert value_of(etcd.endpoints[0], key) is None

    @pytest.mark.req("INV-3", "GEN-1", "LOOP-3")
    def test_on_a_store_of_another_cluster_nobody_dials(self, etcd: Etcd) -> None:
        """As after a restore: no right, no epoch, nothing written, until it was raised; repeated, it is the same."""
        with Records(etcd.endpoints, "foreign") as records:
            starts = EtcdStarts(records.session, 20)
            put(etcd.endpoints[0], "/hyops/foreign/starts/epoch", b'{"cluster": "1", "epoch": 7}')
            with pytest.raises(PrerequisiteError, match="restored from a snapshot") as refused, starts.dialling(A):
                pytest.fail("it dials")
            assert "hyops control restore" in refused.value.hint
            with pytest.raises(PrerequisiteError, match="restored from a snapshot"):
                starts.next_epoch()
            assert (starts.epoch().number, starts.epoch().foreign, starts.dials()) == (7, True, {})
            for _ in range(2):
                assert starts.restored(40, [A]) == 40
            assert starts.maybe_sent(A)
            with starts.dialling(A) as mine:
                assert mine
                assert list(starts.dials()) == [A]
            assert starts.next_epoch() == 41

    @pytest.mark.req("LOOP-3", "INV-3", "INV-7")
    def test_epochs_and_marks_move_with_the_records(self, etcd: Etcd, tmp_path: Path) -> None:
        """From files to etcd and back: no number twice, no mark lost; repeated, nothing changes."""
        files = FileStarts(tmp_path / "starts")
        for _ in range(5):
            files.next_epoch()
        files.note(A)
        with Records(etcd.endpoints, "moved") as records:
            there = EtcdStarts(records.session, 20)
            for _ in range(2):
                there.remember(files.remembered())
            assert (there.next_epoch(), there.maybe_sent(A), there.maybe_sent(B)) == (6, True, False)
            there.note(B)
            back = FileStarts(tmp_path / "back")
            for _ in range(2):
                back.remember(there.remembered())
            assert (back.next_epoch(), back.maybe_sent(A), back.maybe_sent(B)) == (7, True, True)


class Copies(Overheard):
    """An executor whose requests may arrive a second time."""

    def __init__(self, etcd: Etcd, env: str, ttl_s: int = 20) -> None:
        super().__init__(etcd.endpoints, env)
        self.starts = EtcdStarts(self.session, ttl_s)

    def again(self, key: str) -> None:
        """A copy of every request to take that right arrives, in the order in which they were sent."""
        late = [body for body in self.sent if takes(key)(body)]
        assert late
        for body in late:
            ask(self.endpoints[0], "/v3/kv/txn", **body)


def takes(name: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a transaction would take that right."""
    return lambda body: any(b64(name) in str(one) for one in body["success"] if "request_put" in one)


@needs_etcd
@pytest.mark.req("EXE-1", "LOOP-3", "INV-7")
@pytest.mark.fault(14)
class TestLate:
    """What a slow member applies when nobody waits for it any more gives nobody a right."""

    def test_a_copy_that_comes_after_the_right_was_given_back_takes_nothing(self, etcd: Etcd) -> None:
        """Each request of a dial is applied a second time: nobody has the right, and another executor gets it."""
        key = f"/hyops/late-back/starts/dial/{A}"
        with Copies(etcd, "late-back") as slow, Records(etcd.endpoints, "late-back") as records:
            for _ in range(2):
                with slow.starts.dialling(A) as mine:
                    assert mine
                slow.again(key)
                assert value_of(etcd.endpoints[0], key) is None
            with EtcdStarts(records.session, 20).dialling(A) as mine:
                assert mine

    def test_a_request_that_was_given_up_takes_nothing_when_it_comes(self, etcd: Etcd) -> None:
        """Nobody was reached in time; the right was made void, and only then the request arrives."""
        key = f"/hyops/late-lost/starts/dial/{A}"
        with Copies(etcd, "late-lost", ttl_s=6) as slow:
            slow.stop = takes(key)
            with pytest.raises(PrerequisiteError), slow.starts.dialling(A):
                pytest.fail("nobody has it")
            wait_for(lambda: any("request_delete_range" in one for one in slow.answered), "it is made void")
            slow.again(key)
            assert value_of(etcd.endpoints[0], key) is None
            slow.stop = lambda _: False
            with slow.starts.dialling(A) as mine:
                assert mine

    def test_a_request_that_was_refused_takes_nothing_when_the_holder_has_ended(self, etcd: Etcd) -> None:
        """Somebody had it; a copy that comes after him is made void as well, and its right is not kept alive."""
        key = f"/hyops/late-no/starts/dial/{A}"
        with Copies(etcd, "late-no", ttl_s=6) as slow, Records(etcd.endpoints, "late-no") as records:
            holder = EtcdStarts(records.session, 20)
            with holder.dialling(A), slow.starts.dialling(A) as mine:
                assert not mine
            slow.again(key)
            wait_for(lambda: value_of(etcd.endpoints[0], key) is None, "the end of a right that nobody owns")
            slow.again(key)
            assert value_of(etcd.endpoints[0], key) is None
            with holder.dialling(A) as mine:
                assert mine

    def test_a_right_given_back_meanwhile_keeps_nobody_from_another(self, etcd: Etcd) -> None:
        """The one is given back between the making of a request for the other and its arrival: it is made anew."""
        with Copies(etcd, "late-other") as records, records.starts.dialling(B) as first:
            assert first
            right = records.starts._held[B]
            call, once = records.session.gateway.call, [right]

            async def between(path: str, body: dict[str, Any], **how: Any) -> dict[str, Any]:
                if path == "/v3/kv/txn" and takes(f"/hyops/late-other/starts/dial/{A}")(body) and once:
                    await records.starts._rights.give_back(once.pop())
                return await call(path, body, **how)

            records.session.gateway.call = between  # type: ignore[method-assign]
            with records.starts.dialling(A) as mine:
                assert mine
            assert once == []


@needs_etcd
@pytest.mark.req("EXE-1", "INV-7")
def test_a_refusal_that_was_removed_by_hand_keeps_no_attempt_out(etcd: Etcd) -> None:
    """Its slot still names it; whoever removed it wants the execution to run."""
    with Records(etcd.endpoints, "removed") as records:
        starts, store = EtcdStarts(records.session, 20), records.store("execution", "refusals")
        assert starts.settle(A, store, "refusal-1", ONE, slot="closed-a", rival=Rival(store, A))
        delete(etcd.endpoints[0], "/hyops/removed/records/execution/refusals/refusal-1")
        made = starts.settle(A, store, A, ONE, slot="pg-active-1", rival=Rival(store, "closed-a", by_slot=True))

    assert made is not None
    assert made.made
