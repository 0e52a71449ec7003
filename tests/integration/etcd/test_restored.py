"""A real `etcdctl snapshot save` and `restore`: which records are believed afterwards, and by whom."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from etcd_kit import Records
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.etcd import EtcdLeaseStore
from hyops.adapters.etcd_gateway import EtcdGateway
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.errors import PrerequisiteError, StaleGenerationError
from loopback import Etcd, missing

pytestmark = [
    pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd"))),
    pytest.mark.skipif(missing("etcdctl") is not None, reason=str(missing("etcdctl"))),
    pytest.mark.req("GEN-1", "FEN-2", "INV-1"),
]


@asynccontextmanager
async def store_on(endpoint: str) -> AsyncIterator[EtcdLeaseStore]:
    """A store for one test."""
    store = EtcdLeaseStore(EtcdGateway([endpoint]), SystemClock())
    try:
        yield store
    finally:
        await store.close()


def etcdctl(*words: str) -> None:
    """As an operator types it."""
    subprocess.run(["etcdctl", *words], check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})


async def nobody_serves(store: EtcdLeaseStore) -> None:
    """Generation 3 of a is foreign: its lease runs out, and nobody gets another."""
    now = await store.state("pg")
    assert (now.generation, now.primary, now.foreign) == (3, "a", True)
    assert await store.wait_no_holder("pg", 3, 8.0)
    with pytest.raises(StaleGenerationError):
        await store.acquire("pg", "a", 3, 1.0)


def test_a_restored_record_is_foreign_until_it_was_raised(tmp_path: Path) -> None:
    """Nobody acquires, renews or raises on it; the one command does, once, and it is a record like any other again."""

    async def before(endpoint: str) -> None:
        async with store_on(endpoint) as store:
            await store.initialise("pg", 3, "a")
            grant = await store.acquire("pg", "a", 3, 1.0)
            etcdctl("--endpoints", endpoint, "snapshot", "save", str(tmp_path / "snap"))
            await store.release("pg", "a", grant)
            now = await store.raise_generation("pg", expected=3, primary="b", run_id="run-1")
            assert (now.generation, now.foreign) == (4, False)

    async def after(endpoint: str) -> None:
        async with store_on(endpoint) as store:
            await nobody_serves(store)
            with pytest.raises(StaleGenerationError):
                await store.raise_generation("pg", expected=3, primary="b", run_id="run-1")
            now = await store.state("pg")
            for _ in range(2):  # repeated, it says the same
                raised = await store.restore_generation("pg", before=now, generation=5, primary="b", by="restore: all")
                assert (raised.generation, raised.primary, raised.foreign, raised.last_holder) == (5, "b", False, "b")
            with pytest.raises(StaleGenerationError):
                await store.restore_generation("pg", before=now, generation=6, primary="a", by="restore: all")
            await store.acquire("pg", "b", 5, 1.0)
            assert (await store.raise_generation("pg", expected=5, primary="a", run_id="run-2")).foreign is False

    with Etcd(tmp_path / "before") as etcd:
        asyncio.run(before(etcd.endpoints[0]))
    with Etcd(tmp_path / "after", snapshot=tmp_path / "snap") as etcd:
        asyncio.run(after(etcd.endpoints[0]))


def test_a_record_of_an_older_hyops_is_known_as_restored(tmp_path: Path) -> None:
    """Its holder has stamped it with the cluster, so a snapshot of it is foreign wherever it is restored."""
    key, old = "/hyops/services/pg/generation", '{"generation":3,"primary":"a","run_id":"initialise"}'

    async def before(endpoint: str) -> None:
        async with store_on(endpoint) as store:
            etcdctl("--endpoints", endpoint, "put", key, old)
            grant = await store.acquire("pg", "a", 3, 1.0)
            await store.renew("pg", "a", 3, grant, 1.0, guarded=True)
            etcdctl("--endpoints", endpoint, "snapshot", "save", str(tmp_path / "snap"))

    async def after(endpoint: str) -> None:
        async with store_on(endpoint) as store:
            await nobody_serves(store)

    with Etcd(tmp_path / "before") as etcd:
        asyncio.run(before(etcd.endpoints[0]))
    with Etcd(tmp_path / "after", snapshot=tmp_path / "snap") as etcd:
        asyncio.run(after(etcd.endpoints[0]))


@pytest.mark.req("INV-3", "LOOP-3", "EXE-1")
def test_executors_dial_on_a_restored_store_only_after_its_epoch_was_raised(tmp_path: Path) -> None:
    """What was handed out and noted after the snapshot is not in it: nobody dials, until all is raised and marked."""
    with Etcd(tmp_path / "before") as etcd, Records(etcd.endpoints) as records:
        starts = EtcdStarts(records.session, 20)
        assert starts.next_epoch() == 1
        etcdctl("--endpoints", etcd.endpoints[0], "snapshot", "save", str(tmp_path / "snap"))
        assert [starts.next_epoch(), starts.next_epoch()] == [2, 3]
        starts.note("attempt-1")
    with Etcd(tmp_path / "after", snapshot=tmp_path / "snap") as etcd, Records(etcd.endpoints) as records:
        starts = EtcdStarts(records.session, 20)
        assert not starts.maybe_sent("attempt-1")
        with pytest.raises(PrerequisiteError, match="restored from a snapshot"), starts.dialling("attempt-1"):
            pytest.fail("it dials")
        with pytest.raises(PrerequisiteError, match="restored from a snapshot"):
            starts.next_epoch()
        assert starts.restored(4, ["attempt-1"]) == 4
        with starts.dialling("attempt-1") as mine:
            assert (mine, starts.maybe_sent("attempt-1"), starts.next_epoch()) == (True, True, 5)
