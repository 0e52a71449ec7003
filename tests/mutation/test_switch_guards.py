"""Each guard of the switch is taken out; the invariant it keeps must then break, or the guard's tests prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hyops.errors import DeadlineError, HyopsError, PrerequisiteError, TargetError
from hyops.fence import agent as agent_module
from hyops.fence import driver_fence, ladder, readmit, status, verbs
from hyops.fence import lease as rules
from hyops.fence import state as state_module
from hyops.fence.state import AgentState
from hyops.model.dsse import sign_record
from hyops.model.fence import LeaseState, Observation
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.probe import WriteProbeResult, WriteVerdict
from hyops.testing.clock import EPOCH
from hyops.testing.lease import MemoryLeaseStore
from hyops.testing.switch import MemoryDatabase, MemoryEdge
from switch_pair import Lying, Pair, run, switch

Patch = Callable[[pytest.MonkeyPatch], None]


def two_writers(pair: Pair) -> bool:
    """INV-1 is broken: two hosts would acknowledge a write at this moment."""
    return len(pair.writers()) == 2


def frozen_then_thawed(patch: Callable[[Pair], None] | None = None) -> bool:
    """The old primary freezes, is replaced by its expired lease, wakes; is there ever a second writer?"""
    pair = Pair()
    if patch is not None:
        patch(pair)
    pair.kill_site()
    broken = False

    def look(_: str) -> None:
        nonlocal broken
        broken = broken or two_writers(pair)

    pair.probe.before_write = look
    try:
        run(switch(pair, pair.spec()))
    except HyopsError:
        return broken
    pair.frozen.clear()
    for _ in range(30):
        broken = broken or two_writers(pair)
        pair.tick(0.1)
    return broken or two_writers(pair)


def test_with_all_guards_there_is_never_a_second_writer() -> None:
    """The control run of every mutation below."""
    assert frozen_then_thawed() is False


@pytest.mark.req("INV-1", "FEN-2")
def test_without_the_kernels_countdown_two_places_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge that stays open until somebody closes it leaves a frozen primary open."""
    monkeypatch.setattr(MemoryEdge, "arm", lambda self, _: _forever(self))
    assert frozen_then_thawed() is True


def _forever(edge: MemoryEdge) -> int:
    edge.slots[0] = float("inf")
    return 0


@pytest.mark.req("INV-1", "FEN-1")
def test_without_waiting_for_the_lease_two_places_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder that does not wait until the holder is gone promotes into a live lease."""

    async def at_once(*_: Any) -> bool:
        return True

    monkeypatch.setattr(MemoryLeaseStore, "wait_no_holder", at_once)
    monkeypatch.setattr(MemoryLeaseStore, "acquire", _acquire_over_a_holder)
    assert frozen_then_thawed() is True


async def _acquire_over_a_holder(
    store: MemoryLeaseStore, service: str, host: str, generation: int, ttl_s: float
) -> Any:
    found = store._get(service)
    store._leases += 1
    found.holder, found.expires_at = (host, generation, store._leases), store.clock.monotonic() + ttl_s
    return agent_module.Grant(store._leases, found.expires_at)


@pytest.mark.req("INV-3", "GEN-1")
def test_without_the_generation_at_renewal_the_old_primary_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that renews whoever held before keeps the old primary open after the generation was raised."""

    async def any_renewal(
        store: Any, service: str, host: str, generation: int, grant: Any, ttl_s: float, **_: Any
    ) -> Any:
        return agent_module.Grant(grant.lease_id, store.clock.monotonic() + ttl_s)

    pair = Pair()
    monkeypatch.setattr(MemoryLeaseStore, "renew", any_renewal)
    monkeypatch.setattr(rules, "_must_close", lambda *_: None)
    run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    pair.tick(5.0)
    assert pair.writers() == ["onprem-db"]


@pytest.mark.req("FEN-1", "INV-2")
def test_without_the_probe_a_lying_agent_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the observation out and a fence that did nothing yields a receipt, with the old primary still open."""

    async def unseen(*_: Any) -> WriteProbeResult:
        return WriteProbeResult(WriteVerdict.REFUSED, "not looked", 0.0)

    pair = Pair(receipts=[ReceiptClass.OBSERVED])
    pair.agents["onprem-db"] = Lying(pair.hosts["onprem-db"].verbs)
    monkeypatch.setattr(ladder.Ladder, "_write", unseen)
    run(switch(pair, pair.spec(), until="fence"))
    assert pair.writers() == ["onprem-db"]
    assert pair.write("onprem-db", "lost later") is WriteVerdict.ACCEPTED


@pytest.mark.req("INV-2")
def test_without_the_receipt_check_anything_promotes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt of another run is refused; with the check gone it promotes."""
    for guarded in (True, False):
        pair = Pair()
        spec = pair.spec()
        outputs = run(switch(pair, spec, until="fence"))["fence"].outputs
        receipt = verbs.FenceReceipt.of(outputs["receipt"]).model_copy(update={"run_id": "run-other"})
        words: dict[str, Any] = {"receipt": receipt, "generation": 2, "run_id": "run-1", "demotion": None}
        if not guarded:
            monkeypatch.setattr(verbs, "check_receipt", lambda *_: None)
        try:
            run(pair.hosts["cloud-db"].verbs.promote(**words))
        except HyopsError:
            assert guarded
        assert (pair.writers() == ["cloud-db"]) is not guarded


@pytest.mark.req("INV-3", "FEN-2")
@pytest.mark.fault(28)
def test_without_its_memory_a_fenced_host_opens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fenced while its generation still stands, and restarted: with the hold forgotten it serves again."""
    for guarded in (True, False):
        pair = Pair()
        run(pair.hosts["onprem-db"].verbs.fence(generation=1, run_id="run-1"))
        if not guarded:
            monkeypatch.setattr(AgentState, "holding", lambda _: False)
        pair.restart("onprem-db")
        run(pair.hosts["onprem-db"].database.start(limit_s=1))  # somebody starts the unit
        pair.tick(4.0)
        assert (pair.writers() == []) is guarded


@pytest.mark.req("INV-1")
def test_without_waiting_for_replay_a_planned_switch_loses_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standby is behind: with both replay checks gone the switch goes on and acknowledged rows are lost."""

    async def yes(*_: Any) -> bool:
        return True

    async def ready(*_: Any) -> None:
        return None

    for guarded in (True, False):
        pair = Pair()
        pair.hosts["cloud-db"].database.connected = False
        assert pair.write("onprem-db", "acknowledged") is WriteVerdict.ACCEPTED
        if not guarded:
            monkeypatch.setattr(driver_fence.FenceDriver, "_replayed", yes)
            monkeypatch.setattr(verbs.FenceVerbs, "_ready", ready)
        try:
            run(switch(pair, pair.spec(planned=True), until="promote"))
        except HyopsError:
            assert guarded
        assert (pair.lost() == []) is guarded


@pytest.mark.req("INV-1", "FEN-2")
def test_without_the_last_look_a_renewal_opens_under_a_lost_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb learns of a newer generation while a renewal is under way: its answer must not open the edge."""
    for guarded in (True, False):
        pair = Pair()
        agent = pair.hosts["onprem-db"].agent
        agent.close_edge("for the test")
        renew = pair.store.renew

        async def learnt_meanwhile(*words: Any, guarded: bool, agent: Any = agent, renew: Any = renew) -> Any:
            grant = await renew(*words, guarded=guarded)
            agent.remember(agent.state.learnt(2, "cloud-db"))
            return grant

        pair.store.renew = learnt_meanwhile  # type: ignore[method-assign]
        if not guarded:
            monkeypatch.setattr(rules, "may_open", lambda *_: True)
        run(agent.hold_lease())
        assert pair.hosts["onprem-db"].edge.state().open is not guarded


@pytest.mark.req("INV-1", "FEN-2")
def test_a_fence_during_a_renewal_is_guarded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even without the last look, closing the edge has thrown away the slot that the renewal had armed."""
    pair = Pair()
    agent = pair.hosts["onprem-db"].agent
    renew = pair.store.renew

    async def fenced_meanwhile(*words: Any, guarded: bool) -> Any:
        grant = await renew(*words, guarded=guarded)
        agent.close_edge("fenced")
        return grant

    pair.store.renew = fenced_meanwhile  # type: ignore[method-assign]
    monkeypatch.setattr(rules, "may_open", lambda *_: True)
    run(agent.hold_lease())
    assert pair.hosts["onprem-db"].edge.state().open is False


def flushed_and_broken(pair: Pair) -> None:
    """Somebody flushed the rules, and nothing that is asked of the edge works any more."""

    def refused(*_: Any) -> Any:
        raise TargetError("Operation not permitted")

    edge = pair.hosts["onprem-db"].edge
    edge.close()
    edge.installed = False
    for call in ("install", "arm", "grant", "drain", "read", "close", "state"):
        setattr(edge, call, refused)


def turns_without_quorum(pair: Pair) -> None:
    """The old primary's agent goes on for three leases; the quorum is silent."""
    pair.store.silent = True
    for _ in range(60):
        pair.clock.advance(0.1)
        run(pair.hosts["onprem-db"].agent._safe_turn())


@pytest.mark.req("INV-1", "FEN-2")
def test_without_the_next_rung_a_broken_edge_leaves_a_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushed, broken, no lease: only the rule for the second fault and the fallback of a failed turn stop it."""
    for guarded in (True, False):
        pair = Pair()
        flushed_and_broken(pair)
        if not guarded:
            monkeypatch.setattr(rules, "_without_edge", lambda *_: rules.Wait(0.25, "the edge fails"))
        turns_without_quorum(pair)
        assert (pair.writers() == []) is guarded


def unguarded_then_frozen() -> bool:
    """Flushed, not to be put back, seen by its agent, frozen until the lease is over; is there then a second writer?"""
    pair = Pair()
    old = pair.hosts["onprem-db"]

    def refused(*_: Any) -> Any:
        raise TargetError("Operation not permitted")

    old.edge.close()
    old.edge.installed = False
    old.edge.install = refused  # type: ignore[method-assign]
    pair.tick(0.5)
    pair.kill_site()
    try:
        run(switch(pair, pair.spec(), until="promote"))
    except HyopsError:
        return two_writers(pair)
    return two_writers(pair)


@pytest.mark.req("INV-1", "INV-2", "FEN-1")
def test_without_the_holders_word_the_end_of_its_lease_makes_two_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ladder's look, the store's word and the agent's reading of the rules: without any of them, two writers."""
    assert unguarded_then_frozen() is False
    renew = MemoryLeaseStore.renew

    async def says_nothing(*words: Any, guarded: bool) -> Any:
        return await renew(*words, guarded=True)

    for owner, guard, taken_out in (
        (LeaseState, "unguarded_under", lambda *_: False),
        (MemoryLeaseStore, "renew", says_nothing),
        (agent_module.FenceAgent, "_rules_stand", lambda _: True),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, guard, taken_out)
            assert unguarded_then_frozen() is True, guard
    assert unguarded_then_frozen() is False


@pytest.mark.req("INV-1", "FEN-2")
def test_without_the_kill_a_database_that_ignores_its_stop_goes_on_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop hangs: with the last rung gone it would be tried and told for ever."""

    async def hangs(*_: Any, **__: Any) -> None:
        raise DeadlineError("has not stopped")

    for guarded in (True, False):
        pair = Pair()
        pair.hosts["onprem-db"].database.stop = hangs  # type: ignore[method-assign]
        flushed_and_broken(pair)
        if not guarded:
            monkeypatch.setattr(MemoryDatabase, "kill", hangs)
        turns_without_quorum(pair)
        assert (pair.writers() == []) is guarded


@pytest.mark.req("FEN-1", "INV-2")
def test_without_the_look_at_the_edge_an_open_one_is_told_to_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A status that takes an unreadable or missing rule set for a closed one would be an observation of nothing."""
    for guarded in (True, False):
        pair = Pair()
        old = pair.hosts["onprem-db"]
        flushed_and_broken(pair)
        if not guarded:
            monkeypatch.setattr(status, "edge_word", lambda _: "closed")
        assert (run(old.verbs.status()).edge != "closed") is guarded
        assert pair.writers() == ["onprem-db"]


@pytest.mark.req("INV-1", "INV-2", "GEN-1")
def test_without_the_raised_generation_a_late_promotion_loses_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readmitted by a flag instead of the quorum's compare-and-set: the run wakes up, and its receipts still count."""

    async def by_flag(agent: Any, *_: Any) -> Any:
        return await agent.parts.store.state(agent.service)

    for guarded in (True, False):
        pair = Pair()
        old, new = pair.hosts["onprem-db"], pair.hosts["cloud-db"]
        demotion = run(old.verbs.demote(generation=1, run_id="run-1"))
        new.database.stream()
        if not guarded:
            monkeypatch.setattr(readmit, "raise_for", by_flag)
        run(old.verbs.readmit(generation=1, run_id="run-1"))
        new.database.connected = False
        assert pair.write("onprem-db", "after") is WriteVerdict.ACCEPTED
        receipt = _receipt_of_run_1(pair)
        try:
            run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
            run(new.verbs.promote(receipt=receipt, generation=2, run_id="run-1", demotion=demotion))
        except HyopsError:
            assert guarded
        assert (pair.lost() == []) is guarded


@pytest.mark.req("INV-1", "INV-2", "GEN-1")
def test_without_the_last_holder_a_promoted_target_is_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target served and died; readmitted without asking who held last, its acknowledged rows are gone."""
    for guarded in (True, False):
        pair = Pair()
        run(switch(pair, pair.spec(planned=True), until="promote"))
        pair.tick(1.0)
        assert pair.write("cloud-db", "only there") is WriteVerdict.ACCEPTED
        pair.frozen.add("cloud-db")
        pair.tick(4.0)
        if not guarded:
            monkeypatch.setattr(readmit, "_abandoned", lambda *_: True)
            monkeypatch.setattr(MemoryLeaseStore, "raise_generation", _raise_whoever_held)
        try:
            run(pair.hosts["onprem-db"].verbs.readmit(generation=1, run_id="run-1"))
        except HyopsError:
            assert guarded
        assert (pair.lost() == []) is guarded


REAL_RAISE = MemoryLeaseStore.raise_generation


async def _raise_whoever_held(store: MemoryLeaseStore, service: str, *, last_holder: str | None, **words: Any) -> Any:
    return await REAL_RAISE(store, service, **words)


def _receipt_of_run_1(pair: Pair) -> verbs.FenceReceipt:
    seen = Observation(by="x", how="probe", saw="refused", at=EPOCH)
    words: dict[str, Any] = {"service": "pg", "host": "onprem-db", "target": "cloud-db", "run_id": "run-1"}
    words |= {"generation": 1, "next_generation": 2, "receipt_class": ReceiptClass.OBSERVED, "issued_at": EPOCH}
    return sign_record(verbs.FenceReceipt(receipt_id="fence-1", observations=[seen], **words), pair.keys)


@pytest.mark.req("INV-1", "INV-5", "FEN-2")
@pytest.mark.fault(28)
def test_without_the_hold_of_a_lost_memory_a_fenced_host_opens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fenced, the disk lost, restarted: taken for a new host, it serves under the generation that was fenced."""
    for guarded in (True, False):
        pair = Pair()
        old = pair.hosts["onprem-db"]
        run(old.verbs.fence(generation=1, run_id="run-1"))
        old.memory.state = None
        if not guarded:
            monkeypatch.setattr(state_module, "forgotten", lambda service, host: AgentState(service=service, host=host))
        pair.restart("onprem-db")
        run(old.database.start(limit_s=1))
        pair.tick(4.0)
        assert (pair.writers() == []) is guarded


@pytest.mark.req("FEN-2", "GATE-1")
def test_without_the_prepared_target_a_planned_switch_ends_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's disk is full: with its word not asked for, a healthy primary is demoted and nobody serves."""

    def full(_: Any) -> None:
        raise PrerequisiteError("No space left on device")

    async def unasked(*_: Any) -> None:
        return None

    for guarded in (True, False):
        pair = Pair()
        pair.hosts["cloud-db"].memory.save = full  # type: ignore[method-assign]
        if not guarded:
            monkeypatch.setattr(driver_fence, "prepare_target", unasked)
        with pytest.raises(HyopsError):
            run(switch(pair, pair.spec(planned=True), until="promote"))
        assert (pair.writers() == ["onprem-db"]) is guarded


def test_the_lying_agent_of_these_tests_really_lies() -> None:
    """Its fence leaves everything as it was."""
    pair = Pair()
    status = run(Lying(pair.hosts["onprem-db"].verbs).fence(generation=1, run_id="run-1"))
    assert status.edge == "closed"
    assert replace(status).role == "stopped"
    assert pair.writers() == ["onprem-db"]
