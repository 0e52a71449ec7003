"""A TCP proxy on loopback that makes a link long, or cuts it: everything is late by the same time, in order."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

CHUNK = 65536


class Proxy:
    """One listening port in front of another. `one_way_s`: how much later everything arrives, in both directions."""

    def __init__(self, target: int, one_way_s: float = 0.0) -> None:
        self._target, self._late_s = target, one_way_s
        self._loop = asyncio.new_event_loop()
        self._pairs: set[asyncio.Task[None]] = set()
        self._cut = False
        self.port = 0

    def cut(self) -> None:
        """Break what is open, and every new connection, until `heal`."""
        asyncio.run_coroutine_threadsafe(self._break(), self._loop).result()

    def heal(self) -> None:
        """New connections get through again."""
        self._cut = False

    async def _break(self) -> None:
        self._cut = True
        for task in self._pairs:
            task.cancel()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        task.add_done_callback(self._pairs.discard)
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            if self._cut:
                writer.transport.abort()
                return
            await asyncio.sleep(2 * self._late_s)  # the handshake of the connection itself
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            with contextlib.closing(back):
                await asyncio.gather(self._forward(reader, back), self._forward(there, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            data = b" "
            while data:
                at, data = await late.get()
                await asyncio.sleep(at - self._loop.time())
                writer.write(data)
                await writer.drain()
            with contextlib.suppress(OSError):
                writer.write_eof()

        delivering = asyncio.create_task(deliver())
        try:
            data = b" "
            while data:
                data = await reader.read(CHUNK)
                late.put_nowait((self._loop.time() + self._late_s, data))
            await delivering
        finally:
            delivering.cancel()

    @contextlib.contextmanager
    def listening(self) -> Iterator[Proxy]:
        """In a thread of its own."""
        ready = threading.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._ended.wait()
            server.close()
            await self._break()

        self._ended = asyncio.Event()
        thread = threading.Thread(target=lambda: self._loop.run_until_complete(serve()), daemon=True)
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._ended.set)
            thread.join()
            self._loop.close()
