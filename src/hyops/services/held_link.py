"""One connection for a whole command: opened when it is first asked for, used by everything after, closed at the end.

A link that breaks is dropped, and the next one to ask gets a fresh one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from hyops.errors import RunnerUnreachableError
from hyops.ports.transport import RunnerSession, RunnerTransport


class HeldLink:
    """A `RunnerTransport` to one runner at a time."""

    def __init__(self, transport: RunnerTransport) -> None:
        self._transport = transport
        self._open: tuple[str, AbstractAsyncContextManager[RunnerSession], RunnerSession] | None = None

    async def __aenter__(self) -> HeldLink:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.drop()

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str) -> AsyncIterator[RunnerSession]:
        """The session that is open, or a new one; it stays open afterwards."""
        if self._open is None or self._open[0] != runner_ref:
            await self.drop()
            link = self._transport.connect(runner_ref)
            self._open = runner_ref, link, await link.__aenter__()
        session = self._open[2]
        try:
            yield session
        except RunnerUnreachableError:
            if self._open is not None and self._open[2] is session:
                await self.drop()
            raise

    async def drop(self) -> None:
        """Close what is open."""
        if self._open is not None:
            _, link, _ = self._open
            self._open = None
            await link.__aexit__(None, None, None)
