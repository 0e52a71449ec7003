"""The lease store contract on the store in memory and on a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.adapters.etcd import EtcdLeaseStore
from hyops.adapters.etcd_gateway import EtcdGateway
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
        """The contract's `pg` is another service in each test."""
        type(self).number += 1
        gateway = EtcdGateway(self.etcd.endpoints)
        store = EtcdLeaseStore(gateway, SystemClock(), root=f"/hyops/test-{self.number}")
        yield store
        await store.close()

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
