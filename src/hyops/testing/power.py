"""A power switch in memory that can misbehave, and the contract that it and every real one keep (FEN-1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest

from hyops.errors import DeadlineError, TargetError
from hyops.ports.power import PowerState, PowerSwitch

PowerMode = Literal["truth", "fail", "hang", "lie"]


@dataclass
class MemoryPowerSwitch:
    """`PowerSwitch`. `lie` says what was asked for and does nothing; `cut` is what really happens to a host."""

    hosts: dict[str, PowerState]
    mode: PowerMode = "truth"
    cut: Callable[[str], None] = lambda host: None
    orders: list[str] = field(default_factory=list)
    _lies: set[str] = field(default_factory=set)

    async def state(self, host: str) -> PowerState:
        """See the port."""
        self._answers(host)
        return PowerState.OFF if host in self._lies else self.hosts[host]

    async def off(self, host: str) -> None:
        """See the port."""
        self.orders.append(host)
        self._answers(host)
        if self.mode == "lie":
            self._lies.add(host)
            return
        self.hosts[host] = PowerState.OFF
        self.cut(host)

    def _answers(self, host: str) -> None:
        if self.mode == "hang":
            raise DeadlineError("power switch: no answer")
        if self.mode == "fail" or host not in self.hosts:
            raise TargetError("power switch: an error")


class PowerSwitchContract:
    """What every power switch does. A subclass opens one that knows the hosts `a` and `b`, both on."""

    @asynccontextmanager
    async def opened(self, mode: PowerMode) -> AsyncIterator[PowerSwitch]:
        """A switch that behaves so, and gives up soon."""
        raise NotImplementedError
        yield

    @pytest.mark.req("FEN-1")
    def test_a_host_that_is_cut_is_off_and_no_other(self) -> None:
        """One host's power, read back; ordered again it stays off."""

        async def scenario() -> None:
            async with self.opened("truth") as switch:
                assert await switch.state("a") is PowerState.ON
                for _ in range(2):
                    await switch.off("a")
                    assert await switch.state("a") is PowerState.OFF
                assert await switch.state("b") is PowerState.ON

        asyncio.run(scenario())

    @pytest.mark.req("FEN-1", "INV-5")
    @pytest.mark.fault(23)
    @pytest.mark.parametrize(("mode", "error"), [("fail", TargetError), ("hang", DeadlineError)])
    def test_a_switch_that_gives_no_answer_gives_no_state(self, mode: PowerMode, error: type[Exception]) -> None:
        """An error and silence are raised, within the limit, from both calls."""

        async def scenario() -> None:
            async with self.opened(mode) as switch:
                with pytest.raises(error):
                    await switch.off("a")
                with pytest.raises(error):
                    await switch.state("a")

        asyncio.run(scenario())

    @pytest.mark.req("INV-5")
    def test_a_host_that_the_switch_does_not_know_has_no_state(self) -> None:
        """Not `off`: an error."""

        async def scenario() -> None:
            async with self.opened("truth") as switch:
                for call in (switch.state, switch.off):
                    with pytest.raises(TargetError):
                        await call("stranger")

        asyncio.run(scenario())
