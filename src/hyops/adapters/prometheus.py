"""Instant queries against Prometheus-compatible APIs, judged by the time of the sample (DEC-2, DEC-3, fault 6).

One request gives value and age: `time() - timestamp(query)` is computed by the server at the instant of the query
itself, so no two clocks are compared, and the age is that of the very sample. Whatever is not exactly one finite,
fresh number is unknown; an empty answer is what the signal's `absence` says it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from hyops.adapters.http_client import GIVEN_UP, httpx, tls_for, whole
from hyops.adapters.prometheus_answer import Answer, Found, both, parsed
from hyops.adapters.sampling import Look
from hyops.model.policy import Signal
from hyops.ports.signals import Watched, Watchlist

BYTES_MAX = 256 * 1024
BYTES_PER_WATCHED = 2 * 1024
BYTES_ALL_MAX = 16 * 1024 * 1024
FUTURE_MAX_S = 1.0
CONNECTIONS_MAX = 8  # and so many queries at once, of one Prometheus: a slow one delays nobody else's
WORDS = ("$host", "$primary", "$target")


class PrometheusProbe:
    """Keeps one pool of connections per Prometheus. `urls`: all that will be asked about, when that is known."""

    def __init__(self, client: httpx.AsyncClient | None = None, *, urls: Iterable[str] = ("https://",)) -> None:
        self._given, self._tls = client, None if client else tls_for(urls)
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def close(self) -> None:
        """Drop the connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def __call__(self, watched: Watched, watchlist: Watchlist) -> Look:
        """One look at one signal."""
        return (await self.ask([watched]))[0]

    async def ask(self, together: list[Watched]) -> list[Look]:
        """One query for all of these, which have the same `asked_as`; a look for each."""
        first = together[0].signal
        most = min(BYTES_MAX + BYTES_PER_WATCHED * (len(together) - 1), BYTES_ALL_MAX)
        query = query_of(together[0])
        try:
            answer = await self._ask(first, query, most)
            if isinstance(answer, Answer) and answer.ages_of_none:
                # taken in this very millisecond, or computed; asked again, only the latter stays 0
                answer = await self._ask(first, query, most)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            answer = f"{type(exc).__name__}: {exc}"
        if isinstance(answer, str):
            return [Look(None, answer)] * len(together)
        return [look_of(watched, answer.find(selected(watched))) for watched in together]

    async def _ask(self, signal: Signal, query: str, bytes_max: int) -> Answer | str:
        """What the server found, or why that is not known."""
        base = (signal.url or "").rstrip("/")
        plain = {"accept-encoding": "identity"}  # a small compressed answer may unfold without limit
        limit = httpx.Timeout(signal.timeout_s)
        words = {"query": both(query)}
        async with self._client(base).stream(
            "POST", f"{base}/api/v1/query", data=words, headers=plain, timeout=limit
        ) as reply:
            if reply.status_code != httpx.codes.OK:
                return f"HTTP {reply.status_code}"
            kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return f"content type {kind[:80]!r} instead of application/json"
            body = await whole(reply, bytes_max)
        return f"the answer is larger than {bytes_max} bytes" if body is None else parsed(body)

    def _client(self, base: str) -> httpx.AsyncClient:
        if self._given is not None:
            return self._given
        if base not in self._clients:
            self._clients[base] = httpx.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                verify=self._tls or True,
                event_hooks=GIVEN_UP,
                limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            )
        return self._clients[base]


def query_of(watched: Watched) -> str:
    """`$host` (also `$primary`, `$target`) in a query stands for the member that is asked about."""
    return meant(watched.signal.query or "", watched)


def selected(watched: Watched) -> tuple[tuple[str, str], ...] | None:
    """Labels and values of the series that is meant, by label; None: the only one. `$service` stands for its name."""
    select = watched.signal.select
    if select is None:
        return None
    return tuple(sorted((label, meant(text, watched)) for label, text in select.items()))


def meant(text: str, watched: Watched) -> str:
    """`text` with the member and the service that a signal is about."""
    if "$" not in text:
        return text
    for word in WORDS:
        text = text.replace(word, watched.host)
    return text.replace("$service", watched.service or "$service")


def look_of(watched: Watched, found: Found | str | None) -> Look:
    """What one series says; None: there is none such."""
    signal = watched.signal
    if found is None:
        return absent(signal)
    if isinstance(found, str):
        return Look(None, found)
    if found.age_s == 0:  # `timestamp()` of what a query computes is when it was computed
        return Look(None, "the query computes, so the sample has no age: record it by a rule and query that")
    if not -FUTURE_MAX_S <= found.age_s <= signal.max_age_s:
        return Look(None, f"the sample is {found.age_s:.1f} s old")
    return Look(found.value, f"sample of {found.age_s:.1f} s ago")


def absent(signal: Signal, said: str = "no such series") -> Look:
    """A missing series: unknown, or a value beyond every line where absence was declared to be the failure."""
    if signal.absence != "bad":
        return Look(None, said)
    worst = -math.inf if signal.comparator == "gte" else math.inf
    beyond = signal.threshold - 1 if worst < 0 else signal.threshold + 1
    for line in (signal.leave_threshold,):
        if line is not None:
            beyond = min(beyond, line - 1) if worst < 0 else max(beyond, line + 1)
    return Look(beyond, f"{said}, which this signal declares to be the failure")
