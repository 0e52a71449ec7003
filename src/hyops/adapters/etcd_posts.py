"""POSTs to members of etcd over connections that are kept: the part of HTTP/1.1 that its gateway speaks, and no more.

A control loop makes a dozen requests between a decision and its attempt, each of which waits for the one before. A
general client spends more than a millisecond of CPU on each, this one a tenth of that; what it leaves out is what etcd
never sends: redirects, cookies, compression. Whatever is not an answer in this form is an error of the connection, and
a connection on which anything went wrong, or was given up, is never used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

KEPT_S = 5.0  # longer unused, a connection may have been forgotten by whatever is between
KEPT_MAX = 16
HEADERS_MAX = 100
LINE_MAX = 64 * 1024
ACCEPT = "Accept: */*\r\n"  # without it etcd takes a request for one of its gateway's own certificate


class NotHttpError(ConnectionError):
    """What came is no answer of HTTP/1.1."""


@dataclass
class _Line:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
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
        request = _request(parts.netloc, parts.path, body, token)
        while (line := self._taken(host, port)) is not None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                return await self._asked(line, (host, port), request, answer_max)
        tls = self._tls if parts.scheme == "https" else None
        line = _Line(*await asyncio.open_connection(host, port, ssl=tls, limit=LINE_MAX))
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
        self, line: _Line, member: tuple[str, int], request: bytes, answer_max: int
    ) -> tuple[int, bytes | None]:
        keep = False
        try:
            line.writer.write(request)
            status, body, keep = await _answer(line.reader, answer_max)
        except (ValueError, asyncio.LimitOverrunError) as exc:
            raise NotHttpError(f"no answer of HTTP/1.1: {exc}") from exc
        finally:
            kept = self._kept.setdefault(member, [])
            if keep and len(kept) < KEPT_MAX:
                line.unused_since_s = asyncio.get_running_loop().time()
                kept.append(line)
            else:
                line.writer.transport.abort()
        return status, body


def _request(authority: str, path: str, body: bytes, token: str) -> bytes:
    if not (token.isascii() and token.isprintable()):
        raise NotHttpError("etcd's token is no text for a header")
    login = f"Authorization: {token}\r\n" if token else ""
    head = f"POST {path} HTTP/1.1\r\nHost: {authority}\r\n{ACCEPT}Content-Type: application/json\r\n{login}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body


async def _answer(reader: asyncio.StreamReader, answer_max: int) -> tuple[int, bytes | None, bool]:
    """Status, body, and whether the connection can be used again; ValueError for what is not HTTP/1.1."""
    status = int(_status(await _line(reader)))
    headers: dict[str, str] = {}
    for _ in range(HEADERS_MAX):
        text = await _line(reader)
        if not text:
            break
        name, colon, value = text.partition(":")
        if not colon:
            raise ValueError(f"{text[:80]!r} is no header")
        headers[name.lower()] = value.strip()
    else:
        raise ValueError(f"more than {HEADERS_MAX} headers")
    keep = headers.get("connection", "").lower() != "close"
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"].lower() != "chunked":
            raise ValueError(f"transfer-encoding {headers['transfer-encoding'][:80]!r}")
        body = await _chunks(reader, answer_max)
    elif "content-length" in headers:
        length = _size(headers["content-length"], 10)
        body = await reader.readexactly(length) if length <= answer_max else None
    else:
        raise ValueError("an answer without a length")
    return status, body, keep and body is not None


async def _chunks(reader: asyncio.StreamReader, answer_max: int) -> bytes | None:
    data = bytearray()
    while size := _size((await _line(reader)).partition(";")[0].strip(), 16):
        if len(data) + size > answer_max:
            return None
        data += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk without its end")
    for _ in range(HEADERS_MAX):
        if not await _line(reader):
            return bytes(data)
    raise ValueError(f"more than {HEADERS_MAX} trailers")


async def _line(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n"))[:-2].decode("latin-1")


def _status(line: str) -> str:
    version, _, rest = line.partition(" ")
    if version != "HTTP/1.1" or not (len(code := rest[:3]) == 3 and code.isdecimal() and code.isascii()):
        raise ValueError(f"{line[:80]!r} is no status line")
    return code


def _size(text: str, base: int) -> int:
    """A length; `int` alone would take signs, spaces and underscores."""
    digits = "0123456789abcdefABCDEF"[: 10 if base == 10 else None]
    if not 0 < len(text) <= 16 or text.strip(digits):
        raise ValueError(f"{text[:80]!r} is no length")
    return int(text, base)
