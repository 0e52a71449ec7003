"""One connection to a bastion for all runners behind it: they open and close beside each other, it makes one handshake.

It is dialled by the first that asks and dropped after the last. When it breaks, the links in it break; the next to ask
dials anew. So does the next one after `AGE_MAX_S`: what a bastion was told since (a key was taken away) then holds for
everybody new, however long the others stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from hyops.errors import HyopsError

AGE_MAX_S = 300.0  # of a connection that somebody new is let into


class Carrier(Protocol):
    """A connection that others go through."""

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended."""

    async def drop(self) -> None:
        """Close without waiting for the peer."""


K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=Carrier)


@dataclass
class _Shared(Generic[C]):
    dialling: asyncio.Task[C]
    since: float
    users: int = field(default=0)

    @property
    def gone(self) -> bool:
        task = self.dialling
        return task.done() and (task.cancelled() or task.exception() is not None or task.result().gone)

    async def end(self) -> None:
        self.dialling.cancel()
        await asyncio.wait({self.dialling})
        if not self.dialling.cancelled() and self.dialling.exception() is None:
            await self.dialling.result().drop()


class Carriers(Generic[K, C]):
    """By bastion. `now` tells seconds that never go back."""

    def __init__(self, dial: Callable[[K], Awaitable[C]], now: Callable[[], float] = time.monotonic) -> None:
        self._dial, self._now = dial, now
        self._open: dict[K, _Shared[C]] = {}

    @contextlib.asynccontextmanager
    async def to(self, bastion: K) -> AsyncIterator[C]:
        """The connection that is open and young, or a new one; it stays open at least while the block runs.

        Raises:
            Whatever dialling raises: all who waited for the same try are told the same.
        """
        shared = self._open.get(bastion)
        if shared is None or shared.gone or self._now() - shared.since > AGE_MAX_S:
            shared = _Shared(asyncio.ensure_future(self._dialled(bastion)), self._now())
            self._open[bastion] = shared
        shared.users += 1
        try:
            yield await self._of(shared)
        finally:
            shared.users -= 1
            if not shared.users:
                if self._open.get(bastion) is shared:
                    del self._open[bastion]
                await shared.end()

    async def _dialled(self, bastion: K) -> C:
        return await self._dial(bastion)

    @staticmethod
    async def _of(shared: _Shared[C]) -> C:
        try:
            return await asyncio.shield(shared.dialling)  # one who gives up waiting does not end it for the others
        except HyopsError as exc:
            raise copy.copy(exc) from exc  # each adds to its own what it knows
