"""How many handshakes go on at once, counted at each sshd that is dialled (RUN-11).

A stock sshd (`MaxStartups 10:30:100`) drops connections at random from the tenth that has not logged in yet. So the
limit belongs to the sshd, whoever of its runners is asked for: one slow host holds up nobody but those behind its own
door. The limit over all doors is for this host's own sake.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

AT_ONCE_MAX = 8  # at one sshd: below ten, so that another dispatcher finds room too
IN_ALL_MAX = 64


@dataclass(frozen=True)
class Door:
    """One sshd: its address and port as they are seen from where the connection leaves, here or a bastion."""

    address: str
    port: int
    behind: Door | None = None


@dataclass
class _Turns:
    free: asyncio.Semaphore
    users: int = field(default=0)


class Doors:
    """Turns at doors, first come, first served; nothing is kept of a door that nobody stands at."""

    def __init__(self, at_once: int = AT_ONCE_MAX, in_all: int = IN_ALL_MAX) -> None:
        self._at_once, self._in_all = at_once, asyncio.Semaphore(in_all)
        self._turns: dict[Door, _Turns] = {}

    def __len__(self) -> int:
        """Doors that somebody stands at."""
        return len(self._turns)

    @contextlib.asynccontextmanager
    async def turn(self, door: Door) -> AsyncIterator[None]:
        """Room for one handshake at `door` while the block runs. Who waits at a door takes no room from the others."""
        turns = self._turns.setdefault(door, _Turns(asyncio.Semaphore(self._at_once)))
        turns.users += 1
        try:
            async with turns.free, self._in_all:
                yield
        finally:
            turns.users -= 1
            if not turns.users:
                del self._turns[door]
