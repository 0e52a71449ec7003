"""What the promoting host checks of a receipt for itself, and what the agent remembers."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.state_file import StateFile
from hyops.errors import NotFencedError, PrerequisiteError, RecordError, StaleGenerationError, TargetError
from hyops.fence.config import PostgresConfig
from hyops.fence.state import AgentState
from hyops.fence.verbs import VerbPolicy, check_receipt
from hyops.model.dsse import sign_record
from hyops.model.fence import DemotionReceipt, FenceReceipt, Observation
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.probe import WriteVerdict
from hyops.testing.clock import EPOCH
from hyops.testing.switch import StaticKeys
from switch_pair import BOTH, KEYS, MEMBERS, RUNNER, Pair, Unreachable, run, switch


def receipt(**changes: Any) -> FenceReceipt:
    """One that would do, unless changed."""
    words: dict[str, Any] = {
        "receipt_id": "fence-1",
        "receipt_class": ReceiptClass.OBSERVED,
        "service": "pg",
        "host": "onprem-db",
        "generation": 1,
        "next_generation": 2,
        "target": "cloud-db",
        "run_id": "run-1",
        "issued_at": EPOCH,
        "observations": [Observation(by="x", how="probe", saw="refused", at=EPOCH)],
    }
    return FenceReceipt(**(words | changes))


def check(candidate: FenceReceipt) -> None:
    """As the agent on cloud-db does for generation 2 and run-1."""
    policy = VerbPolicy({member.host: member for member in MEMBERS}, BOTH, StaticKeys(RUNNER, KEYS))
    check_receipt(candidate, "pg", "cloud-db", 2, "run-1", policy)


@pytest.mark.req("INV-2", "FEN-1")
def test_a_receipt_for_this_very_promotion_is_proof() -> None:
    """Signed by a runner's key, every field right: nothing is raised."""
    check(sign_record(receipt(), StaticKeys(RUNNER, KEYS)))


@pytest.mark.req("INV-2", "FEN-1", "INV-3")
@pytest.mark.parametrize(
    "changes",
    [
        {"service": "other"},
        {"target": "onprem-db"},
        {"host": "cloud-db"},
        {"host": "stranger"},
        {"generation": 0, "next_generation": 1},
        {"next_generation": 3},
        {"generation": 0},
        {"run_id": "run-2"},
        {"receipt_class": ReceiptClass.ATTESTED},
        {"receipt_class": ReceiptClass.BREAK_GLASS},
    ],
)
def test_a_receipt_for_anything_else_is_no_proof(changes: dict[str, Any]) -> None:
    """Each wrong field alone is enough to refuse, however well it is signed."""
    with pytest.raises(NotFencedError):
        check(sign_record(receipt(**changes), StaticKeys(RUNNER, KEYS)))


@pytest.mark.req("INV-2")
@pytest.mark.parametrize("signer", [None, "approver", "stranger"])
def test_only_a_runners_signature_counts(signer: str | None) -> None:
    """Unsigned, by a trusted key of another role, by an unknown key, and altered after signing: refused."""
    unsigned = receipt()
    candidate = unsigned if signer is None else sign_record(unsigned, StaticKeys(signer, KEYS))
    with pytest.raises(NotFencedError):
        check(candidate)
    altered = sign_record(unsigned, StaticKeys(RUNNER, KEYS)).model_copy(update={"margin_s": 9.0})
    with pytest.raises(NotFencedError, match="wrong signature"):
        check(altered)


@pytest.mark.req("INV-3", "GEN-1")
def test_verbs_of_an_older_generation_are_refused() -> None:
    """After a switch the new primary takes no fence, demotion or promotion of the generation that ended."""
    pair = Pair()
    results = run(switch(pair, pair.spec(planned=True)))
    verbs = pair.hosts["cloud-db"].verbs
    old = FenceReceipt.of(results["fence"].outputs["receipt"])
    for call in (
        lambda: verbs.fence(generation=1, run_id="run-1"),
        lambda: verbs.demote(generation=1, run_id="run-1"),
        lambda: verbs.follow(primary="onprem-db", generation=1, run_id="run-1"),
        lambda: pair.hosts["onprem-db"].verbs.promote(receipt=old, generation=2, run_id="run-1", demotion=None),
    ):
        with pytest.raises((StaleGenerationError, NotFencedError)):
            run(call())
    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("INV-2")
def test_a_receipt_without_the_quorums_word_promotes_nobody() -> None:
    """The generation was not raised for this host by this run: refused, the standby stays one."""
    pair = Pair()
    signed = sign_record(receipt(), pair.keys)
    with pytest.raises(StaleGenerationError):
        run(pair.hosts["cloud-db"].verbs.promote(receipt=signed, generation=2, run_id="run-1", demotion=None))
    assert pair.hosts["cloud-db"].database.role() == "standby"


@pytest.mark.req("FEN-2")
def test_a_demotion_that_hangs_leaves_the_host_closed_and_can_be_taken_back() -> None:
    """The shutdown does not end within its bound: no receipt, closed, and `undo_demote` serves again."""
    from hyops.errors import DeadlineError

    pair = Pair()
    host = pair.hosts["onprem-db"]
    host.database.hangs = True
    with pytest.raises(DeadlineError):
        run(host.verbs.demote(generation=1, run_id="run-1"))
    assert pair.writers() == []
    host.database.hangs = False
    with pytest.raises(TargetError):
        run(host.verbs.undo_demote(generation=1, run_id="run-2"))
    run(host.verbs.undo_demote(generation=1, run_id="run-1"))
    assert pair.writers() == ["onprem-db"]


@pytest.mark.req("FEN-2")
def test_a_demotion_whose_agent_died_half_way_is_completed_by_its_own_run() -> None:
    """Closed but not yet shut down when the agent is restarted: it stays closed, another run gets nothing."""
    pair = Pair()
    host = pair.hosts["onprem-db"]
    assert pair.write("onprem-db", "row") is WriteVerdict.ACCEPTED
    host.memory.save(host.agent.state.model_copy(update={"hold": "demoted", "hold_generation": 1, "hold_run": "run-1"}))
    pair.restart("onprem-db")
    pair.tick(4.0)
    assert pair.writers() == []
    with pytest.raises(TargetError):
        run(host.verbs.demote(generation=1, run_id="run-2"))
    run(switch(pair, pair.spec(planned=True)))
    assert (pair.writers(), pair.lost()) == (["cloud-db"], [])


@pytest.mark.req("FEN-2", "BP-4")
def test_a_standby_that_dies_during_the_hand_over_leaves_the_old_primary_serving() -> None:
    """Demoted, and then nobody answers on the other side: the demotion is taken back, nothing was raised."""
    pair = Pair()
    old, new = pair.hosts["onprem-db"], pair.hosts["cloud-db"]
    demote = old.verbs.demote

    async def demote_and_lose(*, generation: int, run_id: str) -> DemotionReceipt:
        done = await demote(generation=generation, run_id=run_id)
        new.verbs.status = Unreachable().status  # type: ignore[method-assign]
        return done

    old.verbs.demote = demote_and_lose  # type: ignore[method-assign]
    with pytest.raises(NotFencedError, match="serves again"):
        run(switch(pair, pair.spec(planned=True)))
    assert pair.writers() == ["onprem-db"]
    assert new.database.role() == "standby"
    assert run(pair.store.state("pg")).generation == 1


@pytest.mark.req("INV-10")
def test_a_password_is_no_connection_word() -> None:
    """The words reach a process list; a passfile does the same without."""
    with pytest.raises(ValueError, match="passfile"):
        PostgresConfig(source={"user": "replicator", "password": "canary"})
    assert PostgresConfig(source={"user": "replicator", "passfile": "/etc/hyops/pgpass"}).source["passfile"]


@pytest.mark.req("FEN-2")
def test_a_planned_switch_that_cannot_stop_the_old_primary_leaves_it_serving() -> None:
    """The shutdown hangs: the driver takes the demotion back, nothing was raised or promoted."""
    pair = Pair()
    host = pair.hosts["onprem-db"]
    host.database.hangs = True
    host.database.facts = pair.hosts["cloud-db"].database.facts  # type: ignore[method-assign]  # answers, though
    with pytest.raises(TargetError, match="serves again"):
        run(switch(pair, pair.spec(planned=True)))
    assert pair.writers() == ["onprem-db"]
    assert run(pair.store.state("pg")).generation == 1


@pytest.mark.req("FEN-2", "INV-5")
def test_the_memory_is_whole_or_refused(tmp_path: Path) -> None:
    """Saved and read back, 0600; damaged, of another shape or of another host: the agent does not start."""
    file = StateFile(tmp_path / "state.json", AgentState)
    assert file.load() is None
    state = AgentState(service="pg", host="a", generation=4, primary="a", hold="fenced", hold_generation=4)
    file.save(state)
    assert file.load() == state
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600
    with pytest.raises(PrerequisiteError, match="in use"):
        StateFile(tmp_path / "state.json", AgentState).load()
    for damage in (b"", b"{", b'{"service":"pg"}', b'{"service":"pg","host":"a","opens":true}'):
        (tmp_path / "state.json").write_bytes(damage)
        with pytest.raises(RecordError):
            file.load()
    file.close()
    with pytest.raises(PrerequisiteError):
        StateFile(tmp_path / "absent" / "state.json", AgentState).save(state)


@pytest.mark.req("FEN-2")
def test_a_memory_that_cannot_be_written_keeps_the_edge_closed() -> None:
    """A full disk: the fence still closes, and a promotion ends before the database is touched."""
    pair = Pair()

    def full(_: AgentState) -> None:
        raise PrerequisiteError("no space left on device")

    old, new = pair.hosts["onprem-db"], pair.hosts["cloud-db"]
    old.memory.save = full  # type: ignore[method-assign]
    with pytest.raises(PrerequisiteError):
        run(old.verbs.fence(generation=1, run_id="run-1"))
    pair.tick(3.0)
    assert pair.writers() == []
    assert old.database.role() == "stopped"
    new.memory.save = full  # type: ignore[method-assign]
    run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    signed = sign_record(receipt(), pair.keys)
    with pytest.raises(PrerequisiteError):
        run(new.verbs.promote(receipt=signed, generation=2, run_id="run-1", demotion=None))
    assert new.database.role() == "standby"


@pytest.mark.req("DNS-3", "FEN-2")
def test_a_hand_over_never_shuts_the_standby_out() -> None:
    """The edge goes from open to "peers only" in one step: one packet in between is answered by a reset, and the
    replication would end before the standby has the last rows."""
    pair = Pair()
    edge = pair.hosts["onprem-db"].edge
    steps: list[str] = []
    closed, drained = edge.close, edge.drain
    edge.close = lambda: (steps.append("close"), closed())[1]  # type: ignore[method-assign]
    edge.drain = lambda limit_s: (steps.append("drain"), drained(limit_s))[1]  # type: ignore[method-assign]

    run(pair.hosts["onprem-db"].verbs.demote(generation=1, run_id="run-1"))

    assert steps[0] == "drain"
    assert not edge.state().open


@pytest.mark.req("INV-1", "FEN-2")
@pytest.mark.parametrize("verb", ["fence", "demote"])
def test_a_lease_is_not_given_up_while_the_kernel_still_lets_writes_through(verb: str) -> None:
    """The kernel refused to close: the edge is not taken for closed, so nobody may be told that the lease is free."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    closed = old.edge.close

    def stuck(*_: float) -> None:
        raise TargetError("nftables refused: resource busy")

    old.edge.close = old.edge.drain = stuck  # type: ignore[method-assign]
    with pytest.raises(TargetError):
        run(getattr(old.verbs, verb)(generation=1, run_id="run-1"))
    old.agent.restrict(old.agent.state.model_copy(update={"hold": "fenced", "hold_generation": 1}))
    run(old.agent.turn())
    assert old.edge.state().open
    assert old.database.role() == "stopped"
    assert (run(old.verbs.status()).edge, run(old.verbs.status()).facts["fencing"]) == ("open", "by stopping")
    assert run(pair.store.state("pg")).holder == "onprem-db"

    old.edge.close = closed  # type: ignore[method-assign]
    run(old.agent.turn())
    assert not old.edge.state().open
    assert run(pair.store.state("pg")).holder is None
