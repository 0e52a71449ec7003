"""The contract of the executors' memory: in memory, in files, and on real etcd of one member and of three."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from etcd_kit import Records
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.adapters.starts_files import FileStarts
from hyops.adapters.store_files import FileRecordStore
from hyops.ports.records import RecordStore
from hyops.ports.starts import Starts
from hyops.testing.contract_starts import StartsContract
from hyops.testing.records import MemoryRecordStore
from hyops.testing.starts import MemoryStarts
from loopback import Etcd, missing

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
