"""httpx without its own command line, which it loads on import with rich and pygments: 55 ms of CPU and 5 MB in every
service and every run that speaks HTTP. httpx itself does without when that module cannot be imported.

And without looking for `sniffio`, where that is not installed: httpcore tries to import it twice for every request, and
searches all import paths each time, some 0.4 ms of CPU. Without it httpcore takes asyncio, which is what runs here.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None: importing it raises ImportError
if find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]

import httpx  # noqa: E402  # after the line that it is about

__all__ = ["GIVEN_UP", "httpx", "tls_for", "whole"]


def tls_for(urls: Iterable[str]) -> ssl.SSLContext:
    """The system's trust; where no URL asks for TLS, trust in nobody: reading the store costs 20 ms and 2 MB."""
    if all(url.startswith("http://") for url in urls):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.create_default_context()


async def whole(reply: httpx.Response, bytes_max: int) -> bytes | None:
    """The body of a streamed reply as it was sent; None when it is longer than `bytes_max`: the rest is not read."""
    data = bytearray()
    async for piece in reply.aiter_raw():
        data += piece
        if len(data) > bytes_max:
            return None
    return bytes(data)


async def _closes_what_is_given_up(request: httpx.Request) -> None:
    """Close a connection when its TLS handshake is cancelled: the library leaves it to the garbage collector."""
    half_made: list[Any] = []

    async def follow(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            half_made.append(info["return_value"])
        elif event == "connection.start_tls.complete":
            half_made.clear()
        elif event == "connection.start_tls.failed":
            while half_made:
                await half_made.pop().aclose()

    request.extensions = {**request.extensions, "trace": follow}


GIVEN_UP: dict[str, list[Any]] = {"request": [_closes_what_is_given_up]}
"""`event_hooks` of every client whose requests are cancelled: by a limit over several, or by a faster one."""
