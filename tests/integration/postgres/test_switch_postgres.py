"""The switch with real PostgreSQL, nftables and etcd, each agent with its own edge, in a network namespace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hyops.adapters import postgres_control as control
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.etcd import EtcdLeaseStore
from hyops.adapters.etcd_gateway import EtcdGateway
from hyops.adapters.nft_edge import NftEdge
from hyops.adapters.postgres_local import LocalPostgres, PostgresPlace
from hyops.adapters.probe_write import PsycopgWriteProbe
from hyops.cutover.drivers import CutoverPorts, cutover_drivers
from hyops.errors import DeadlineError, NotFencedError, StaleGenerationError
from hyops.fence.agent import AgentParts, FenceAgent
from hyops.fence.driver_fence import FencePorts
from hyops.fence.driver_promote import fence_drivers
from hyops.fence.lease import LeaseTimes
from hyops.fence.state import AgentState
from hyops.fence.verbs import FenceVerbs, VerbPolicy
from hyops.model.policy import Lease, Member
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Occasion, ReceiptClass
from hyops.ports.driver import StepContext, StepResult
from hyops.ports.probe import WriteVerdict
from hyops.testing.switch import MemoryDns, StaticKeys
from loopback import BIN, Cluster, Etcd, missing, own_network, postgres_folder, without_net_admin
from switch_pair import ENDPOINT, KEYS, RUNNER, STEPS, Lying, Memory, Unreachable
from waiting import PATIENCE_S, until, wait_for

pytestmark = pytest.mark.skipif(
    missing("nft", "ip", "etcd", "runuser") is not None or not BIN.exists(),
    reason=missing("nft", "ip", "etcd", "runuser") or "PostgreSQL 15 is not installed",
)
TTL_S, PATIENT_TTL_S, LIMIT_S = 2.0, 3.0, PATIENCE_S
MARGIN_S, PATIENT_MARGIN_S = 0.25, 20.0  # the lease of who has given it up is over after that: others may need longer
BOTH = [ReceiptClass.OBSERVED, ReceiptClass.LEASE_EXPIRED]


@pytest.fixture
def clusters() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary `a` and its streaming standby `b`, in a network of their own."""
    with postgres_folder() as folder, own_network():
        a, b = Cluster(folder, 5432, "a"), Cluster(folder, 5433, "b")
        try:
            a.create()
            b.clone(a, "hyops_b")
            wait_for(lambda: a.sql("select state from pg_stat_replication") == "streaming", "replication")
            yield a, b
        finally:
            a.destroy()
            b.destroy()


@dataclass
class Real:
    """Everything of one switch, alive."""

    members: list[Member]
    agents: dict[str, FenceAgent]
    verbs: dict[str, Any]
    store: EtcdLeaseStore
    drivers: dict[str, Any]
    probe: PsycopgWriteProbe
    dns: MemoryDns
    tasks: dict[str, asyncio.Task[None]]
    stops: dict[str, asyncio.Event]
    talks_to: dict[str, Any]

    async def write(self, host: str, limit_s: float = 20.0) -> WriteVerdict:
        """What a new client meets."""
        member = next(member for member in self.members if member.host == host)
        words = {"address": member.address, "port": member.port, "generation": 0, "timeout_s": limit_s}
        return (await self.probe.try_write(**words)).verdict  # type: ignore[arg-type]

    async def switch(
        self,
        *,
        planned: bool,
        source: str = "a",
        target: str = "b",
        generation: int = 1,
        receipts: Any = None,
        margin_s: float = MARGIN_S,
    ) -> Any:
        """The blueprint's steps in order."""
        spec = RunSpec.model_construct(
            run_id=f"run-{generation}",
            epoch=1,
            service="pg",
            generation=generation,
            occasion=Occasion.PLANNED if planned else Occasion.UNPLANNED,
            approvals=[],
        )
        words = {
            "source": source,
            "target": target,
            "members": [member.body() for member in self.members],
            "lease": LEASE.model_copy(update={"margin_s": margin_s}).body(),
            "receipts": [str(kind) for kind in receipts or BOTH],
            "endpoint": ENDPOINT.body(),
        }
        results: dict[str, StepResult] = {}
        for step, module, names in STEPS:
            inputs, outputs = {name: words[name] for name in names}, {n: r.outputs for n, r in results.items()}
            context = StepContext(spec, step, inputs, outputs, {}, 1e9, lambda _: None)
            results[step] = await self.drivers[module].apply(context)
        return results


LEASE = Lease(endpoints=["http://etcd:2379"], ttl_s=TTL_S, margin_s=MARGIN_S)


@asynccontextmanager
async def real(clusters: tuple[Cluster, Cluster], etcd: Etcd, ttl_s: float = TTL_S) -> AsyncIterator[Real]:
    """Both agents running, the edge of `a` open."""
    clock, keys = SystemClock(), StaticKeys(RUNNER, KEYS)
    store = EtcdLeaseStore(EtcdGateway(etcd.endpoints), clock)
    await store.initialise("pg", 1, "a")
    members = [Member(host=c.name, site=c.name, address="127.0.0.1", port=c.port, runner_ref=RUNNER) for c in clusters]
    policy = VerbPolicy({member.host: member for member in members}, BOTH, keys)
    agents, verbs, tasks, stops, talks_to = {}, {}, {}, {}, {}
    for cluster in clusters:
        place = PostgresPlace(
            cluster.data, BIN, cluster.folder, cluster.port, options=cluster.options, source={"user": "postgres"}
        )
        edge = NftEdge(port=cluster.port, peers=["127.0.0.1"], table=f"hyops_edge_{cluster.name}")
        known = AgentState(service="pg", host="a", generation=1, primary="a") if cluster.name == "a" else None
        parts = AgentParts(store, edge, LocalPostgres(place), Memory(known), clock, print)
        agent = FenceAgent("pg", cluster.name, LeaseTimes(ttl_s=ttl_s, renew_s=ttl_s / 8, stop_after_s=0.3), parts)
        agents[cluster.name], verbs[cluster.name] = agent, FenceVerbs(agent, policy)
        stops[cluster.name] = asyncio.Event()
        tasks[cluster.name] = asyncio.create_task(agent.run(stops[cluster.name]))
    probe = PsycopgWriteProbe({"dbname": "postgres", "user": "postgres"})
    dns = MemoryDns(dict.fromkeys(ENDPOINT.authorities, ("127.0.0.1", 1)))
    ports = FencePorts(lambda _: store, lambda m: talks_to.get(m.host, verbs[m.host]), probe, keys, clock, RUNNER)
    drivers = {**fence_drivers(ports), **cutover_drivers(CutoverPorts(dns, probe, clock))}
    try:
        await until(lambda: agents["a"].edge_open, "the edge of a opens", LIMIT_S)
        yield Real(members, agents, verbs, store, drivers, probe, dns, tasks, stops, talks_to)
    finally:
        for stop in stops.values():
            stop.set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await store.close()


async def writer(port: int, acknowledged: list[int], stop: asyncio.Event) -> None:
    """A client that commits one row after another on one connection until it breaks (it ignores DNS)."""
    try:
        async with await psycopg.AsyncConnection.connect(
            host="127.0.0.1", port=port, user="postgres", dbname="postgres", autocommit=True
        ) as link:
            while not stop.is_set():
                number = len(acknowledged)
                async with asyncio.timeout(2):
                    await link.execute("insert into ledger values (%s)", (number,))
                acknowledged.append(number)
    except (psycopg.Error, TimeoutError):
        return


@pytest.mark.req("INV-1", "FEN-1", "FEN-2")
@pytest.mark.fault(24)
def test_planned_there_and_back_loses_no_row(clusters: tuple[Cluster, Cluster], tmp_path: Path) -> None:
    """A client writes through the demotion: every acknowledged row is on the new primary; then back again."""
    a, b = clusters

    async def scenario(etcd: Etcd) -> None:
        async with real(clusters, etcd) as pair:
            acknowledged: list[int] = []
            writing = asyncio.create_task(writer(a.port, acknowledged, asyncio.Event()))
            await until(lambda: len(acknowledged) >= 50, "50 rows", LIMIT_S)
            results = await pair.switch(planned=True, margin_s=PATIENT_MARGIN_S)
            await writing
            assert results["fence"].outputs["receipt_class"] == "observed"
            assert results["promote"].outputs["timeline"] == 2
            rows = {int(row) for row in b.sql("select id from ledger").split()}
            assert set(acknowledged) <= rows
            assert results["rejoin"].outputs["rejoined"] is True
            assert await pair.write("a") is not WriteVerdict.ACCEPTED
            assert await pair.write("b") is WriteVerdict.ACCEPTED

            await pair.switch(planned=True, source="b", target="a", generation=2)
            assert await pair.write("a") is WriteVerdict.ACCEPTED
            assert await pair.write("b") is not WriteVerdict.ACCEPTED
            assert set(acknowledged) <= {int(row) for row in a.sql("select id from ledger").split()}

    with Etcd(tmp_path / "etcd") as etcd:
        asyncio.run(scenario(etcd))


@pytest.mark.req("INV-1", "FEN-1", "INV-3")
@pytest.mark.fault(24, 25)
def test_unplanned_and_reachable_the_old_one_is_seen_refusing(
    clusters: tuple[Cluster, Cluster], tmp_path: Path
) -> None:
    """Fence, observe, promote: nothing that is acknowledged later is on the old side; it is rewound and follows."""
    a, b = clusters

    async def scenario(etcd: Etcd) -> None:
        async with real(clusters, etcd) as pair:
            acknowledged: list[int] = []
            writing = asyncio.create_task(writer(a.port, acknowledged, asyncio.Event()))
            await until(lambda: len(acknowledged) >= 20, "20 rows", LIMIT_S)
            results = await pair.switch(planned=False, margin_s=PATIENT_MARGIN_S)
            await writing
            assert results["fence"].outputs["receipt_class"] == "observed"
            surviving = {int(row) for row in b.sql("select id from ledger").split()}
            kept = [row for row in acknowledged if row in surviving]
            assert kept == acknowledged[: len(kept)]  # asynchronous replication: only the last ones may be missing
            assert a.sql("select pg_is_in_recovery()") == "t"
            with pytest.raises(StaleGenerationError):
                await pair.verbs["b"].fence(generation=1, run_id="run-1")  # a late fence of the old generation
            assert await pair.write("b") is WriteVerdict.ACCEPTED

    with Etcd(tmp_path / "etcd") as etcd:
        asyncio.run(scenario(etcd))


@pytest.mark.req("INV-1", "FEN-1", "FEN-2")
@pytest.mark.fault(23, 24, 28)
def test_a_frozen_host_is_replaced_and_acknowledges_nothing_when_it_wakes(
    clusters: tuple[Cluster, Cluster], tmp_path: Path
) -> None:
    """The agent stands still: the kernel closes, the lease proves it, and after the thaw no client gets an answer."""
    a, b = clusters

    async def scenario(etcd: Etcd) -> None:
        async with real(clusters, etcd) as pair, contextlib.AsyncExitStack() as leaving:
            frozen, thaw = pair.agents["a"], asyncio.Event()
            turn = frozen.turn

            async def stand_still() -> float:
                await thaw.wait()
                return await turn()

            frozen.turn = stand_still  # type: ignore[method-assign]
            leaving.callback(thaw.set)  # or whatever fails here would wait for the agent for ever
            pair.talks_to["a"] = Unreachable()
            results = await pair.switch(planned=False)
            assert results["fence"].outputs["receipt_class"] == "lease-expired"
            assert a.sql("select pg_is_in_recovery()") == "f"  # it still runs, as a primary, behind its closed edge
            assert await pair.write("a") is WriteVerdict.REFUSED
            assert await pair.write("b") is WriteVerdict.ACCEPTED
            a.sql("insert into ledger values (-1)")  # a local process there: never acknowledged to a client

            thaw.set()
            async with asyncio.timeout(LIMIT_S):
                while pair.agents["a"].parts.database.role() != "stopped":
                    assert await pair.write("a") is WriteVerdict.REFUSED
            status = await pair.verbs["a"].follow(primary="b", generation=2, run_id="run-1")
            assert status.role == "standby"
            assert a.sql("select count(*) from ledger where id = -1") == "0"
            assert b.sql("select slot_name from pg_replication_slots where active") == "hyops_a"

    with Etcd(tmp_path / "etcd") as etcd:
        asyncio.run(scenario(etcd))


@pytest.mark.req("FEN-1", "INV-2")
@pytest.mark.fault(22)
def test_a_lying_agent_gets_nobody_promoted(clusters: tuple[Cluster, Cluster], tmp_path: Path) -> None:
    """The agent says that it has fenced and goes on: a write commits, so nothing is promoted."""
    _, b = clusters

    async def scenario(etcd: Etcd) -> None:
        async with real(clusters, etcd) as pair:
            pair.talks_to["a"] = Lying(pair.verbs["a"])
            with pytest.raises(NotFencedError, match="still acknowledges"):
                # observed alone: the generation is raised only after it, so nothing else closes the old side
                await pair.switch(planned=False, receipts=[ReceiptClass.OBSERVED])
            assert b.sql("select pg_is_in_recovery()") == "t"

    with Etcd(tmp_path / "etcd") as etcd:
        asyncio.run(scenario(etcd))


@contextmanager
def broken_edge(agent: FenceAgent, port: int, how: str) -> Iterator[None]:
    """`nft flush ruleset`, and from then on every call of the edge fails: refused by the kernel, or never sent."""
    with contextlib.ExitStack() as stack:
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        if how == "EPERM":
            stack.enter_context(without_net_admin())
        else:
            agent.parts = replace(agent.parts, edge=NftEdge(port=port, library="libabsent.so.1"))
        yield


@pytest.mark.req("FEN-2", "INV-1")
@pytest.mark.fault(23, 24)
@pytest.mark.parametrize("how", ["EPERM", "no library"])
def test_flushed_and_broken_it_serves_by_its_lease_and_is_stopped_without_one(
    clusters: tuple[Cluster, Cluster],
    tmp_path: Path,
    how: str,
) -> None:
    """Degraded for two leases; then the quorum dies, and no later than the lease no write is acknowledged."""
    a, _ = clusters

    async def scenario(etcd: Etcd) -> None:
        async with real(clusters, etcd, PATIENT_TTL_S) as pair:
            agent = pair.agents["a"]
            with broken_edge(agent, a.port, how):
                end = time.monotonic() + 2 * PATIENT_TTL_S
                while time.monotonic() < end:
                    assert await pair.write("a", LIMIT_S) is WriteVerdict.ACCEPTED
                status = await pair.verbs["a"].status()
                assert (status.edge, status.holds_lease, status.facts["fencing"]) == ("unknown", True, "degraded")

                etcd.kill(0)
                killed = last = time.monotonic()  # no renewal is answered from here on
                while control.processes(a.data):  # not only the postmaster: a backend may outlive it by a moment
                    began = time.monotonic()
                    assert began - killed < LIMIT_S, "the server does not stop"
                    last = began if await pair.write("a") is WriteVerdict.ACCEPTED else last
                assert last - killed <= PATIENT_TTL_S + 1.0  # of when it was asked, which no slow machine makes later
                assert await pair.write("a") is not WriteVerdict.ACCEPTED
                assert control.running(a.data) is None
                status = await pair.verbs["a"].status()
                assert (status.edge, status.role, status.facts["fencing"]) == ("unknown", "stopped", "by stopping")

    with Etcd(tmp_path / "etcd") as etcd:
        asyncio.run(scenario(etcd))


@pytest.mark.req("FEN-2", "INV-1")
def test_a_stop_leaves_no_backend_behind(clusters: tuple[Cluster, Cluster]) -> None:
    """A backend that does not listen outlives its postmaster; the stop ends it too, by number."""
    a, _ = clusters
    place = PostgresPlace(a.data, BIN, a.folder, a.port, options=a.options)
    server = control.running(a.data)
    assert server is not None
    backends = [pid for pid in control.processes(a.data) if pid != server.pid]
    assert backends
    for pid in backends:
        with contextlib.suppress(ProcessLookupError):  # a worker of the server may just have ended by itself
            os.kill(pid, signal.SIGSTOP)

    asyncio.run(LocalPostgres(place).stop(mode="immediate", limit_s=2.0))

    assert control.processes(a.data) == []


@pytest.mark.req("FEN-2", "INV-1")
def test_a_kill_ends_everything_at_once(clusters: tuple[Cluster, Cluster]) -> None:
    """Also where nothing listens at all, and the other cluster on the machine is left alone; twice is fine."""
    a, b = clusters
    place = PostgresPlace(a.data, BIN, a.folder, a.port, options=a.options, unit="hyops-absent.service")
    for pid in control.processes(a.data):
        with contextlib.suppress(ProcessLookupError):  # a worker of the server may just have ended by itself
            os.kill(pid, signal.SIGSTOP)
    for _ in range(2):
        asyncio.run(LocalPostgres(place).kill(limit_s=LIMIT_S))
        assert control.processes(a.data) == []
    assert control.running(b.data) is not None


@pytest.mark.req("FEN-2")
def test_a_standby_that_does_not_answer_does_not_keep_the_primary_from_handing_over(
    clusters: tuple[Cluster, Cluster],
) -> None:
    """A frozen standby confirms nothing, and the server would wait for it: its sender is ended instead, and
    the shutdown is a clean one."""
    a, b = clusters
    place = PostgresPlace(a.data, BIN, a.folder, a.port, options=a.options)
    frozen = control.processes(b.data)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        a.sql("create table unconfirmed as select 1")

        asyncio.run(LocalPostgres(place).stop(mode="fast", limit_s=4.0))  # wal_sender_timeout: 60 s

        assert control.running(a.data) is None
        assert asyncio.run(LocalPostgres(place).stopped_at()).timeline == 1
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.req("FEN-2")
def test_a_connection_that_comes_in_the_moment_of_the_shutdown_and_says_nothing_does_not_hold_it_up(
    clusters: tuple[Cluster, Cluster],
) -> None:
    """Its packets are lost at the closed edge: the child that waits for them (60 s, PostgreSQL's own limit) is ended,
    and the shutdown is a clean one."""
    a, _ = clusters
    place = PostgresPlace(a.data, BIN, a.folder, a.port, options=a.options)
    server = control.running(a.data)
    assert server is not None

    async def come_late(busy: int) -> None:
        stopping = asyncio.create_task(LocalPostgres(place).stop(mode="fast", limit_s=600.0))
        await until(lambda: "stopping" in (control.running(a.data) or server).ready, "the shutdown", 5.0)
        with socket.create_connection(("127.0.0.1", a.port)) as late:
            late.setblocking(False)
            await until(lambda: bool(control.unnamed(a.data, server.pid)) or ended(late), "the child that waits", 5.0)
            os.kill(busy, signal.SIGCONT)
            async with asyncio.timeout(30.0):  # half of the server's own patience, long before the senders are ended
                await stopping

    with psycopg.connect(host="127.0.0.1", port=a.port, user="postgres") as session:
        busy = session.info.backend_pid
        os.kill(busy, signal.SIGSTOP)  # so that the shutdown is still under way
        try:
            asyncio.run(come_late(busy))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(busy, signal.SIGCONT)

    assert control.processes(a.data) == []
    assert asyncio.run(LocalPostgres(place).stopped_at()).timeline == 1


def ended(link: socket.socket) -> bool:
    """Whether the other side has closed it."""
    try:
        return link.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.req("UX-1")
def test_a_server_that_does_not_stop_says_who_is_left(clusters: tuple[Cluster, Cluster]) -> None:
    """A sender that does not listen at all: the deadline names it, for the person who has to look."""
    a, _ = clusters
    place = PostgresPlace(a.data, BIN, a.folder, a.port, options=a.options)
    senders = control.wal_senders(a.data)
    assert len(senders) == 1
    os.kill(senders[0], signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineError, match=rf"within 1 s; left: .*{senders[0]} .*walsender"):
            asyncio.run(LocalPostgres(place).stop(mode="fast", limit_s=1.0))
    finally:
        os.kill(senders[0], signal.SIGCONT)
