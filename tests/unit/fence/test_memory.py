"""The memory of an agent lost, torn or not to be written: it comes up closed, and nothing is taken for new."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.state_file import StateFile
from hyops.errors import HyopsError, PrerequisiteError, RecordError, StaleGenerationError
from hyops.fence.first import create, refuse_if_known
from hyops.fence.lease import LeaseTimes
from hyops.fence.state import FORGOTTEN, AgentState, forgotten
from hyops.model import canonical
from hyops.ports.lease import QuorumLostError
from hyops.testing.clock import FakeClock
from hyops.testing.lease import MemoryLeaseStore
from switch_pair import Pair, run, switch

KNOWN = AgentState(service="pg", host="onprem-db", generation=1, primary="onprem-db")
WHOLE = canonical.encode(KNOWN.body()) + b"\n"


def missing(path: Path) -> None:
    """The disk was replaced."""
    path.unlink()


def as_folder(path: Path) -> None:
    """Something that opens and cannot be read (as root reads all files, the other ways to it are not to be had)."""
    path.unlink()
    path.mkdir()


def holding(data: bytes) -> Callable[[Path], None]:
    """These bytes are found after a power loss."""
    return lambda path: path.write_bytes(data) and None


DAMAGES = [
    missing,
    as_folder,
    *(holding(data) for data in (b"", b"\x00" * 300, WHOLE[: len(WHOLE) // 2], WHOLE[:-3], b"{}", b"[]", b"null\n")),
    holding(WHOLE.replace(b"hyops/fence-agent/v1", b"hyops/fence-agent/v9")),
    holding(WHOLE.replace(b'"generation":1', b'"generation":-1')),
]


def with_file(pair: Pair, path: Path) -> StateFile[AgentState]:
    """onprem-db's agent keeps its memory in a real file."""
    file = StateFile(path, AgentState)
    file.save(KNOWN)
    pair.hosts["onprem-db"].memory = file  # type: ignore[assignment]
    return file


@pytest.mark.req("INV-5", "FEN-2", "INV-1")
@pytest.mark.fault(28)
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_agent_without_a_readable_memory_comes_up_closed(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """The quorum names it, the lease is free, the database runs: closed all the same, and it says why."""
    pair, path = Pair(), tmp_path / "state.json"
    file = with_file(pair, path)
    damage(path)
    pair.hosts["onprem-db"].edge.close()
    pair.restart("onprem-db")

    pair.tick(5.0)

    host = pair.hosts["onprem-db"]
    assert pair.writers() == []
    assert run(pair.store.state("pg")).holder is None
    assert (host.agent.state.hold, host.agent.state.hold_run) == ("forgotten", FORGOTTEN)
    status = run(host.verbs.status())
    assert "readmit" in status.facts["why"]
    assert status.edge == "closed"
    file.close()


@pytest.mark.req("INV-5", "FEN-2")
def test_what_was_forgotten_stays_forgotten_over_a_restart(tmp_path: Path) -> None:
    """Once the quorum has shown the generation it is remembered with the hold: the next start is no way out either."""
    pair, path = Pair(), tmp_path / "state.json"
    file = with_file(pair, path)
    path.write_bytes(b"")
    for _ in range(3):
        pair.hosts["onprem-db"].edge.close()
        pair.restart("onprem-db")
        pair.tick(3.0)
        assert pair.writers() == []
    assert file.load() == forgotten("pg", "onprem-db").learnt(1, "onprem-db")
    file.close()


@pytest.mark.req("INV-1", "INV-2", "INV-5")
def test_a_hold_that_was_forgotten_is_still_kept() -> None:
    """Fenced with nothing raised yet, then the disk is lost: the promotion that relies on the fence stays alone."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    run(old.verbs.fence(generation=1, run_id="run-1"))
    old.memory.state = None
    pair.restart("onprem-db")
    run(old.database.start(limit_s=1))
    pair.tick(5.0)
    assert pair.writers() == []
    run(switch(pair, pair.spec()))
    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("FEN-2", "DEC-4")
def test_a_standby_without_a_memory_is_watched_and_can_be_promoted() -> None:
    """For it nothing can have been promised: it lets the monitors in, learns, and takes over by a proper switch."""
    pair = Pair()
    new = pair.hosts["cloud-db"]
    new.memory.state = None
    pair.restart("cloud-db")
    pair.tick(1.0)
    assert new.edge.state().reading
    assert pair.hosts["cloud-db"].agent.state.hold == "none"
    run(switch(pair, pair.spec(planned=True)))
    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("INV-5")
def test_a_disk_that_fills_while_it_is_written_leaves_the_old_memory_whole(tmp_path: Path) -> None:
    """The new file stops in the middle: refused, the old one is read back, nothing half-written stays."""
    path = tmp_path / "state.json"
    file = StateFile(path, AgentState)
    file.save(KNOWN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(PrerequisiteError):
            file.save(KNOWN.learnt(2, "cloud-db"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.load() == KNOWN
    assert sorted(os.listdir(tmp_path)) == ["state.json", "state.json.lock"]
    file.close()


@pytest.mark.req("INV-5")
def test_a_damaged_memory_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    """Somebody will want to know what was in it."""
    path = tmp_path / "state.json"
    path.write_bytes(b"\x00torn")
    file = StateFile(path, AgentState)
    with pytest.raises(RecordError):
        file.load()
    assert path.read_bytes() == b"\x00torn"
    file.save(KNOWN)
    assert file.load() == KNOWN
    assert (tmp_path / "state.json.unreadable").read_bytes() == b"\x00torn"
    file.close()


@pytest.mark.req("GEN-1", "INV-5")
@pytest.mark.parametrize("primary", ["onprem-db", "cloud-db"])
def test_a_service_that_has_a_generation_is_not_new(primary: str) -> None:
    """The first generation is created once; whoever asks again is refused, also the host that is its primary."""
    store = MemoryLeaseStore(FakeClock())
    assert run(create(store, "pg", 1, "onprem-db", 0.0)).generation == 1
    for generation in (1, 2, 7):
        with pytest.raises(StaleGenerationError, match="not new"):
            run(create(store, "pg", generation, primary, 0.0))
    assert run(store.state("pg")).generation == 1


@pytest.mark.req("GEN-1")
def test_of_two_hosts_that_create_it_at_once_one_is_refused() -> None:
    """Both saw that there was none; the compare-and-set decides, and the slower one is told."""
    store = MemoryLeaseStore(FakeClock())
    plain = store.initialise

    async def somebody_is_faster(service: str, generation: int, primary: str) -> Any:
        await plain(service, 1, "cloud-db")
        return await plain(service, generation, primary)

    store.initialise = somebody_is_faster  # type: ignore[method-assign]
    with pytest.raises(StaleGenerationError, match="primary cloud-db"):
        run(create(store, "pg", 1, "onprem-db", 0.0))


@pytest.mark.req("GEN-1", "INV-5")
def test_without_a_quorum_nothing_is_created() -> None:
    """Silence is no empty store."""
    store = MemoryLeaseStore(FakeClock(), silent=True)
    with pytest.raises(PrerequisiteError, match="no quorum"):
        run(create(store, "pg", 1, "onprem-db", 0.0))
    store.silent = False
    with pytest.raises(RecordError):
        run(store.state("pg"))


@pytest.mark.req("GEN-1", "INV-5")
def test_a_host_that_remembers_a_generation_refuses_to_begin_again() -> None:
    """The store may have been lost; an empty memory and one that knows nothing yet are no hindrance."""
    refuse_if_known(None)
    refuse_if_known(forgotten("pg", "onprem-db"))
    for known in (KNOWN, forgotten("pg", "onprem-db").learnt(3, "cloud-db")):
        with pytest.raises(PrerequisiteError, match="not new"):
            refuse_if_known(known)


@pytest.mark.req("INV-5", "FEN-2")
def test_a_store_that_was_restored_older_opens_nothing() -> None:
    """The memory knows generation 4, the quorum shows 1: closed, and it says so."""
    pair = Pair()
    host = pair.hosts["onprem-db"]
    host.memory.save(KNOWN.model_copy(update={"generation": 4}))
    host.edge.close()
    pair.restart("onprem-db")
    pair.tick(5.0)
    assert pair.writers() == []
    assert "older" in host.agent.why


@pytest.mark.req("FEN-2")
def test_the_quorum_alone_is_asked_and_its_silence_leaves_a_lost_memory_closed() -> None:
    """No memory and no quorum: nothing is known, nothing is opened, nothing is written."""
    pair = Pair()
    host = pair.hosts["onprem-db"]
    host.memory.state = None
    host.edge.close()
    pair.store.silent = True
    pair.restart("onprem-db")
    pair.tick(5.0)
    assert pair.writers() == []
    assert host.memory.state is None
    with pytest.raises((HyopsError, QuorumLostError)):
        run(pair.hosts["onprem-db"].verbs.readmit(generation=1, run_id=FORGOTTEN))
    assert LeaseTimes().on_loss == "self-fence"


@pytest.mark.req("INV-1", "INV-5", "FEN-2")
def test_a_primary_that_is_no_member_is_never_learnt() -> None:
    """The host closes when its lease cannot be renewed, remembers nothing, and serves when the record is right."""
    pair = Pair()
    found = pair.store._get("pg")
    found.generation, found.primary = 999, "nowhere"
    pair.tick(5.0)

    assert pair.writers() == []
    for name, host in pair.hosts.items():
        assert host.agent.state.generation == 1, name
        with pytest.raises(RecordError, match="no member"):
            run(host.verbs.demote(generation=999, run_id="run-1"))
        assert host.memory.state is not None
        assert (host.memory.state.generation, host.memory.state.primary) == (1, "onprem-db")

    found.generation, found.primary = 1, "onprem-db"
    pair.tick(5.0)
    assert pair.writers() == ["onprem-db"]
