"""The lease on a real cluster of three: members die, the quorum is lost, an agent closes by its own deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.adapters.etcd import EtcdLeaseStore
from hyops.adapters.etcd_gateway import EtcdGateway
from hyops.errors import StaleGenerationError
from hyops.fence.agent import AgentParts, FenceAgent
from hyops.fence.lease import LeaseTimes
from hyops.fence.quorum import ELECTION_S, heard
from hyops.fence.state import AgentState
from hyops.model.fence import LeaseState
from hyops.ports.lease import QuorumLostError
from hyops.testing.switch import MemoryDatabase, MemoryEdge
from loopback import Etcd, missing
from switch_pair import Memory
from waiting import PATIENCE_S, throughout, until

LIMIT_S = PATIENCE_S
pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))


@asynccontextmanager
async def store_on(etcd: Etcd) -> AsyncIterator[EtcdLeaseStore]:
    """A store for one test."""
    store = EtcdLeaseStore(EtcdGateway(etcd.endpoints), SystemClock())
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def agent_on(store: EtcdLeaseStore, ttl_s: float = 2.0) -> AsyncIterator[FenceAgent]:
    """A running agent of a primary on `a`; its edge and database are in memory, its time is real."""
    clock = SystemClock()
    known = AgentState(service="pg", host="a", generation=1, primary="a")
    parts = AgentParts(store, MemoryEdge(clock), MemoryDatabase(), Memory(known), clock, lambda _: None)
    agent = FenceAgent("pg", "a", LeaseTimes(ttl_s=ttl_s, renew_s=ttl_s / 8, stop_after_s=0.2), parts)
    stop = asyncio.Event()
    task = asyncio.create_task(agent.run(stop))
    try:
        await until(lambda: agent.edge_open, "the edge opens", LIMIT_S)
        yield agent
    finally:
        stop.set()
        await task


@pytest.mark.req("FEN-2")
def test_the_loss_of_one_member_never_disturbs_a_healthy_primary(tmp_path: Path) -> None:
    """The leader, and in another cluster a follower, is killed: the edge stays open all the time."""

    async def scenario(etcd: Etcd, victim: int) -> None:
        async with store_on(etcd) as store:
            await store.initialise("pg", 1, "a")
            async with agent_on(store, ttl_s=4.0) as agent:  # no slow machine is late for a renewal by that much

                def stays_open() -> None:
                    assert agent.parts.edge.state().open, agent.why

                etcd.kill(victim)
                await throughout(stays_open, 5.0)

    for kind in ("leader", "follower"):
        with Etcd(tmp_path / kind, count=3) as etcd:
            leader = etcd.leader()
            asyncio.run(scenario(etcd, leader if kind == "leader" else (leader + 1) % 3))


@pytest.mark.req("FEN-2", "INV-7")
@pytest.mark.fault(13)
def test_a_run_outlives_the_election_of_another_leader(tmp_path: Path) -> None:
    """The leader is killed before a read and before a raise; etcd's own time-outs, which outlast one request."""

    async def scenario(etcd: Etcd, *, raises: bool) -> None:
        clock = SystemClock()
        async with store_on(etcd) as store:
            await store.initialise("pg", 1, "a")
            etcd.kill(etcd.leader())

            def ask() -> Awaitable[LeaseState]:
                if raises:
                    return store.raise_generation("pg", expected=1, primary="b", run_id="run-1")
                return store.state("pg")

            found = await heard(ask, clock, clock.monotonic() + ELECTION_S, print)
            assert (found.generation, found.primary) == ((2, "b") if raises else (1, "a"))

    for raises in (False, True):
        with Etcd(tmp_path / f"raises-{raises}", count=3, defaults=True) as etcd:
            asyncio.run(scenario(etcd, raises=raises))


@pytest.mark.req("FEN-2", "INV-1")
def test_without_a_quorum_the_agent_fences_itself_by_its_deadline(tmp_path: Path) -> None:
    """Two of three die: closed no later than the ttl after the last renewal, then stopped; never opened again."""

    async def scenario(etcd: Etcd) -> None:
        async with store_on(etcd) as store:
            await store.initialise("pg", 1, "a")
            async with agent_on(store, ttl_s=1.0) as agent:
                etcd.kill(0)
                etcd.kill(1)
                killed = last = time.monotonic()  # no renewal is answered from here on

                def closed() -> bool:
                    nonlocal last
                    began = time.monotonic()
                    is_open = agent.parts.edge.state().open
                    last = began if is_open else last
                    return not is_open

                await until(closed, "the edge closes", LIMIT_S)
                assert last - killed <= 1.0 + 0.1  # of the last look that saw it open
                await until(lambda: agent.parts.database.role() == "stopped", "the database stops", LIMIT_S)
                assert agent.state.stopped_for_lease
                with pytest.raises(QuorumLostError):
                    await store.state("pg")
                assert not agent.parts.edge.state().open

    with Etcd(tmp_path / "e", count=3) as etcd:
        asyncio.run(scenario(etcd))


@pytest.mark.req("FEN-2", "GEN-1", "INV-3")
def test_a_raised_generation_closes_the_old_primary_within_its_lease(tmp_path: Path) -> None:
    """The promoter raises and waits; when its wait ends, the old edge is closed, and its agent cannot renew."""

    async def scenario(etcd: Etcd) -> None:
        async with store_on(etcd) as store, store_on(etcd) as promoter:
            await store.initialise("pg", 1, "a")
            async with agent_on(store, ttl_s=1.0) as agent:
                grant = agent.grant
                assert grant is not None
                await promoter.raise_generation("pg", expected=1, primary="b", run_id="run-1")
                assert await promoter.wait_no_holder("pg", 1, 5.0)
                assert not agent.parts.edge.state().open
                with pytest.raises(StaleGenerationError):
                    await store.renew("pg", "a", 1, grant, 1.0, guarded=True)
                await until(lambda: agent.parts.database.role() == "stopped", "the database stops", LIMIT_S)
                await promoter.acquire("pg", "b", 2, 1.0)

    with Etcd(tmp_path / "e") as etcd:
        asyncio.run(scenario(etcd))


@pytest.mark.req("FEN-2")
def test_waiting_goes_on_when_the_watched_member_dies(tmp_path: Path) -> None:
    """The watch breaks, and another member tells that the holder is gone."""

    async def scenario(etcd: Etcd) -> None:
        async with store_on(etcd) as store:
            await store.initialise("pg", 1, "a")
            await store.acquire("pg", "a", 1, 2.0)
            waiting = asyncio.create_task(store.wait_no_holder("pg", 1, 8.0))
            await until(lambda: etcd.watched() is not None, "the watch", LIMIT_S)
            watched = etcd.watched()
            assert watched is not None
            etcd.kill(watched)
            assert await waiting

    with Etcd(tmp_path / "e", count=3) as etcd:
        asyncio.run(scenario(etcd))
