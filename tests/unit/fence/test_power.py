"""The power switch as a means of fencing: what it proves, when it is used, and what its lies are worth."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import pytest

from hyops.errors import DeadlineError, HyopsError, NotFencedError, TargetError
from hyops.fence.ladder import POWER_SETTLE_S
from hyops.model.fence import FenceReceipt
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.power import PowerState
from hyops.ports.probe import WriteVerdict
from hyops.testing.power import MemoryPowerSwitch, PowerMode
from switch_pair import Lying, Pair, Unreachable, run, switch

SEEN_OR_OFF = [ReceiptClass.OBSERVED, ReceiptClass.POWERED_OFF]
ALL = [*SEEN_OR_OFF, ReceiptClass.LEASE_EXPIRED]


def powered(
    receipts: list[ReceiptClass], mode: PowerMode = "truth", switch: type[MemoryPowerSwitch] = MemoryPowerSwitch
) -> tuple[Pair, MemoryPowerSwitch]:
    """A pair whose runner has a power switch, and does not reach the agent of the old primary."""
    power = switch(dict.fromkeys(("onprem-db", "cloud-db"), PowerState.ON), mode)
    pair = Pair(receipts=receipts, power=power)
    power.cut = lambda _: pair.kill_site()
    pair.agents["onprem-db"] = Unreachable()
    return pair, power


def promoted(pair: Pair) -> bool:
    """Whether the standby has become a primary."""
    return pair.hosts["cloud-db"].database.role() == "primary"


def receipt_of(results: dict[str, Any]) -> FenceReceipt:
    """The receipt of a switch."""
    return FenceReceipt.of(results["fence"].outputs["receipt"])


@pytest.mark.req("FEN-1", "INV-1", "INV-2")
@pytest.mark.fault(23)
def test_a_host_that_nobody_reaches_is_powered_off_and_replaced() -> None:
    """It was alive and served; the receipt says who switched, who looked, and what that does not cover."""
    pair, power = powered(SEEN_OR_OFF)
    assert pair.write("onprem-db", "before") is WriteVerdict.ACCEPTED

    results = run(switch(pair, pair.spec(), until="fence"))

    receipt = receipt_of(results)
    assert receipt.receipt_class is ReceiptClass.POWERED_OFF
    how = [observation.how for observation in receipt.observations]
    assert how == ["power-order", "power-state", "write-probe", "power-state"]
    assert receipt.limits is not None
    assert power.orders == ["onprem-db"]
    pair.clock.advance(3)  # the target still waits for the old lease
    run(switch(pair, pair.spec()))
    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("FEN-1", "INV-2")
@pytest.mark.fault(22)
def test_a_switch_that_lies_is_found_out_by_the_probe() -> None:
    """It says off and did nothing: a write is accepted, so nobody is promoted, and the old primary serves on."""
    pair, power = powered(SEEN_OR_OFF, "lie")

    with pytest.raises(NotFencedError, match="still acknowledges writes"):
        run(switch(pair, pair.spec()))

    assert power.orders == ["onprem-db"]
    assert not promoted(pair)
    assert pair.write("onprem-db", "after") is WriteVerdict.ACCEPTED
    assert run(pair.store.state("pg")).generation == 1
    assert pair.lost() == []


@pytest.mark.req("FEN-1", "INV-1")
@pytest.mark.fault(22, 23)
def test_a_lie_of_the_switch_strikes_out_the_switch_alone() -> None:
    """Its lie is found out while the old lease still runs; the lease then runs out, and is proof by its own look."""
    pair, power = powered(ALL, "lie")
    pair.head_start_s = 0.0
    wait_no_holder, found_out = pair.store.wait_no_holder, asyncio.Event()

    async def once_the_lie_is_out(*words: Any) -> bool:
        await found_out.wait()
        await pair.tick_async(2.5)  # the old agent lives, may not renew, and closes
        return await wait_no_holder(*words)

    pair.store.wait_no_holder = once_the_lie_is_out  # type: ignore[method-assign]
    pair.probe.before_write = lambda _: found_out.set() if power.orders else None

    receipt = receipt_of(run(switch(pair, pair.spec(), until="fence")))

    assert receipt.receipt_class is ReceiptClass.LEASE_EXPIRED
    assert any("the power switch lies" in line for line in pair.logs)
    assert pair.writers() == []


@pytest.mark.req("FEN-1", "INV-5")
@pytest.mark.fault(22)
def test_a_host_that_is_off_and_answers_is_a_contradiction() -> None:
    """Closed at that moment, it refuses: that is no write, but it is not off either."""
    pair, _ = powered(SEEN_OR_OFF, "lie")
    pair.hosts["onprem-db"].agent.close_edge("for the test")

    with pytest.raises(NotFencedError, match=r"says off, but 10\.77\.1\.10 answers"):
        run(switch(pair, pair.spec()))

    assert not promoted(pair)
    assert run(pair.store.state("pg")).generation == 1


@pytest.mark.req("INV-1", "FEN-2")
@pytest.mark.fault(22)
def test_a_lie_about_a_host_that_nobody_sees_still_leaves_one_writer() -> None:
    """The limit in the receipt: here the switch is believed. The target's own wait for the lease holds all the same."""
    pair, _ = powered(SEEN_OR_OFF, "lie")
    pair.probe.hosts["10.77.1.10"].reachable = False
    results = run(switch(pair, pair.spec(), until="fence"))
    pair.probe.hosts["10.77.1.10"].reachable = True
    words = {name: pair.inputs()[name] for name in ("source", "target", "members")}
    context = pair.context(pair.spec(), "promote", words, {"fence": results["fence"].outputs})

    most = 0
    for _ in range(40):  # the target tries for the lease again and again, while the old primary runs on
        pair.tick(0.1)
        with contextlib.suppress(HyopsError):
            run(pair.drivers()["native/postgresql-promote"].apply(context))
        most = max(most, len(pair.writers()))

    assert most == 1
    assert pair.writers() == ["cloud-db"]


@pytest.mark.req("FEN-1", "INV-2", "INV-5")
@pytest.mark.fault(23)
@pytest.mark.parametrize("mode", ["fail", "hang"])
def test_a_switch_that_does_not_work_proves_nothing(mode: PowerMode) -> None:
    """No other class: refused, the generation stands. With a lease that counts: the lease."""
    pair, power = powered(SEEN_OR_OFF, mode)
    pair.kill_site()
    with pytest.raises(NotFencedError, match="nothing proves") as caught:
        run(switch(pair, pair.spec()))
    assert "power switch" in caught.value.message
    assert power.orders == ["onprem-db"]
    assert run(pair.store.state("pg")).generation == 1

    pair, _ = powered(ALL, mode)
    pair.kill_site()
    assert receipt_of(run(switch(pair, pair.spec()))).receipt_class is ReceiptClass.LEASE_EXPIRED


@pytest.mark.req("FEN-1")
def test_nothing_is_powered_off_when_a_gentler_means_proves_it() -> None:
    """The agent fences and is seen to: no order, also in a policy that would take one."""
    pair, power = powered(ALL)
    del pair.agents["onprem-db"]

    results = run(switch(pair, pair.spec()))

    assert receipt_of(results).receipt_class is ReceiptClass.OBSERVED
    assert power.orders == []


@pytest.mark.req("FEN-1")
@pytest.mark.fault(22)
def test_nothing_is_powered_off_for_an_agent_that_lied() -> None:
    """A lie ends the attempt; it does not lead to the next means."""
    pair, power = powered(ALL)
    pair.agents["onprem-db"] = Lying(pair.hosts["onprem-db"].verbs)

    with pytest.raises(NotFencedError, match="still acknowledges writes"):
        run(switch(pair, pair.spec()))

    assert power.orders == []


class Hanging(Unreachable):
    """A `HostAgent` that never answers."""

    def __getattr__(self, verb: str) -> Any:
        async def silent(**_: Any) -> None:
            await asyncio.Event().wait()

        return silent


@pytest.mark.req("FEN-1")
@pytest.mark.fault(23)
def test_the_head_start_is_all_that_a_silent_agent_gets() -> None:
    """The agent hangs: the power is cut after the head start, long before the agent is given up."""
    pair, power = powered(SEEN_OR_OFF)
    pair.agents["onprem-db"] = Hanging()
    pair.head_start_s = 0.01

    results = run(switch(pair, pair.spec(), until="fence"))

    assert receipt_of(results).receipt_class is ReceiptClass.POWERED_OFF
    assert power.orders == ["onprem-db"]


@pytest.mark.req("FEN-1", "INV-6")
def test_a_planned_switch_powers_nobody_off() -> None:
    """Not even when the old primary has handed over and then cannot be fenced."""

    class HandsOverOnly(Lying):
        async def fence(self, *, generation: int, run_id: str) -> Any:
            raise TargetError("no fence")

    pair, power = powered(SEEN_OR_OFF)
    pair.agents["onprem-db"] = HandsOverOnly(pair.hosts["onprem-db"].verbs)

    with pytest.raises(NotFencedError, match="the switch is planned"):
        run(switch(pair, pair.spec(planned=True)))

    assert power.orders == []
    assert power.hosts["onprem-db"] is PowerState.ON


@pytest.mark.req("FEN-1", "INV-6")
def test_only_a_policy_that_names_the_class_has_it_used() -> None:
    """A runner with a power switch, a policy without the class: refused, and the power stays on."""
    pair, power = powered([ReceiptClass.OBSERVED])

    with pytest.raises(NotFencedError):
        run(switch(pair, pair.spec()))

    assert power.orders == []


@pytest.mark.req("INV-3")
def test_a_run_that_was_overtaken_powers_nobody_off() -> None:
    """While it waited for the agent another run raised the generation: the power switch cannot know, so we look."""
    pair, power = powered(SEEN_OR_OFF)

    class Overtaken:
        async def fence(self, *, generation: int, run_id: str) -> Any:
            await pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-2")
            raise TargetError("no connection")

    pair.agents["onprem-db"] = Overtaken()

    with pytest.raises(NotFencedError, match="generation 2 belongs to cloud-db"):
        run(switch(pair, pair.spec()))

    assert power.orders == []


@pytest.mark.req("INV-3", "INV-5")
def test_without_the_quorums_word_nobody_is_powered_off() -> None:
    """The lease store fell silent: who serves now is unknown, so the power stays on."""
    pair, power = powered(SEEN_OR_OFF)

    class Silenced:
        async def fence(self, *, generation: int, run_id: str) -> Any:
            pair.store.silent = True
            raise TargetError("no connection")

    pair.agents["onprem-db"] = Silenced()

    with pytest.raises(NotFencedError, match="lease store does not answer"):
        run(switch(pair, pair.spec()))

    assert power.orders == []


@pytest.mark.req("FEN-1", "FEN-2")
def test_the_generation_comes_first_where_a_lease_may_count() -> None:
    """With `stay` the lease proves nothing, the power switch does, under the generation that this run has raised."""
    pair, power = powered([ReceiptClass.LEASE_EXPIRED, ReceiptClass.POWERED_OFF])
    pair.lease = pair.lease.model_copy(update={"on_loss": "stay"})

    results = run(switch(pair, pair.spec(), until="fence"))

    assert receipt_of(results).receipt_class is ReceiptClass.POWERED_OFF
    assert power.orders == ["onprem-db"]


@pytest.mark.req("FEN-1", "INV-1")
@pytest.mark.parametrize("then", [PowerState.ON, PowerState.UNKNOWN, None])
def test_a_host_that_is_on_again_before_the_generation_is_raised_is_not_fenced(then: PowerState | None) -> None:
    """Somebody pressed its button in between: it came up under a generation that still stood, so look once more."""
    pair, power = powered(SEEN_OR_OFF)
    raise_generation = pair.store.raise_generation

    async def and_somebody_switches_it_on(*words: Any, **more: Any) -> Any:
        if then is None:
            power.mode = "hang"
        else:
            power.hosts["onprem-db"] = then
        return await raise_generation(*words, **more)

    pair.store.raise_generation = and_somebody_switches_it_on  # type: ignore[method-assign]

    with pytest.raises(NotFencedError, match=r"was off before|off still"):
        run(switch(pair, pair.spec()))

    assert not promoted(pair)


class Slow(MemoryPowerSwitch):
    """Takes the order, and cuts a few looks later."""

    left = 3

    async def state(self, host: str) -> PowerState:
        """Still on, for a while."""
        self.left -= 1
        return PowerState.ON if self.left > 0 else await super().state(host)


class Busy(MemoryPowerSwitch):
    """Takes the order, and is too busy with it to answer for a while."""

    left = 3

    async def state(self, host: str) -> PowerState:
        """503, for a while."""
        self.left -= 1
        if self.left > 0:
            raise TargetError("power switch: HTTP 503")
        return await super().state(host)


class NeverOff(MemoryPowerSwitch):
    """Takes the order and does not obey."""

    async def state(self, host: str) -> PowerState:
        """On."""
        return PowerState.ON


class LosesAnswers(MemoryPowerSwitch):
    """Obeys, and its answer is lost."""

    async def off(self, host: str) -> None:
        """Off."""
        await super().off(host)
        raise DeadlineError("power switch: no answer")


@pytest.mark.req("FEN-1")
@pytest.mark.parametrize("kind", [Slow, Busy, LosesAnswers])
def test_only_the_state_that_is_read_back_counts(kind: type[MemoryPowerSwitch]) -> None:
    """A cut that takes a while, one that keeps the switch busy, and one whose answer was lost are cuts."""
    pair, _ = powered(SEEN_OR_OFF, switch=kind)

    assert receipt_of(run(switch(pair, pair.spec(), until="fence"))).receipt_class is ReceiptClass.POWERED_OFF


@pytest.mark.req("FEN-1")
@pytest.mark.fault(22)
def test_an_order_that_was_taken_is_no_proof() -> None:
    """The order exits well, the state stays on: refused after a bounded wait."""
    pair, _ = powered(SEEN_OR_OFF, switch=NeverOff)
    pair.probe.hosts["10.77.1.10"].reachable = False
    before = pair.clock.monotonic()

    with pytest.raises(NotFencedError, match="says that onprem-db is on"):
        run(switch(pair, pair.spec()))

    assert pair.clock.monotonic() - before < POWER_SETTLE_S + 1
    assert not promoted(pair)


@dataclass
class Stuck(MemoryPowerSwitch):
    """The order never returns."""

    async def off(self, host: str) -> None:
        """Never."""
        self.orders.append(host)
        await asyncio.Event().wait()


@pytest.mark.req("FEN-1", "EVD-1")
def test_an_order_that_was_overtaken_by_another_proof_stands_in_the_receipt() -> None:
    """The lease ran out first: the receipt is of its class, and says that the power was asked for too."""
    pair, power = powered(ALL, switch=Stuck)
    pair.kill_site()
    pair.head_start_s = 0.0

    receipt = receipt_of(run(switch(pair, pair.spec(), until="fence")))

    assert receipt.receipt_class is ReceiptClass.LEASE_EXPIRED
    assert power.orders == ["onprem-db"]
    assert receipt.observations[0].how == "power-order"


@pytest.mark.req("GATE-1", "INV-6")
@pytest.mark.parametrize(
    ("planned", "configured", "refused"), [(True, True, True), (False, False, True), (False, True, False)]
)
def test_preflight_refuses_a_switch_that_could_never_be_proved(planned: bool, configured: bool, refused: bool) -> None:
    """Only powered-off is accepted: a planned switch, and a runner without a switch, are told before any effect."""
    pair, power = powered([ReceiptClass.POWERED_OFF])
    pair.agents.clear()
    pair.power = power if configured else None
    words = pair.inputs()
    fence = {name: words[name] for name in ("source", "target", "members", "lease", "receipts")}

    faults = run(pair.drivers()["native/fence"].preflight(pair.context(pair.spec(planned=planned), "fence", fence)))

    assert any("none can be had here" in fault for fault in faults) is refused
    assert (faults == []) is not refused
