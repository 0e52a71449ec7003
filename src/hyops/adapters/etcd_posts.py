"""POSTs to members of etcd over connections that are kept: h11 on plain streams.

A control loop makes a dozen requests between a decision and its attempt, each of which waits for the one before. A
general client spends more than a millisecond of CPU on each, this a fraction of that; what it leaves out is what etcd
never sends: redirects, cookies, compression. Whatever is not an answer with a length is an error of the connection, and
a connection on which anything went wrong, or was given up, is never used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

KEPT_S = 5.0  # longer unused, a connection may have been forgotten by whatever is between
KEPT_MAX = 16
NEXT_ADDRESS_S = 0.25  # how long each address of a name is tried but the last: one of them may be dead
HEAD_BYTES_MAX = READ_BYTES = 64 * 1024
ACCEPT = ("Accept", "*/*")  # without it etcd takes a request for one of its gateway's own certificate


class NotHttpError(ConnectionError):
    """What came is no answer of HTTP/1.1."""


@dataclass
class _Line:
    """One connection; its `state` is for one request after the other."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    state: h11.Connection
    unused_since_s: float = 0.0


class Posts:
    """One client for all members of a cluster, in one event loop; `tls` is for the URLs that begin with https."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._kept: dict[tuple[str, int], list[_Line]] = {}

    async def post(self, url: str, body: bytes, token: str, answer_max: int) -> tuple[int, bytes | None]:
        """Status and body; None for a body of more than `answer_max` bytes. The caller limits the time.

        The request may reach the member twice: a kept connection may end just when it is used.

        Raises:
            OSError: no connection, no TLS, or no whole answer.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        request = _request(parts.netloc, parts.path, body, token), body
        while (line := self._taken(host, port)) is not None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                return await self._asked(line, (host, port), request, answer_max)
        tls = self._tls if parts.scheme == "https" else None
        state = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        line = _Line(*await _dialled(host, port, tls), state)
        try:
            return await self._asked(line, (host, port), request, answer_max)
        except asyncio.IncompleteReadError as exc:
            raise ConnectionResetError("the connection ended in the middle of the answer") from exc

    async def close(self) -> None:
        """Give the connections back."""
        lines = [line for kept in self._kept.values() for line in kept]
        self._kept.clear()
        for line in lines:
            line.writer.transport.abort()
            with contextlib.suppress(OSError):
                await line.writer.wait_closed()

    def _taken(self, host: str, port: int) -> _Line | None:
        """A connection from an earlier request that seems to live; the last used first."""
        now_s, kept = asyncio.get_running_loop().time(), self._kept.get((host, port), [])
        while kept:
            line = kept.pop()
            if now_s - line.unused_since_s < KEPT_S and not line.reader.at_eof() and not line.writer.is_closing():
                return line
            line.writer.transport.abort()
        return None

    async def _asked(
        self, line: _Line, member: tuple[str, int], request: tuple[h11.Request, bytes], answer_max: int
    ) -> tuple[int, bytes | None]:
        keep = False
        try:
            head, data = request
            for event in (head, h11.Data(data=data), h11.EndOfMessage()):
                line.writer.write(line.state.send(event) or b"")
            status, body = await _answer(line, answer_max)
            if keep := body is not None and line.state.our_state is line.state.their_state is h11.DONE:
                line.state.start_next_cycle()
        except h11.RemoteProtocolError as exc:
            raise NotHttpError(f"no answer of HTTP/1.1: {exc}") from exc
        finally:
            kept = self._kept.setdefault(member, [])
            if keep and len(kept) < KEPT_MAX:
                line.unused_since_s = asyncio.get_running_loop().time()
                kept.append(line)
            else:
                line.writer.transport.abort()
        return status, body


async def _dialled(
    host: str, port: int, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The first address that answers. One after the other: asyncio's own race of them loses sockets when given up."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    *others, last = dict.fromkeys(str(one[4][0]) for one in found)
    name = host if tls is not None else None
    for address in others:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(NEXT_ADDRESS_S):
                return await asyncio.open_connection(address, port, ssl=tls, server_hostname=name)
    return await asyncio.open_connection(last, port, ssl=tls, server_hostname=name)


def _request(authority: str, path: str, body: bytes, token: str) -> h11.Request:
    headers = [("Host", authority), ACCEPT, ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    try:
        return h11.Request(
            method="POST", target=path, headers=[*headers, *([("Authorization", token)] if token else [])]
        )
    except (h11.LocalProtocolError, UnicodeEncodeError) as exc:
        raise NotHttpError(f"etcd's token, or its address, is no text for a header: {exc}") from exc


async def _answer(line: _Line, answer_max: int) -> tuple[int, bytes | None]:
    """Status, and the body; None for one that is too long."""
    head = await _next(line)
    if not isinstance(head, h11.Response) or head.http_version != b"1.1":
        raise h11.RemoteProtocolError(f"it begins with {head!r:.80}")
    if not any(name in {b"content-length", b"transfer-encoding"} for name, _ in head.headers):
        raise h11.RemoteProtocolError("an answer without a length")
    data = bytearray()
    while isinstance(event := await _next(line), h11.Data):
        data += event.data
        if len(data) > answer_max:
            return head.status_code, None
    return head.status_code, bytes(data)


async def _next(line: _Line) -> object:
    """What the member says next, an event of h11.

    Raises:
        IncompleteReadError: it hung up first.
    """
    while (event := line.state.next_event()) is h11.NEED_DATA:
        if not (more := await line.reader.read(READ_BYTES)):
            raise asyncio.IncompleteReadError(b"", None)
        line.state.receive_data(more)
    return event
