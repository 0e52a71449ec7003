"""A host whose edge is broken cannot be proved fenced by time: it says so first, and no end of its lease counts."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyops.errors import HyopsError, NotFencedError, TargetError
from hyops.fence.inputs import FenceInputs
from hyops.fence.ladder import Ladder
from hyops.model.fence import FenceReceipt, LeaseState
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.lease import QuorumLostError
from hyops.ports.power import PowerState
from hyops.ports.probe import WriteVerdict
from hyops.testing.power import MemoryPowerSwitch
from switch_pair import LEASE, MEMBERS, RUNNER, Host, Pair, Unreachable, run, switch

EDGE_CALLS = ("install", "arm", "grant", "drain", "read", "close", "state")
BREAKS = (("install",), ("state",), ("install", "close"), ("arm", "install"), EDGE_CALLS)
EXPIRED = [ReceiptClass.LEASE_EXPIRED]
SEEN_EXPIRED_OR_OFF = [ReceiptClass.OBSERVED, ReceiptClass.LEASE_EXPIRED, ReceiptClass.POWERED_OFF]


def break_edge(host: Host, calls: tuple[str, ...] = ("install",)) -> None:
    """`nft flush ruleset` under an agent that may not put the rules back."""

    def refused(*_: Any) -> Any:
        raise TargetError("nftables refused: Operation not permitted")

    host.edge.close()
    host.edge.installed = False
    for name in calls:
        setattr(host.edge, name, refused)


def mend_edge(host: Host) -> None:
    """The capability is back; the rules are put back by the agent's next turn."""
    for name in EDGE_CALLS:
        host.edge.__dict__.pop(name, None)


def freeze(pair: Pair) -> None:
    """The old primary stands still, agent and all; nobody reaches it."""
    pair.kill_site()


def thaw(pair: Pair) -> None:
    """It goes on where it stood, before its agent has had a turn."""
    pair.frozen.clear()
    pair.agents.clear()
    pair.probe.hosts[MEMBERS[0].address].reachable = True
    pair.hosts["cloud-db"].database.connected = True


def told(pair: Pair) -> LeaseState:
    """What the quorum says."""
    return run(pair.store.state("pg"))


@pytest.mark.req("FEN-1", "FEN-2")
@pytest.mark.parametrize("calls", BREAKS)
def test_it_says_so_in_the_turn_that_sees_it_and_takes_it_back_when_it_is_whole(calls: tuple[str, ...]) -> None:
    """The quorum knows before the lease is prolonged once more, for as long as it lasts, and not any longer."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    assert told(pair).unguarded is None
    break_edge(old, calls)

    run(old.agent.turn())  # no time has passed: it does not wait until a renewal is due

    assert told(pair).unguarded_under("onprem-db", 1)
    assert run(old.verbs.status()).facts["told_unguarded"] is True
    pair.tick(3 * pair.times.ttl_s)
    assert pair.write("onprem-db", "by right") is WriteVerdict.ACCEPTED
    assert told(pair).unguarded_under("onprem-db", 1)
    mend_edge(old)
    pair.tick(0.5)
    assert told(pair).unguarded is None
    status = run(old.verbs.status())
    assert (status.edge, status.facts["told_unguarded"]) == ("open", False)
    assert pair.writers() == ["onprem-db"]


@pytest.mark.req("FEN-1", "INV-1", "INV-2")
@pytest.mark.parametrize("calls", BREAKS)
def test_frozen_after_it_said_so_it_is_not_replaced_by_the_end_of_its_lease(calls: tuple[str, ...]) -> None:
    """The lease runs out, and the edge is open: refused, with the host and the way on, and nothing was raised."""
    pair = Pair()
    break_edge(pair.hosts["onprem-db"], calls)
    pair.tick(0.3)
    freeze(pair)
    pair.clock.advance(5 * pair.times.ttl_s)
    assert told(pair).holder is None
    assert pair.hosts["onprem-db"].edge.passes()

    with pytest.raises(NotFencedError) as refused:
        run(switch(pair, pair.spec()))

    assert "onprem-db renewed unguarded under generation 1" in refused.value.message
    assert "power onprem-db off" in refused.value.message
    assert "generation_after" not in refused.value.facts
    assert told(pair).generation == 1  # whoever cannot be replaced goes on serving if it can
    thaw(pair)
    assert pair.writers() == ["onprem-db"]
    pair.tick(0.1)
    assert pair.writers() == []  # its lease has run out: its database was stopped in its first turn


@pytest.mark.req("FEN-1", "INV-1")
def test_a_degraded_primary_that_cannot_be_replaced_goes_on_serving() -> None:
    """It is alive and out of the runner's reach: nothing was raised, so its renewals go on."""
    pair = Pair()
    break_edge(pair.hosts["onprem-db"])
    pair.tick(0.3)
    pair.agents["onprem-db"] = Unreachable()
    with pytest.raises(NotFencedError):
        run(switch(pair, pair.spec()))
    pair.tick(3 * pair.times.ttl_s)
    assert pair.write("onprem-db", "by right") is WriteVerdict.ACCEPTED
    assert pair.writers() == ["onprem-db"]


@pytest.mark.req("FEN-1", "INV-1")
def test_the_power_switch_suffices() -> None:
    """Frozen and unguarded, cut off by the switch: promoted by powered-off, under a generation raised after it."""
    power = MemoryPowerSwitch(dict.fromkeys(("onprem-db", "cloud-db"), PowerState.ON), "truth")
    pair = Pair(receipts=SEEN_EXPIRED_OR_OFF, power=power)
    old = pair.hosts["onprem-db"]

    def cut(_: str) -> None:
        old.database.running = False

    power.cut = cut
    break_edge(old)
    pair.tick(0.3)
    freeze(pair)
    pair.clock.advance(5 * pair.times.ttl_s)

    results = run(switch(pair, pair.spec(), until="promote"))

    receipt = FenceReceipt.of(results["fence"].outputs["receipt"])
    assert receipt.receipt_class is ReceiptClass.POWERED_OFF
    assert [seen.how for seen in receipt.observations].count("power-state") == 2  # once more after the raise
    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("FEN-1", "INV-1")
def test_an_observed_fence_suffices() -> None:
    """Its edge is whole again and the quorum has not heard of it yet: closed, stopped and probed is proof."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    break_edge(old)
    pair.tick(0.3)
    mend_edge(old)
    old.agent.install_edge()
    assert told(pair).unguarded == "onprem-db"

    results = run(switch(pair, pair.spec(), until="promote"))

    assert results["fence"].outputs["receipt_class"] == "observed"
    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("FEN-1")
@pytest.mark.parametrize("broken", [True, False])
def test_a_switch_that_only_an_expired_lease_could_prove_is_refused_before_anything_is_stopped(broken: bool) -> None:
    """Preflight names the host and why; of a guarded one it has nothing to say."""
    pair = Pair(receipts=EXPIRED)
    if broken:
        break_edge(pair.hosts["onprem-db"])
        pair.tick(0.3)
    words = {name: pair.inputs()[name] for name in FenceInputs.model_fields}
    faults = run(pair.drivers()["native/fence"].preflight(pair.context(pair.spec(), "fence", words)))
    assert bool(faults) is broken
    assert all("onprem-db is unguarded" in fault for fault in faults)


@pytest.mark.req("FEN-1", "EVD-1")
def test_the_receipt_states_that_the_holder_was_guarded() -> None:
    """Broken, mended, lost: the end of its lease is proof again, and says what it rests on."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    break_edge(old)
    pair.tick(0.3)
    mend_edge(old)
    pair.tick(0.3)
    freeze(pair)

    results = run(switch(pair, pair.spec()))

    receipt = FenceReceipt.of(results["fence"].outputs["receipt"])
    assert receipt.receipt_class is ReceiptClass.LEASE_EXPIRED
    store = receipt.observations[0]
    assert store.facts["guarded"] is True
    assert "onprem-db was guarded at its last renewal" in store.saw
    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("FEN-2", "INV-1")
def test_what_cannot_be_published_is_not_renewed() -> None:
    """The quorum is silent when the edge breaks: the deadline that was granted stands, and the database is stopped."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    granted = old.agent.grant
    assert granted is not None
    pair.store.silent = True
    break_edge(old)
    while pair.clock.monotonic() < granted.deadline:
        assert old.agent.grant == granted
        pair.tick(0.1)
    assert old.database.role() == "stopped"
    assert pair.writers() == []


@pytest.mark.req("FEN-2")
def test_a_word_that_the_store_refuses_prolongs_nothing() -> None:
    """Only the transaction that publishes is lost, and each one of them: no other call prolongs the lease."""
    pair = Pair()
    old, renew = pair.hosts["onprem-db"], pair.store.renew

    async def loses_the_word(*words: Any, guarded: bool) -> Any:
        if not guarded:
            raise QuorumLostError("lost")
        return await renew(*words, guarded=guarded)

    pair.store.renew = loses_the_word  # type: ignore[method-assign]
    break_edge(old)
    pair.tick(pair.times.ttl_s + 0.2)
    assert pair.writers() == []


@pytest.mark.req("FEN-1", "FEN-2")
def test_guarded_is_only_what_was_read_from_the_kernel_now() -> None:
    """Flushed between a turn's look and its renewal: armed all the same, and called unguarded all the same."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    assert old.agent.edge_fault is None
    old.edge.installed = False
    run(old.agent.hold_lease())
    assert told(pair).unguarded == "onprem-db"
    pair.tick(0.3)  # nothing is broken: the rules are put back and the word is taken back
    assert told(pair).unguarded is None
    assert run(old.verbs.status()).edge == "open"


@pytest.mark.req("FEN-2", "INV-1")
def test_a_new_lease_is_not_asked_for_without_rules() -> None:
    """A verb that would open the database finds the rules gone: no lease, and nothing is opened."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    old.agent.close_edge("for the test")
    run(old.agent.give_up_lease())
    old.edge.installed = False
    with pytest.raises(TargetError) as refused:
        run(old.agent.hold_lease())
    assert "the edge of onprem-db has no rules" in refused.value.message
    assert told(pair).holder is None


def ladder(pair: Pair, told: LeaseState | None, generation: int = 1) -> Ladder:
    """What proves by time alone that onprem-db has stopped."""
    words = {"service": "pg", "source": MEMBERS[0], "generation": generation, "run_id": "run-1", "lease": LEASE}
    parts = {"agent": Unreachable(), "store": pair.store, "probe": pair.probe, "clock": pair.clock}
    return Ladder(**words, **parts, receipts=EXPIRED, vantage=RUNNER, log=pair.logs.append, told=told)  # type: ignore[arg-type]


@pytest.mark.req("FEN-1", "INV-1")
def test_a_word_that_comes_after_the_raise_counts_too() -> None:
    """Guarded when the generation was raised, broken right after: its renewal is refused, and what it says is not."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    raised = run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    assert raised.unguarded is None
    assert run(ladder(pair, raised).lease_expired()) is not None  # the control: with nothing said it is proof

    pair = Pair()
    old = pair.hosts["onprem-db"]
    raised = run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    break_edge(old)
    with contextlib.suppress(HyopsError):
        run(old.agent.hold_lease())
    freeze(pair)
    late = ladder(pair, raised)
    assert run(late.lease_expired()) is None
    assert "unguarded" in late.findings[0]


@pytest.mark.req("FEN-1", "GEN-1")
@pytest.mark.parametrize("knows", [True, False])
def test_a_quorum_that_falls_silent_leaves_what_it_said_after_the_raise(knows: bool) -> None:
    """What it said then covers every renewal; where it never said it, silence is no proof that the host was guarded."""
    pair = Pair()
    raised = run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    pair.store.silent = True
    freeze(pair)
    assert (run(ladder(pair, raised if knows else None).lease_expired()) is not None) is knows


@pytest.mark.req("FEN-1", "INV-1")
def test_it_counts_for_a_later_run_too_that_begins_where_nobody_was_promoted() -> None:
    """Another run raised the generation for the target and ended: the old primary was unguarded before that."""
    pair = Pair()
    break_edge(pair.hosts["onprem-db"])
    pair.tick(0.3)
    freeze(pair)
    run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    pair.clock.advance(5.0)
    with pytest.raises(NotFencedError) as refused:
        run(switch(pair, pair.spec(generation=2, run_id="run-2")))
    assert "unguarded under generation 1" in refused.value.message
    assert pair.hosts["cloud-db"].database.role() == "standby"


@pytest.mark.req("FEN-1", "GEN-1")
def test_a_run_that_has_raised_and_is_resumed_tells_where_the_service_is() -> None:
    """The word came after its raise: refused again, and the loop learns the generation."""
    pair = Pair()
    old = pair.hosts["onprem-db"]
    run(pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-1"))
    break_edge(old)
    with contextlib.suppress(HyopsError):
        run(old.agent.hold_lease())
    freeze(pair)
    with pytest.raises(NotFencedError) as refused:
        run(switch(pair, pair.spec()))
    assert refused.value.facts["generation_after"] == 2


@pytest.mark.req("FEN-1", "INV-2")
@pytest.mark.parametrize("unguarded", [True, False])
def test_the_target_asks_the_quorum_itself(unguarded: bool) -> None:
    """A runner that knew nothing of it has signed: the promotion is refused, and nothing was promoted."""
    pair = Pair()
    freeze(pair)
    fenced = run(switch(pair, pair.spec(), until="fence"))["fence"].outputs
    if unguarded:
        pair.store._services["pg"].unguarded = ("onprem-db", 1)
    words = {"generation": 2, "run_id": "run-1", "demotion": None}
    promotion = pair.hosts["cloud-db"].verbs.promote(receipt=FenceReceipt.of(fenced["receipt"]), **words)  # type: ignore[arg-type]
    expected: Any = pytest.raises(NotFencedError) if unguarded else contextlib.nullcontext()
    with expected:
        run(promotion)
    assert pair.hosts["cloud-db"].database.role() == ("standby" if unguarded else "primary")


ORDERS = [
    order
    for order in itertools.permutations(("flush", "freeze", "expire", "thaw", "promote"))
    if order.index("freeze") < order.index("thaw")
]


@pytest.mark.req("FEN-1", "INV-1", "INV-2")
@pytest.mark.parametrize("calls", BREAKS)
@pytest.mark.parametrize("order", ORDERS)
def test_in_no_order_are_there_two_writers_but_where_the_flush_was_not_seen(
    order: tuple[str, ...], calls: tuple[str, ...]
) -> None:
    """The agent has a turn after each event while it is not frozen. The one limit: rules flushed under a frozen agent,
    which can tell nobody, and only until its first turn."""
    pair = Pair()
    frozen, unseen, two = False, False, []

    def look(what: str) -> None:
        if len(pair.writers()) > 1:
            two.append(what)

    pair.probe.before_write = look
    for event in order:
        if event == "flush":
            unseen = frozen
            break_edge(pair.hosts["onprem-db"], calls)
        elif event == "freeze":
            frozen = True
            freeze(pair)
        elif event == "expire":
            pair.tick(2 * pair.times.ttl_s)
        elif event == "thaw":
            frozen = False
            thaw(pair)
        else:
            with contextlib.suppress(HyopsError):
                run(switch(pair, pair.spec(), until="promote"))
        look(event)
        pair.tick(0.1)
        if not frozen:
            assert len(pair.writers()) <= 1
    assert not two or unseen


@pytest.mark.req("INV-1", "FEN-1", "FEN-2")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["tick", "silent", "answers", "flush", "break", "mend", "freeze", "thaw", "switch"]),
        max_size=25,
    )
)
def test_over_long_histories_there_are_never_two_writers(events: list[str]) -> None:
    """Rules are flushed and mended at any time at which the agent can tell it; everything else in any order."""
    pair, runs = Pair(), 0
    old, frozen, two = pair.hosts["onprem-db"], False, []

    def look(where: str) -> None:
        if len(pair.writers()) > 1:
            two.append(where)

    pair.probe.before_write = look
    for event in events:
        if event == "tick":
            pair.tick(0.4)
        elif event in ("silent", "answers"):
            pair.store.silent = event == "silent"
        elif event in ("flush", "break"):
            if not frozen and not pair.store.silent:
                break_edge(old, () if event == "flush" else ("install",))
        elif event == "mend":
            mend_edge(old)
        elif event == "freeze":
            frozen = True
            freeze(pair)
        elif event == "thaw":
            frozen = False
            thaw(pair)
        else:
            runs += 1
            with contextlib.suppress(HyopsError, QuorumLostError):
                now = told(pair)
                target = next(host for host in pair.hosts if host != now.primary)
                spec = pair.spec(generation=now.generation, run_id=f"run-{runs}")
                run(switch(pair, spec, pair.inputs(source=now.primary, target=target)))
        look(event)
        pair.tick(0.1)
        look(event)
    assert two == []


@pytest.mark.req("FEN-1", "GEN-1")
@pytest.mark.parametrize("breaks", [True, False])
def test_what_counts_is_what_the_quorum_says_after_the_raise(breaks: bool) -> None:
    """Guarded when the run began, unguarded just before the raise, and then the quorum is silent: refused."""
    pair = Pair()
    old, raise_generation = pair.hosts["onprem-db"], pair.store.raise_generation

    async def just_before(*words: Any, **more: Any) -> LeaseState:
        if breaks:
            break_edge(old)
            await old.agent.hold_lease()
        freeze(pair)
        raised = await raise_generation(*words, **more)
        pair.store.silent = True
        return raised

    pair.store.raise_generation = just_before  # type: ignore[method-assign]
    proved: Any = contextlib.nullcontext() if not breaks else pytest.raises(NotFencedError)
    with proved as refused:
        run(switch(pair, pair.spec(), until="fence"))
    if breaks:
        assert refused.value.facts["generation_after"] == 2
