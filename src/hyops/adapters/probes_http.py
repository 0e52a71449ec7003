"""Asks a URL: the status and words that a service which is well gives. What may be our own fault is unknown.

A refused connection, silence, or a server's own failure (5xx) is `bad`; so is an answer without the declared words. A
certificate that does not verify, a redirect that nobody declared, or any other status tells nothing: somebody else may
be answering, or may not like us.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict

from hyops.adapters.http_client import GIVEN_UP, httpx, tls_for, whole
from hyops.adapters.probes_network import ours
from hyops.adapters.sampling import Look
from hyops.model.policy import SERVER_FAILS, Expected
from hyops.ports.signals import Watched, Watchlist

BODY_BYTES_MAX = 64 * 1024
CLIENTS_MAX = 16  # one per set of trusted certificates


class HttpProbe:
    """One look, one connection: a kept one would tell of a server that takes no new ones."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, httpx.AsyncClient] = OrderedDict()

    async def __call__(self, watched: Watched, watchlist: Watchlist) -> Look:
        """1 when the answer is as expected, 0 when it is not, or nobody answers; None when that cannot be told."""
        expected = watched.signal.expect or Expected()
        url = (watched.signal.url or "").replace("$address", _bracketed(watched.address))
        url = url.replace("$port", str(watched.port)).replace("$host", watched.host)
        try:
            return await self._asked(url, expected)
        except httpx.HTTPError as exc:
            cause = _os_error(exc)
            if isinstance(cause, ssl.SSLCertVerificationError):
                return Look(None, f"its certificate does not verify: {cause.verify_message}")
            if cause is not None and ours(cause):
                return Look(None, f"{type(cause).__name__}: {cause}")
            silent = isinstance(exc, httpx.NetworkError | httpx.TimeoutException)
            return Look(0.0 if silent else None, f"{type(exc).__name__}: {exc}")
        except (httpx.InvalidURL, ssl.SSLError, OSError) as exc:  # a CA file that is none
            return Look(None, f"{type(exc).__name__}: {exc}")

    async def close(self) -> None:
        """Drop the connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def _asked(self, url: str, expected: Expected) -> Look:
        client = await self._client(url, expected.ca_file)
        headers = {"accept-encoding": "identity", "connection": "close", "user-agent": "hyops-probe"}
        for _ in range(expected.redirects + 1):
            async with client.stream("GET", url, headers=headers, timeout=None) as reply:
                if not (reply.has_redirect_location and reply.status_code not in expected.status):
                    return await _judged(reply, expected)
                following = reply.next_request
                told = reply.headers.get("location", "")[:200]
            if following is None or following.url.scheme not in ("http", "https"):
                break
            if url.startswith("https://") and following.url.scheme == "http":
                return Look(None, f"redirected from TLS to {told}: not followed")
            url = str(following.url)
        return Look(None, f"redirected to {told}, and no more than {expected.redirects} are declared to be followed")

    async def _client(self, url: str, ca_file: str | None) -> httpx.AsyncClient:
        key = ca_file or ("system" if url.startswith("https://") or ca_file else "plain")
        if key not in self._clients:
            trust = ssl.create_default_context(cafile=ca_file) if ca_file else tls_for([url, "https://"])
            self._clients[key] = httpx.AsyncClient(
                follow_redirects=False, trust_env=False, verify=trust, event_hooks=GIVEN_UP
            )
            if len(self._clients) > CLIENTS_MAX:
                await self._clients.popitem(last=False)[1].aclose()
        self._clients.move_to_end(key)
        return self._clients[key]


async def _judged(reply: httpx.Response, expected: Expected) -> Look:
    status = reply.status_code
    if status not in expected.status:
        return Look(0.0 if status >= SERVER_FAILS else None, f"HTTP {status}")
    if expected.contains is None:
        return Look(1.0, f"HTTP {status}")
    body = await whole(reply, BODY_BYTES_MAX)
    if body is None:
        return Look(None, f"HTTP {status}, and a body of more than {BODY_BYTES_MAX} bytes")
    if expected.contains.encode() in body:
        return Look(1.0, f"HTTP {status}")
    return Look(0.0, f"HTTP {status} without {expected.contains[:80]!r}")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _os_error(exc: BaseException | None) -> OSError | None:
    """What the network said, below what the library made of it."""
    for _ in range(8):
        if exc is None or isinstance(exc, OSError):
            break
        exc = exc.__cause__ or exc.__context__
    return exc if isinstance(exc, OSError) else None
