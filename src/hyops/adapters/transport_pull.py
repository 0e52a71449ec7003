"""Runners in pull mode: a dispatcher's links go through the desk's socket on this host (RUN-5, RUN-11).

Which runner answers is the desk's word, from the agent's certificate; that it is the right one the session sees by
its greeting, and by the signature under what comes home, as over SSH.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from hyops.adapters.runner_link import CONNECT_LIMIT_S, EndedError
from hyops.adapters.runner_session import FramedSession
from hyops.errors import PrerequisiteError, RunnerUnreachableError
from hyops.model import pull, wire
from hyops.ports.look import Awaited, Look
from hyops.ports.signer import Verifier
from hyops.ports.transport import OperatorTransport

ANSWER_SLACK_S = 5.0  # the desk's own time on top of the wait that we ask for


class PullRunnerTransport:
    """`RunnerTransport` over the desk at `socket`. An agent that is not there is waited for, for `connect_limit_s`."""

    def __init__(
        self, socket: Path, runner_refs: Collection[str], verifier: Verifier, connect_limit_s: float = CONNECT_LIMIT_S
    ) -> None:
        self._socket, self._refs, self._verifier = socket, frozenset(runner_refs), verifier
        self._limit_s = connect_limit_s

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str, look: Look | None = None) -> AsyncIterator[FramedSession]:
        """One link; the agent has its first channel when this returns."""
        if runner_ref not in self._refs:
            raise PrerequisiteError(f"no runner {runner_ref!r} is configured", known=", ".join(sorted(self._refs)))
        if look is not None:
            look.awaited = Awaited.DESK
        link = PullLink(self._socket, runner_ref, self._limit_s)
        try:
            try:
                await link.first()
            except (OSError, EOFError, TimeoutError, ValueError) as exc:
                raise RunnerUnreachableError(
                    f"{runner_ref}: the pull desk at {self._socket} gives no link: {exc or type(exc).__name__}",
                    hint="see that `hyops service run pull-desk` runs here, and the agent on the runner",
                ) from exc
            yield FramedSession(link, runner_ref, self._verifier)
        finally:
            await link.drop()


class EitherTransport:
    """Runners of two kinds behind one port: those that `pulled` reaches, and all others."""

    def __init__(self, pulled: PullRunnerTransport, refs: Collection[str], dialled: OperatorTransport) -> None:
        self._pulled, self._refs, self._dialled = pulled, frozenset(refs), dialled

    def connect(
        self, runner_ref: str, look: Look | None = None
    ) -> contextlib.AbstractAsyncContextManager[FramedSession]:
        """See the port."""
        chosen = self._pulled if runner_ref in self._refs else self._dialled
        return chosen.connect(runner_ref, look)  # type: ignore[return-value]  # both open framed sessions


class PullLink:
    """`Link`: one connection to the desk for each pipe."""

    def __init__(self, socket: Path, runner_ref: str, limit_s: float) -> None:
        self._socket, self._ref, self._limit_s = socket, runner_ref, limit_s
        self._pipes: list[PullPipe] = []
        self._first: PullPipe | None = None

    async def first(self) -> None:
        """See that the agent is there; the pipe is kept for the first one that is wanted."""
        self._first = await self._opened(self._limit_s)

    async def open(self) -> PullPipe:
        """See the port."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._opened(0.0)  # an agent that has gone since then is a lost link

    async def _opened(self, limit_s: float) -> PullPipe:
        async with asyncio.timeout(limit_s + ANSWER_SLACK_S):
            reader, writer = await asyncio.open_unix_connection(self._socket, limit=pull.LINE_MAX)
            pipe = PullPipe(reader, writer)
            self._pipes.append(pipe)
            writer.write(json.dumps({"runner_ref": self._ref, "limit_s": limit_s}).encode() + b"\n")
            await writer.drain()
            said = json.loads(await reader.readuntil(b"\n"))
        if not isinstance(said, dict) or said.get("ok") is not True:
            raise ConnectionError(str(said.get("message") if isinstance(said, dict) else said)[:400])
        return pipe

    async def drop(self) -> None:
        """See the port."""
        for pipe in self._pipes:
            pipe.close()
        for pipe in self._pipes:
            await pipe.gone()


class PullPipe:
    """`Pipe`: frames of the desk, put together again."""

    carries_link = False

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._in, self._out, self._held = reader, writer, bytearray()

    async def write(self, data: bytes) -> None:
        """See the port."""
        self._out.write(data)
        await self._out.drain()

    async def read_line(self) -> bytes:
        """See the port."""
        looked = 0
        while (end := self._held.find(b"\n", looked)) < 0 and len(self._held) <= wire.HEADER_MAX:
            looked = len(self._held)
            await self._more()
        if not 0 <= end < wire.HEADER_MAX:
            raise ConnectionError(f"a line of more than {wire.HEADER_MAX} bytes")
        return self._cut(end + 1)

    async def read_exactly(self, count: int) -> bytes:
        """See the port."""
        while len(self._held) < count:
            await self._more()
        return self._cut(count)

    def close(self) -> None:
        """See the port."""
        self._out.transport.abort()

    async def gone(self) -> None:
        """Wait until nothing of it is left here."""
        with contextlib.suppress(OSError):
            await self._out.wait_closed()

    def _cut(self, count: int) -> bytes:
        data = bytes(self._held[:count])
        del self._held[:count]
        return data

    async def _more(self) -> None:
        try:
            kind, length = pull.frame_of(await self._in.readexactly(pull.FRAME.size))
            body = await self._in.readexactly(length)
        except asyncio.IncompleteReadError as exc:
            raise ConnectionError("the desk has ended") from exc
        if kind == pull.DATA:
            self._held += body
        elif kind == pull.ENDED:
            raise EndedError(pull.number(body.decode("ascii", "replace"), most=255))
        else:
            raise ConnectionError(f"the agent is lost: {body.decode(errors='replace')[:200]}")
