"""Records on a real cluster that suffers: members die, freeze, forget; space runs out; nothing is lost or invented."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import etcd_kit
from etcd_kit import Records, value_of
from hyops.adapters import etcd_records_follow as follow
from hyops.adapters.etcd_records import EtcdRecordStore
from hyops.adapters.etcd_records_keys import Keys, closed_key
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.errors import Effect, PrerequisiteError, RecordError
from hyops.testing.contract_records import ONE, TWO
from loopback import Etcd, missing
from waiting import PATIENCE_S, freeze, until, wait_for

LIMIT_S = PATIENCE_S
FULL_SOON = ("--quota-backend-bytes", "1500000", "--max-request-bytes", "500000")
REQUESTS = Keys("lab", "dispatch", "requests")
pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))


@contextmanager
def cluster(
    folder: Path, count: int = 1, *, hasty: bool = False, more: Sequence[str] = ()
) -> Iterator[tuple[Etcd, Records]]:
    """A cluster, and a process that works with it."""
    with Etcd(folder, count=count, more=[*more]) as etcd, Records(etcd.endpoints, hasty=hasty) as records:
        yield etcd, records


class Watching:
    """What `changes` of one store has told, in order."""

    def __init__(self, store: EtcdRecordStore) -> None:
        self.store, self.seen, self.batches = store, list[str](), list[list[str]]()

    async def run(self) -> None:
        """Until cancelled."""
        async for names in self.store.changes(rescan_s=3600.0):
            self.batches.append(names)
            self.seen += names

    async def has(self, *names: str) -> None:
        """Wait until all of these were told."""
        await until(lambda: set(names) <= set(self.seen), f"{names}", LIMIT_S)


@contextlib.asynccontextmanager
async def watching(store: EtcdRecordStore) -> AsyncIterator[Watching]:
    """Follow a store meanwhile."""
    found = Watching(store)
    task = asyncio.create_task(found.run())
    try:
        await until(lambda: bool(found.batches), "the first look", LIMIT_S)
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def written(writer: EtcdRecordStore, *names: str) -> None:
    """Records that are there for certain, however slow the machine or the election."""

    def made() -> bool:
        try:
            writer.create(name, ONE, slot=f"slot-{name}")
        except PrerequisiteError:
            return False
        return True

    for name in names:
        wait_for(made, name, LIMIT_S)


def frozen(etcd: Etcd, number: int) -> Callable[[], None]:
    """SIGSTOP one member; returns what lets it go on."""
    process = etcd.processes[number]
    freeze(process.pid)
    return lambda: process.send_signal(signal.SIGCONT)


async def one_is_watched(etcd: Etcd) -> int:
    """Which member holds the only watch."""
    await until(lambda: etcd.watched() is not None, "the watch", LIMIT_S)
    found = etcd.watched()
    assert found is not None
    return found


@pytest.mark.req("LOOP-3")
@pytest.mark.fault(12, 14)
@pytest.mark.parametrize("what", ["killed", "frozen", "leader killed"])
def test_a_watch_outlives_its_member(tmp_path: Path, what: str) -> None:
    """What comes while the watched member (or the leader) is dead or says nothing is told, each record, once known."""

    async def scenario(etcd: Etcd, here: Records, there: Records) -> None:
        writer = there.store()
        written(writer, "a-1")
        async with watching(here.store()) as told:
            await told.has("a-1")
            victim = etcd.leader() if what == "leader killed" else await one_is_watched(etcd)
            thaw: Callable[[], None] = frozen(etcd, victim) if what == "frozen" else lambda: etcd.kill(victim)
            if what != "frozen":
                thaw()
            await asyncio.to_thread(written, writer, "b-1", "b-2")
            await told.has("b-1", "b-2")
            if what == "frozen":
                thaw()
            await asyncio.to_thread(written, writer, "c-1")
            await told.has("c-1")
            assert told.store.ids() == ["a-1", "b-1", "b-2", "c-1"]
            assert set(told.seen) == {"a-1", "b-1", "b-2", "c-1"}
            assert told.store.slot("slot-b-2") == "b-2"

    with cluster(tmp_path / "e", 3) as (etcd, here), Records(etcd.endpoints) as there:
        asyncio.run(scenario(etcd, here, there))


@pytest.mark.req("LOOP-3", "LOOP-1")
@pytest.mark.fault(13)
def test_what_was_confirmed_before_a_suspend_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slept for an hour, which only CLOCK_BOOTTIME counts: what is looked at then is not what was known."""
    slept_s, real = 0.0, time.clock_gettime

    def after_sleep(which: int) -> float:
        return real(which) + (slept_s if which == time.CLOCK_BOOTTIME else 0.0)

    monkeypatch.setattr(time, "clock_gettime", after_sleep)
    with cluster(tmp_path / "e", hasty=True) as (etcd, here):
        store = here.store()
        written(store, "a-1")
        for _ in range(3):
            assert store.ids() == ["a-1"]
        frozen(etcd, 0)
        slept_s = 3600.0
        with pytest.raises(PrerequisiteError, match="no quorum"):
            store.ids()


@pytest.mark.req("LOOP-3")
@pytest.mark.fault(12)
def test_a_watch_survives_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records come, go and come while nobody watches, and history is compacted: all of it is noticed, none invented."""
    stream, cut = follow.EtcdGateway.stream, [False]

    async def cuttable(*args: Any, **words: Any) -> AsyncIterator[dict[str, Any]]:
        if cut[0]:  # the way to etcd's watches is closed, and nothing else
            return
        async for result in stream(*args, **words):
            if cut[0]:
                return
            yield result

    async def scenario(etcd: Etcd, here: Records, there: Records) -> None:
        url, writer = etcd.endpoints[0], there.store()
        written(writer, "a-1", "a-2")
        async with watching(here.store()) as told:
            await told.has("a-1", "a-2")
            cut[0] = True
            await asyncio.to_thread(written, writer, "b-1", "b-2")
            etcd_kit.delete(url, REQUESTS.prefix + "a-1")
            etcd_kit.delete(url, REQUESTS.prefix + "b-1")
            etcd_kit.compact(url)
            await told.has("b-2")
            cut[0] = False  # what went by hand and was not told is counted by the next heartbeat
            await until(lambda: told.store.ids() == ["a-2", "b-2"], "the count", LIMIT_S)
            with pytest.raises(KeyError):
                told.store.read("a-1")
            await asyncio.to_thread(written, writer, "c-1")
            await told.has("c-1")
            assert told.store.ids() == ["a-2", "b-2", "c-1"]

    monkeypatch.setattr(follow.EtcdGateway, "stream", cuttable)
    with cluster(tmp_path / "e") as (etcd, here), Records(etcd.endpoints) as there:
        asyncio.run(scenario(etcd, here, there))


@pytest.mark.req("LOOP-3", "LOOP-1")
def test_what_is_seen_is_seen_with_all_that_it_answers(tmp_path: Path) -> None:
    """A second kind is never older than the first: whoever knows an execution knows its request, without a watch."""

    async def silent(*_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        await asyncio.Event().wait()
        yield {}

    patches = pytest.MonkeyPatch.context()
    with cluster(tmp_path / "e") as (etcd, here), Records(etcd.endpoints) as there, patches as patch:
        requests, executions = here.store(), here.store("approval", "executions")
        patch.setattr(follow.EtcdGateway, "stream", silent)
        for store in (requests, executions):
            assert store.ids() == store.ids() == []
        written(there.store(), "request-1")
        written(there.store("approval", "executions"), "execution-1")
        assert executions.read("execution-1") == ONE  # asked of etcd: the mirror has not heard of it
        assert requests.ids() == ["request-1"]


@pytest.mark.req("LOOP-3", "UX-1")
def test_without_a_quorum_nothing_is_known_or_written_and_it_says_so(tmp_path: Path) -> None:
    """Two of three die: looking and creating are errors that say what to do; afterwards all goes on."""

    async def scenario(etcd: Etcd, here: Records) -> None:
        store = here.store()
        written(store, "a-1")
        async with watching(store) as told:
            await told.has("a-1")
            victims = [n for n in range(3) if n != 0]
            for number in victims:
                frozen(etcd, number)
            await until(lambda: here.session.lost is not None, "the loss", LIMIT_S)
            with pytest.raises(PrerequisiteError, match="no quorum") as blind:
                store.changed(0)
            with pytest.raises(PrerequisiteError, match="no quorum") as unsent:
                store.create("b-1", ONE, slot="slot-b-1")
            assert (blind.value.effect, unsent.value.effect) == (Effect.NONE, Effect.NONE)
            with Records(etcd.endpoints, hasty=True) as unaware, pytest.raises(PrerequisiteError) as unwritten:
                unaware.store().create("b-1", ONE, slot="slot-b-1")
            assert unwritten.value.effect is Effect.UNKNOWN
            assert "trying again is safe" in unwritten.value.message
            for number in victims:
                etcd.processes[number].send_signal(signal.SIGCONT)
            await asyncio.to_thread(written, store, "b-1")
            await told.has("b-1")
            assert [] in told.batches  # the stage was woken to find out
            assert store.ids() == ["a-1", "b-1"]

    with cluster(tmp_path / "e", 3, hasty=True) as (etcd, here):
        asyncio.run(scenario(etcd, here))


@pytest.mark.req("LOOP-3", "UX-1")
def test_a_full_etcd_takes_nothing_and_says_so(tmp_path: Path) -> None:
    """The NOSPACE alarm: nothing was written, and what to do; records are read, rights given back. Too large too."""
    with cluster(tmp_path / "e", more=FULL_SOON) as (etcd, here):
        store = here.store()
        store.create("a-1", ONE)
        with pytest.raises(PrerequisiteError, match="too large") as large:
            store.create("big", b'{"n":"' + b"x" * 600_000 + b'"}\n')
        assert "nothing was written" in large.value.message
        assert "1.5 MiB" in large.value.hint

        def fill() -> None:
            for number in range(100):
                store.create(f"b-{number}", b'{"n":"' + b"x" * 400_000 + b'"}\n')

        with EtcdStarts(here.session, 20).dialling("a-1") as mine:
            assert mine
            with pytest.raises(PrerequisiteError, match="space exceeded") as full:
                fill()
        assert value_of(etcd.endpoints[0], "/hyops/lab/starts/dial/a-1") is None  # what deletes alone is taken
        assert "nothing was written" in full.value.message
        assert "alarm disarm" in full.value.hint
        assert full.value.effect is Effect.NONE
        assert store.read("a-1") == ONE
        count = len(store.ids())
        with pytest.raises(PrerequisiteError, match="space exceeded"):
            store.create("c-1", ONE, slot="c")
        assert store.slot("c") is None
        assert len(store.ids()) == count
        assert etcd.processes[0].poll() is None


@pytest.mark.req("LOOP-3", "LOOP-1")
def test_one_creation_is_made_by_one_caller_however_often_it_is_sent(tmp_path: Path) -> None:
    """Every request goes out twice: the caller who made the record hears so, and whoever comes later does not."""
    call = follow.EtcdGateway.call

    async def twice(self: Any, path: str, body: dict[str, Any], **words: Any) -> dict[str, Any]:
        await call(self, path, body, **words)
        return await call(self, path, body, **words)

    patches = pytest.MonkeyPatch.context()
    with cluster(tmp_path / "e") as (etcd, here), Records(etcd.endpoints) as there, patches as patch:
        patch.setattr(follow.EtcdGateway, "call", twice)
        assert here.store().create("a-1", ONE, slot="s").made
        assert here.store().create("a-2", ONE).made
        assert not there.store().create("a-2", ONE).made
        second = there.store().create("a-1", ONE, slot="s")
        assert (second.made, second.record_id) == (False, "a-1")
        with pytest.raises(RecordError):
            there.store().create("a-2", TWO)


@pytest.mark.req("LOOP-3")
def test_what_is_closed_takes_nothing_and_is_not_looked_at(tmp_path: Path) -> None:
    """The records are elsewhere: a creation is refused in the very transaction, and a process that begins stops."""
    with cluster(tmp_path / "e") as (etcd, here):
        store = here.store()
        store.create("a-1", ONE)
        etcd_kit.put(etcd.endpoints[0], closed_key("lab"), b"the records are in files")
        with pytest.raises(PrerequisiteError, match="in files"):
            store.create("a-2", ONE)
        with pytest.raises(PrerequisiteError, match="in files"):
            here.store().ids()
        assert not store.create("a-1", ONE).made  # a repetition of what stands is no creation
        assert etcd_kit.value_of(etcd.endpoints[0], REQUESTS.prefix + "a-2") is None


@pytest.mark.req("LOOP-3")
def test_a_store_restored_from_a_snapshot_is_read_anew(tmp_path: Path) -> None:
    """Younger than what was known: what is not in it is not there, and what comes then is told."""
    snapshot = tmp_path / "snapshot"
    with cluster(tmp_path / "old") as (old, before):
        before.store().create("a-1", ONE)
        told = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
        words = ["etcdctl", "--endpoints", old.endpoints[0], "snapshot", "save", str(snapshot)]
        subprocess.run(words, check=True, env=told, capture_output=True)
        for number in range(5):
            before.store().create(f"late-{number}", ONE)
        store = before.store()
        assert len(store.ids()) == len(store.ids()) == 6
        old.kill(0)
        with Etcd(tmp_path / "new", snapshot=snapshot) as new:
            before.session.gateway.endpoints[:] = new.endpoints

            async def again() -> None:
                await until(lambda: _ids(store) == ["a-1"], "the restored store", LIMIT_S)
                written(store, "late-0")
                assert store.ids() == ["a-1", "late-0"]

            asyncio.run(again())


def _ids(store: EtcdRecordStore) -> list[str] | None:
    with contextlib.suppress(PrerequisiteError):
        return store.ids()
    return None
