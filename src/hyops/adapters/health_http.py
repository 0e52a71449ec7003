"""Two pages over HTTP on loopback, and nothing else: one request a connection, each with limits (LOOP-4)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from http import HTTPStatus

from hyops.errors import foreign

HEAD_MAX = 8 * 1024
LIMIT_S = 5.0
CONNECTIONS_MAX = 16
LOOPBACK = "127.0.0.1"


async def listen(port: int, answer: Callable[[str], tuple[int, str, str]]) -> asyncio.Server:
    """Serve until the server is closed. OSError: the port is somebody's."""
    at_once = asyncio.Semaphore(CONNECTIONS_MAX)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not at_once.locked():
                async with at_once, asyncio.timeout(LIMIT_S):
                    writer.write(_answered(await reader.readuntil(b"\r\n\r\n"), answer))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, slow, or speaks something else
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    return await asyncio.start_server(one, LOOPBACK, port, limit=HEAD_MAX)


def _answered(head: bytes, answer: Callable[[str], tuple[int, str, str]]) -> bytes:
    words = head.split(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or words[0] not in ("GET", "HEAD"):
        status, kind, body = 405, "text/plain", "GET alone\n"
    else:
        with foreign():
            status, kind, body = answer(words[1].partition("?")[0])
    data = body.encode()
    line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
    return f"{line}Connection: close\r\n\r\n".encode() + (b"" if words[0] == "HEAD" else data)
