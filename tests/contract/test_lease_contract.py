"""The lease store contract on the store in memory and on a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from hyops.adapters.clock_boottime import BoottimeClock
from hyops.adapters.etcd import EtcdLeaseStore
from hyops.adapters.etcd_gateway import EtcdGateway
from hyops.ports.lease import LeaseStore
from hyops.testing.clock import FakeClock
from hyops.testing.lease import LeaseStoreContract, MemoryLeaseStore
from loopback import Etcd, missing


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
        store = EtcdLeaseStore(gateway, BoottimeClock(), root=f"/hyops/test-{self.number}")
        yield store
        await store.close()

    async def let_pass(self, seconds: float) -> None:
        """Real time: etcd's own clock is what is tested."""
        await asyncio.sleep(seconds)
