"""The lease store contract on the store in memory and on a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.adapters.etcd import EtcdLeaseStore
from hyops.adapters.etcd_gateway import EtcdGateway, b64
from hyops.ports.lease import LeaseStore, QuorumLostError
from hyops.testing.clock import FakeClock
from hyops.testing.lease import LeaseStoreContract, MemoryLeaseStore
from loopback import Etcd, missing
from waiting import let_pass


class TestMemoryLeaseStore(LeaseStoreContract):
    """The fake."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[LeaseStore]:
        """On a fake clock."""
        self.clock = FakeClock()
        yield MemoryLeaseStore(self.clock)

    async def write_unstamped(self, store: LeaseStore, service: str, generation: int, primary: str) -> None:
        """As the fake has it."""
        assert isinstance(store, MemoryLeaseStore)
        store.write_unstamped(service, generation, primary)

    async def let_pass(self, seconds: float) -> None:
        """At once."""
        self.clock.advance(seconds)


@pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
class TestEtcdLeaseStore(LeaseStoreContract):
    """A real member on loopback; each test has a service of its own."""

    etcd: ClassVar[Etcd]
    number: ClassVar[int] = 0

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _etcd(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with Etcd(tmp_path_factory.mktemp("etcd")) as cls.etcd:
            yield

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[LeaseStore]:
        """The contract's `pg` is another service in each test. A slow machine is no lost quorum here."""
        type(self).number += 1
        gateway = EtcdGateway(self.etcd.endpoints, attempt_s=10.0, limit_s=30.0)
        store = EtcdLeaseStore(gateway, SystemClock(), root=f"/hyops/test-{self.number}")
        yield store
        await store.close()

    async def write_unstamped(self, store: LeaseStore, service: str, generation: int, primary: str) -> None:
        """The very bytes of before."""
        gateway = EtcdGateway(self.etcd.endpoints)
        await put_unstamped(gateway, f"/hyops/test-{self.number}", service, generation, primary)
        await gateway.close()

    async def let_pass(self, seconds: float) -> None:
        """Real time: etcd's own clock is what is tested."""
        await let_pass(seconds, "etcd's own clock lets leases run out")

    @pytest.mark.req("FEN-1", "FEN-2")
    def test_a_word_that_is_taken_back_late_does_not_strike_out_a_newer_one(self) -> None:
        """The deletion is held up on its way, the edge fails again, the deletion arrives: unguarded it stays."""

        async def scenario() -> None:
            gateway = HoldsUp(self.etcd.endpoints)
            store = EtcdLeaseStore(gateway, SystemClock(), root="/hyops/held-up")
            await store.initialise("pg", 1, "a")
            grant = await store.acquire("pg", "a", 1, 5.0)
            grant = await store.renew("pg", "a", 1, grant, 5.0, guarded=False)
            gateway.holding = True
            with pytest.raises(QuorumLostError):
                await store.renew("pg", "a", 1, grant, 5.0, guarded=True)
            gateway.holding = False
            assert len(gateway.held) == 1
            grant = await store.renew("pg", "a", 1, grant, 5.0, guarded=False)
            await gateway.arrive()
            assert (await store.state("pg")).unguarded == "a"
            grant = await store.renew("pg", "a", 1, grant, 5.0, guarded=True)
            assert (await store.state("pg")).unguarded is None
            await store.close()

        asyncio.run(scenario())

    @pytest.mark.req("GEN-1", "FEN-2")
    def test_a_stamp_does_not_refuse_a_run(self) -> None:
        """The holder stamps the record between a run's read and its compare-and-set: the run raises all the same."""

        async def scenario() -> None:
            gateway = Between(self.etcd.endpoints)
            holder = EtcdLeaseStore(EtcdGateway(self.etcd.endpoints), SystemClock(), root="/hyops/stamped")
            runner = EtcdLeaseStore(gateway, SystemClock(), root="/hyops/stamped")
            await put_unstamped(gateway, "/hyops/stamped", "pg", 1, "a")
            grant = await holder.acquire("pg", "a", 1, 5.0)
            gateway.once = lambda: holder.renew("pg", "a", 1, grant, 5.0, guarded=True)
            raised = await runner.raise_generation("pg", expected=1, primary="b", run_id="run-1", last_holder="a")
            assert (gateway.once, raised.generation, raised.primary, raised.changed_by) == (None, 2, "b", "run-1")
            await holder.close()
            await runner.close()

        asyncio.run(scenario())

    @pytest.mark.req("FEN-2")
    def test_a_renewal_counts_although_the_stamp_is_not_taken(self) -> None:
        """A quorum that takes no writes (its disk is full) is no reason to close; the next renewal tries again."""

        async def scenario() -> None:
            gateway = TakesNoPut(self.etcd.endpoints)
            store = EtcdLeaseStore(gateway, SystemClock(), root="/hyops/full")
            await put_unstamped(gateway, "/hyops/full", "pg", 1, "a")
            grant = await store.acquire("pg", "a", 1, 5.0)
            gateway.full = True
            grant = await store.renew("pg", "a", 1, grant, 5.0, guarded=True)
            assert (gateway.refused, (await store.state("pg")).cluster) == (1, None)
            gateway.full = False
            await store.renew("pg", "a", 1, grant, 5.0, guarded=True)
            assert (await store.state("pg")).cluster is not None
            await store.close()

        asyncio.run(scenario())

    @pytest.mark.req("FEN-2")
    def test_a_guarded_renewal_writes_nothing(self) -> None:
        """One transaction that only reads, and the keep-alive: the store's revision does not move."""

        async def scenario() -> None:
            gateway = HoldsUp(self.etcd.endpoints)
            store = EtcdLeaseStore(gateway, SystemClock(), root="/hyops/cheap")
            await store.initialise("pg", 1, "a")
            grant = await store.acquire("pg", "a", 1, 5.0)
            before = (await store.state("pg")).revision
            gateway.paths.clear()
            grant = await store.renew("pg", "a", 1, grant, 5.0, guarded=True)
            assert gateway.paths == ["/v3/kv/txn", "/v3/lease/keepalive"]
            assert (await store.state("pg")).revision == before
            gateway.paths.clear()
            await store.renew("pg", "a", 1, grant, 5.0, guarded=False)
            assert gateway.paths == ["/v3/kv/txn", "/v3/lease/keepalive"]  # the word goes with it
            await store.close()

        asyncio.run(scenario())


class HoldsUp(EtcdGateway):
    """A gateway that notes what is sent, and on which deletions can be held up."""

    holding = False

    def __init__(self, endpoints: list[str]) -> None:
        super().__init__(endpoints)
        self.held: list[dict[str, Any]] = []
        self.paths: list[str] = []

    async def call(self, path: str, body: dict[str, Any], **words: Any) -> dict[str, Any]:
        """Send it, or keep it and say nothing."""
        self.paths.append(path)
        if self.holding and any("request_delete_range" in request for request in body.get("success", [])):
            self.held.append(body)
            raise QuorumLostError("held up")
        return await super().call(path, body, **words)

    async def arrive(self) -> None:
        """What was held up gets there after all."""
        for body in self.held:
            await super().call("/v3/kv/txn", body)


class Between(EtcdGateway):
    """A gateway on which something happens just before the first compare-and-set is sent."""

    once: Callable[[], Awaitable[object]] | None = None

    async def call(self, path: str, body: dict[str, Any], **words: Any) -> dict[str, Any]:
        """Let it happen, then send."""
        if self.once is not None and "compare" in body:
            happens, self.once = self.once, None
            await happens()
        return await super().call(path, body, **words)


class TakesNoPut(EtcdGateway):
    """A gateway to a cluster that answers reads and keeps leases alive, and takes no write."""

    full, refused = False, 0

    async def call(self, path: str, body: dict[str, Any], **words: Any) -> dict[str, Any]:
        """Send what writes nothing."""
        if self.full and any("request_put" in request for request in body.get("success", [])):
            self.refused += 1
            raise QuorumLostError("etcdserver: mvcc: database space exceeded")
        return await super().call(path, body, **words)


async def put_unstamped(gateway: EtcdGateway, root: str, service: str, generation: int, primary: str) -> None:
    """The first record of a service as an older hyops wrote it."""
    value = f'{{"generation":{generation},"primary":"{primary}","run_id":"initialise"}}'
    await gateway.call("/v3/kv/put", {"key": b64(f"{root}/services/{service}/generation"), "value": b64(value)})
