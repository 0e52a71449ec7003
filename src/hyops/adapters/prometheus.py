"""One instant query against a Prometheus-compatible API, judged by the time of the sample (DEC-2, DEC-3, fault 6).

The age is `time() - timestamp(expr)` computed by the server itself, so no two clocks are compared. Whatever is not
exactly one finite, fresh number is unknown; an empty answer is what the signal's `absence` says it is.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Iterable
from typing import Any

from hyops.adapters.http_client import GIVEN_UP, httpx, tls_for, whole
from hyops.adapters.probes_stream import Look, Stream
from hyops.model.policy import Signal
from hyops.model.signal import Sample
from hyops.ports.clock import Clock
from hyops.ports.signals import Lost, Received, Watched, Watchlist

BYTES_MAX = 256 * 1024
FUTURE_MAX_S = 1.0


class PrometheusProbe:
    """Keeps one HTTP client. `urls`: all that it will be asked about, when that is known."""

    def __init__(self, client: httpx.AsyncClient | None = None, *, urls: Iterable[str] = ("https://",)) -> None:
        self._client = client or httpx.AsyncClient(
            follow_redirects=False, trust_env=False, verify=tls_for(urls), event_hooks=GIVEN_UP
        )

    async def close(self) -> None:
        """Drop the connections."""
        await self._client.aclose()

    async def __call__(self, watched: Watched, watchlist: Watchlist) -> Look:
        """One look; `$host` (also `$primary`, `$target`) in the query stands for the member that is asked about."""
        signal = watched.signal
        query = signal.query or ""
        for word in ("$host", "$primary", "$target"):
            query = query.replace(word, watched.host)
        try:
            value = await self._ask(signal, query)
            if isinstance(value, str):
                return self._absent(signal) if value == "absent" else Look(None, value)
            age = await self._ask(signal, f"time() - timestamp({query})")
            if age == 0:  # taken in this very millisecond, or computed; asked again, only the latter stays 0
                age = await self._ask(signal, f"time() - timestamp({query})")
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return Look(None, f"{type(exc).__name__}: {exc}")
        if isinstance(age, str):
            return self._absent(signal) if age == "absent" else Look(None, f"age of the sample: {age}")
        if age == 0:  # `timestamp()` of what a query computes is when it was computed
            return Look(None, "the query computes, so the sample has no age: record it by a rule and query that")
        if not -FUTURE_MAX_S <= age <= signal.max_age_s:
            return Look(None, f"the sample is {age:.1f} s old")
        return Look(value, f"sample of {age:.1f} s ago")

    @staticmethod
    def _absent(signal: Signal) -> Look:
        if signal.absence != "bad":
            return Look(None, "no such series")
        worst = -math.inf if signal.comparator == "gte" else math.inf
        beyond = signal.threshold - 1 if worst < 0 else signal.threshold + 1
        for line in (signal.leave_threshold,):
            if line is not None:
                beyond = min(beyond, line - 1) if worst < 0 else max(beyond, line + 1)
        return Look(beyond, "no such series, which this signal declares to be the failure")

    async def _ask(self, signal: Signal, query: str) -> float | str:
        """The one number of the answer, `absent`, or why there is none."""
        url = f"{(signal.url or '').rstrip('/')}/api/v1/query"
        limit = httpx.Timeout(signal.timeout_s)
        plain = {"accept-encoding": "identity"}  # a small compressed answer may unfold without limit
        async with self._client.stream("POST", url, data={"query": query}, headers=plain, timeout=limit) as reply:
            if reply.status_code != httpx.codes.OK:
                return f"HTTP {reply.status_code}"
            body = await whole(reply, BYTES_MAX)
        return f"the answer is larger than {BYTES_MAX} bytes" if body is None else number_in(body)


class PrometheusSource:
    """The service itself asks Prometheus; its pseudo vantage point is `prometheus` and has no vote of its own."""

    def __init__(self, vantage: str, clock: Clock, client: httpx.AsyncClient | None = None) -> None:
        self._vantage, self._clock, self._client = vantage, clock, client

    @property
    def vantage(self) -> str:
        """Its name; a pseudo vantage point, usually `prometheus`."""
        return self._vantage

    async def observe(self, watchlist: Watchlist) -> AsyncGenerator[Received | Lost, None]:
        """Samples for ever."""
        samples: asyncio.Queue[Sample | None] = asyncio.Queue(maxsize=1000)
        urls = [watched.signal.url or "" for watched in watchlist.watched]
        probe = PrometheusProbe(self._client, urls=urls)

        def offer(sample: Sample | None) -> None:
            if samples.full():
                samples.get_nowait()  # a reader that lags wants the newest
            samples.put_nowait(sample)

        task = asyncio.create_task(Stream(watchlist, {"prometheus": probe}, offer).run())
        task.add_done_callback(lambda _: offer(None))
        try:
            while (sample := await samples.get()) is not None:
                yield Received(sample, self._clock.monotonic())
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._client is None:
                await probe.close()


def number_in(body: bytes) -> float | str:
    """The single finite number in an instant query's answer, `absent` when it is empty, or why it is unusable."""
    try:
        answer: Any = json.loads(body)
        if answer["status"] != "success":
            return f"status {answer['status']}"
        if answer.get("warnings"):  # a store did not answer (Thanos): neither presence nor absence can be trusted
            return f"incomplete: {str(answer['warnings'])[:200]}"
        data = answer["data"]
        if data["resultType"] == "scalar":
            text = data["result"][1]
        elif data["resultType"] == "vector":
            if not data["result"]:
                return "absent"
            if len(data["result"]) > 1:
                return f"{len(data['result'])} series instead of one"
            text = data["result"][0]["value"][1]
        else:
            return f"result type {data['resultType']}"
        if not isinstance(text, str):
            return "the value is not a number in quotes"
        value = float(text)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError) as exc:
        return f"not an answer of the query API: {type(exc).__name__}"
    return value if math.isfinite(value) else f"{text} is not a number to compare"
