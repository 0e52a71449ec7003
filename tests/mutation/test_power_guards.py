"""Each guard of the power switch is taken out; what it keeps must then break, or the guard's tests prove nothing."""

from __future__ import annotations

from typing import Any

import pytest

from hyops.errors import HyopsError, TargetError
from hyops.fence import driver_fence, ladder
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.power import PowerState
from hyops.ports.probe import WriteProbeResult, WriteVerdict
from hyops.testing.power import MemoryPowerSwitch, PowerMode
from switch_pair import Lying, Pair, Unreachable, run, switch


def powered(mode: PowerMode) -> tuple[Pair, MemoryPowerSwitch]:
    """A pair with a power switch and an agent that is not reached."""
    power = MemoryPowerSwitch(dict.fromkeys(("onprem-db", "cloud-db"), PowerState.ON), mode)
    pair = Pair(receipts=[ReceiptClass.OBSERVED, ReceiptClass.POWERED_OFF], power=power)
    pair.agents["onprem-db"] = Unreachable()
    return pair, power


def attempt(pair: Pair, *, planned: bool = False) -> bool:
    """Whether the fence step gives a receipt."""
    try:
        run(switch(pair, pair.spec(planned=planned), until="fence"))
    except HyopsError:
        return False
    return True


@pytest.mark.req("FEN-1", "INV-2")
@pytest.mark.fault(22)
def test_without_the_look_a_lying_switch_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the probe out: a receipt, while the old primary acknowledges writes."""

    async def unseen(*_: Any) -> WriteProbeResult:
        return WriteProbeResult(WriteVerdict.UNREACHABLE, "not looked", 0.0)

    for guarded in (True, False):
        pair, _ = powered("lie")
        if not guarded:
            monkeypatch.setattr(ladder.Ladder, "_write", unseen)
        assert attempt(pair) is not guarded
        assert pair.hosts["onprem-db"].database.role() == "primary"


@pytest.mark.req("FEN-1")
@pytest.mark.fault(22)
def test_without_reading_it_back_an_order_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that takes the order and says `on`, and a host that does not answer: only the state tells."""

    async def taken_for_done(*_: Any) -> PowerState:
        return PowerState.OFF

    class Deaf(MemoryPowerSwitch):
        async def off(self, host: str) -> None:
            """Nothing."""

    for guarded in (True, False):
        pair, _ = powered("truth")
        pair.power = Deaf({"onprem-db": PowerState.ON})
        pair.probe.hosts["10.77.1.10"].reachable = False
        if not guarded:
            monkeypatch.setattr(ladder.Ladder, "_settled", taken_for_done)
            monkeypatch.setattr(Deaf, "state", taken_for_done)
        assert attempt(pair) is not guarded


@pytest.mark.req("FEN-1", "INV-6")
def test_without_the_guard_a_planned_switch_cuts_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old primary handed over and then cannot be fenced: only the guard keeps its power on."""

    class HandsOverOnly(Lying):
        async def fence(self, *, generation: int, run_id: str) -> Any:
            raise TargetError("no fence")

    for guarded in (True, False):
        pair, power = powered("truth")
        pair.agents["onprem-db"] = HandsOverOnly(pair.hosts["onprem-db"].verbs)
        if not guarded:
            monkeypatch.setattr(driver_fence.FenceDriver, "_power", lambda self, _: self._ports.power)
        attempt(pair, planned=True)
        assert (power.orders == []) is guarded


@pytest.mark.req("INV-3")
def test_without_asking_the_quorum_an_overtaken_run_cuts_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has moved the service on: the power switch itself would obey."""

    async def never(_: Any) -> None:
        return None

    for guarded in (True, False):
        pair, power = powered("truth")

        class Overtaken:
            async def fence(self, *, pair: Pair = pair, **_: Any) -> Any:
                await pair.store.raise_generation("pg", expected=1, primary="cloud-db", run_id="run-2")
                raise TargetError("no connection")

        pair.agents["onprem-db"] = Overtaken()
        if not guarded:
            monkeypatch.setattr(ladder.Ladder, "_moved_on", never)
        attempt(pair)
        assert (power.orders == []) is guarded


@pytest.mark.req("FEN-1", "INV-1")
def test_without_the_second_look_a_host_that_is_on_again_counts_as_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched on between the proof and the raise: only the look after it tells."""

    async def believed(_: Any, proof: Any) -> Any:
        return proof

    for guarded in (True, False):
        pair, power = powered("truth")
        power.cut = lambda _, pair=pair: pair.kill_site()  # type: ignore[misc]
        raise_generation = pair.store.raise_generation

        async def on_again(*words: Any, power: Any = power, raised: Any = raise_generation, **more: Any) -> Any:
            power.hosts["onprem-db"] = PowerState.ON
            return await raised(*words, **more)

        pair.store.raise_generation = on_again  # type: ignore[method-assign]
        if not guarded:
            monkeypatch.setattr(ladder.Ladder, "off_still", believed)
        assert attempt(pair) is not guarded
