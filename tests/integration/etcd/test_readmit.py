"""Readmission on a real etcd: of it and a run's promotion exactly one happens, however they race."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.adapters.etcd import EtcdLeaseStore
from hyops.adapters.etcd_gateway import EtcdGateway
from hyops.cli.main import main
from hyops.errors import HyopsError, StaleGenerationError
from hyops.fence.agent import AgentParts, FenceAgent
from hyops.fence.config import FenceAgentConfig
from hyops.fence.first import create
from hyops.fence.lease import LeaseTimes
from hyops.fence.state import AgentState
from hyops.fence.verbs import FenceVerbs, VerbPolicy
from hyops.model import canonical
from hyops.model.dsse import sign_record
from hyops.model.fence import DemotionReceipt, FenceReceipt, Observation
from hyops.model.vocabulary import ReceiptClass
from hyops.testing.clock import EPOCH
from hyops.testing.switch import MemoryDatabase, MemoryEdge, StaticKeys
from loopback import Etcd, missing
from switch_pair import BOTH, KEYS, MEMBERS, RUNNER, Memory
from waiting import until

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
HELD: dict[str, Any] = {"generation": 1, "run_id": "run-1"}


@dataclass
class Two:
    """Both agents alive over one etcd; edges and databases in memory, time is real."""

    store: EtcdLeaseStore
    keys: StaticKeys
    edges: dict[str, MemoryEdge]
    databases: dict[str, MemoryDatabase]
    verbs: dict[str, FenceVerbs]

    def writers(self) -> list[str]:
        """Where a write would be acknowledged now."""
        return [host for host, edge in self.edges.items() if edge.passes() and self.databases[host].role() == "primary"]

    async def promote(self, demotion: DemotionReceipt, *, raised: bool) -> None:
        """What a run that goes on does with what it holds: raise the generation, promote."""
        if not raised:
            await self.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1")
        seen = Observation(by="x", how="probe", saw="refused", at=EPOCH)
        words: dict[str, Any] = {"service": "pg", "host": "onprem-db", "target": "cloud-db", "run_id": "run-1"}
        words |= {"generation": 1, "next_generation": 2, "receipt_class": ReceiptClass.OBSERVED, "issued_at": EPOCH}
        receipt = sign_record(FenceReceipt(receipt_id="fence-1", observations=[seen], **words), self.keys)
        await self.verbs["cloud-db"].promote(receipt=receipt, generation=2, run_id="run-1", demotion=demotion)


@asynccontextmanager
async def two_agents(etcd: Etcd, root: str) -> AsyncIterator[Two]:
    """onprem-db is the primary of generation 1 and open."""
    clock, keys = SystemClock(), StaticKeys(RUNNER, KEYS)
    store = EtcdLeaseStore(EtcdGateway(etcd.endpoints), clock, root=root)
    await create(store, "pg", 1, "onprem-db", 0.0)
    policy = VerbPolicy({member.host: member for member in MEMBERS}, BOTH, keys)
    databases = {"onprem-db": MemoryDatabase(), "cloud-db": MemoryDatabase(standby=True)}
    databases["cloud-db"].upstream = databases["onprem-db"]
    edges, verbs, stop, tasks = {}, {}, asyncio.Event(), []
    for host, database in databases.items():
        edges[host] = MemoryEdge(clock)
        known = AgentState(service="pg", host=host, generation=1, primary="onprem-db")
        parts = AgentParts(store, edges[host], database, Memory(known), clock, lambda _: None)
        agent = FenceAgent("pg", host, LeaseTimes(ttl_s=1.0, renew_s=0.125, stop_after_s=0.2), parts)
        verbs[host] = FenceVerbs(agent, policy)
        tasks.append(asyncio.create_task(agent.run(stop)))
    two = Two(store, keys, edges, databases, verbs)
    try:
        await until(lambda: two.writers() == ["onprem-db"], "the first writer", 60.0)
        yield two
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        await store.close()


@pytest.mark.req("INV-1", "INV-2", "INV-3", "GEN-1")
def test_a_late_promotion_with_the_old_receipts_is_refused(tmp_path: Path) -> None:
    """Demoted by run-1, readmitted, serving new rows; then run-1 wakes up with receipts that were good before."""

    async def scenario(etcd: Etcd) -> None:
        async with two_agents(etcd, "/hyops/late") as two:
            demotion = await two.verbs["onprem-db"].demote(**HELD)
            assert two.writers() == []
            status = await two.verbs["onprem-db"].readmit(**HELD)
            assert (status.edge, status.generation, status.holds_lease) == ("open", 2, True)
            for raised in (False, True):
                with pytest.raises(StaleGenerationError):
                    await two.promote(demotion, raised=raised)
            with pytest.raises(StaleGenerationError):
                await two.verbs["onprem-db"].fence(**HELD)
            now = await two.store.state("pg")
            assert (now.generation, now.primary, now.changed_by) == (2, "onprem-db", "readmit:run-1")
            assert (two.writers(), two.databases["cloud-db"].role()) == (["onprem-db"], "standby")

    with Etcd(tmp_path / "etcd") as etcd:
        asyncio.run(scenario(etcd))


@pytest.mark.req("INV-1", "INV-2", "GEN-1")
def test_of_a_readmission_and_a_promotion_that_race_exactly_one_happens(tmp_path: Path) -> None:
    """Ten races with different head starts: one primary, one refusal, never two writers."""

    async def race(etcd: Etcd, number: int) -> str:
        async with two_agents(etcd, f"/hyops/race-{number}") as two:
            demotion = await two.verbs["onprem-db"].demote(**HELD)

            async def after(turns: int, work: Any) -> None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                await work

            ends = await asyncio.gather(
                after(number % 5, two.verbs["onprem-db"].readmit(**HELD)),
                after(number // 2, two.promote(demotion, raised=False)),
                return_exceptions=True,
            )
            refused = [end for end in ends if isinstance(end, HyopsError)]
            assert [type(end) for end in refused] == [StaleGenerationError], ends
            now = await two.store.state("pg")
            assert (now.generation, two.writers()) == (2, [now.primary])
            return now.primary

    async def scenario(etcd: Etcd) -> None:
        for number in range(10):
            await race(etcd, number)

    with Etcd(tmp_path / "etcd") as etcd:
        asyncio.run(scenario(etcd))


@pytest.mark.req("GEN-1", "INV-5", "UX-1")
def test_init_is_for_a_new_service_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once it creates; again, after the memory was lost, and from the other member it is refused with exit code 15."""
    members = [member.body() for member in MEMBERS]

    def config(host: str, endpoints: list[str]) -> Path:
        body = {"api_version": "hybridops/v1", "kind": "FenceAgent", "service": "pg", "host": host, "members": members}
        body |= {"lease": {"endpoints": endpoints}, "receipts": ["observed"]}
        body |= {"state_file": str(tmp_path / host / "state.json")}
        (tmp_path / host).mkdir(exist_ok=True)
        (tmp_path / f"{host}.json").write_bytes(canonical.encode(body))
        return tmp_path / f"{host}.json"

    with Etcd(tmp_path / "etcd") as etcd:
        first, second = config("onprem-db", etcd.endpoints), config("cloud-db", etcd.endpoints)
        assert main(["fence", "init", "--config", str(first)]) == 0
        read = FenceAgentConfig.read(first.read_bytes(), source="config")
        remembered = AgentState.read(Path(read.state_file).read_bytes(), source="state")
        assert (remembered.generation, remembered.primary, remembered.hold) == (1, "onprem-db", "none")
        assert main(["fence", "init", "--config", str(first)]) == 12
        assert "has seen generation 1" in capsys.readouterr().err
        Path(read.state_file).unlink()
        assert main(["fence", "init", "--config", str(first), "--generation", "5"]) == 15
        assert "not new" in capsys.readouterr().err
        lost = AgentState.read(Path(read.state_file).read_bytes(), source="state")
        assert lost.hold == "forgotten"
        Path(read.state_file).write_bytes(b"")
        assert main(["fence", "init", "--config", str(first)]) == 11  # there and unreadable: nobody may guess
        assert main(["fence", "init", "--config", str(second)]) == 15
