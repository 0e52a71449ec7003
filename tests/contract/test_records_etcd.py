"""The record store contract on real etcd, of one member and of three, and what only etcd can suffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from etcd_kit import Records
from hyops.ports.records import RecordStore
from hyops.testing.contract_records import RecordStoreContract
from loopback import Etcd, missing

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))


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


class TestThreeMembers(OnEtcd):
    """As it is meant."""

    count = 3
