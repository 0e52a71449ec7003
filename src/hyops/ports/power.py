"""The power of a host, switched from outside of it: a power strip, a BMC, a hypervisor, a cloud's API (FEN-1).

Only `state` is ever evidence. That `off` returned says that an order was taken, not that anything happened.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class PowerState(StrEnum):
    """What the switch says. `unknown` is any word that is neither: paused, cycling, starting."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class PowerSwitch(Protocol):
    """Every call ends within the adapter's limit: TargetError (an error, or nonsense), DeadlineError (no answer).

    ConfigError and PrerequisiteError where nothing could be asked.
    """

    async def state(self, host: str) -> PowerState:
        """Ask now; never an answer that was remembered."""

    async def off(self, host: str) -> None:
        """Order an immediate cut, no orderly shutdown; may be repeated, and a host that is off stays off."""
