"""The contract of power switches, kept by the one in memory and by the HTTP adapter against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hyops.adapters.power_http import HttpPowerSwitch
from hyops.ports.power import PowerState, PowerSwitch
from hyops.testing.power import MemoryPowerSwitch, PowerMode, PowerSwitchContract
from power_server import TOKEN, PowerServer


class TestMemory(PowerSwitchContract):
    """The fake."""

    @asynccontextmanager
    async def opened(self, mode: PowerMode) -> AsyncIterator[PowerSwitch]:
        """See the contract."""
        yield MemoryPowerSwitch({"a": PowerState.ON, "b": PowerState.ON}, mode)


class TestHttp(PowerSwitchContract):
    """The adapter, over a socket."""

    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @asynccontextmanager
    async def opened(self, mode: PowerMode) -> AsyncIterator[PowerSwitch]:
        """See the contract."""
        (self.folder / "token").write_text(f"{TOKEN}\n")
        with PowerServer(mode).serve() as url:
            yield HttpPowerSwitch(url, self.folder / "token", limit_s=0.2 if mode == "hang" else 10.0)
