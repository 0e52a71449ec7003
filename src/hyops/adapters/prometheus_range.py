"""Recorded samples from a range query against a Prometheus-compatible API (DEC-2, DEC-3).

A point of a range query may be a sample of minutes ago, so each is asked for its own time too, and one that is older
than the signal allows is unknown. Anything but one series per signal is an error: a replay of a guess proves nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hyops.adapters.http_client import httpx, tls_for
from hyops.errors import ConfigError, Effect, TargetError
from hyops.model.policy import Signal
from hyops.model.signal import Sample

POINTS_MAX = 10_000  # of one answer; the server's own limit is 11,000
BYTES_MAX = 16 * 1024 * 1024
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Asked:
    """One signal at one vantage point, and the query whose past stands for it."""

    signal: Signal
    vantage: str
    query: str


class PrometheusRange:
    """One server; `close` drops its connections."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--prometheus {url}: not an http or https address", hint="give it as http://HOST:9090")
        self._url = f"{url.rstrip('/')}/api/v1/query_range"
        self._client = httpx.Client(follow_redirects=False, trust_env=False, verify=tls_for([url]), timeout=TIMEOUT_S)

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()

    def samples(self, asked: Asked, began_s: float, ended_s: float) -> Iterator[Sample]:
        """One sample per step, the signal's own interval or what its age allows; absent and stale ones as `unknown`.

        Raises:
            TargetError: the server does not answer, or not with one series of numbers.
        """
        signal = asked.signal
        step_s = min(signal.interval_s, signal.max_age_s) or signal.interval_s
        count, first = math.floor((ended_s - began_s) / step_s), 0
        while first <= count:
            last = min(first + POINTS_MAX - 1, count)
            span = (began_s + first * step_s, began_s + last * step_s, step_s)
            values, stamps = self._points(asked.query, *span), self._points(f"timestamp({asked.query})", *span)
            for number in range(first, last + 1):
                at_s = round(began_s + number * step_s, 3)
                value, said = _judged(signal, at_s, values.get(at_s), stamps.get(at_s))
                yield Sample(
                    vantage=asked.vantage,
                    signal=signal.name,
                    sequence=number,
                    taken_at=datetime.fromtimestamp(at_s, UTC),
                    value=value,
                    error=said if value is None else None,
                    detail=said if value is not None else None,
                )
            first = last + 1

    def _points(self, query: str, began_s: float, ended_s: float, step_s: float) -> dict[float, str]:
        form = {"query": query, "start": f"{began_s:.3f}", "end": f"{ended_s:.3f}", "step": f"{step_s:.3f}"}
        try:
            with self._client.stream("POST", self._url, data=form, headers={"accept-encoding": "identity"}) as reply:
                body = b""
                for chunk in reply.iter_bytes():
                    body += chunk
                    if len(body) > BYTES_MAX:
                        raise _unusable(f"{self._url}: the answer is larger than {BYTES_MAX} bytes")
                if reply.status_code != httpx.codes.OK:
                    said = body[:300].decode(errors="replace")
                    raise _unusable(f"{self._url}: HTTP {reply.status_code} to {query}: {said}")
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise _unusable(f"{self._url}: {type(exc).__name__}: {exc}") from exc
        return _series(body, query)


def _series(body: bytes, query: str) -> dict[float, str]:
    try:
        answer: Any = json.loads(body)
        data = answer["data"]
        if answer["status"] != "success" or data["resultType"] != "matrix" or answer.get("warnings"):
            raise _unusable(f"{query}: no complete answer: {str(answer)[:300]}")
        if len(data["result"]) > 1:
            raise _unusable(f"{query}: {len(data['result'])} series instead of one")
        points = data["result"][0]["values"] if data["result"] else []
        return {round(float(at), 3): str(value) for at, value in points}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as exc:
        raise _unusable(f"{query}: not an answer of the query API: {type(exc).__name__}") from exc


def _judged(signal: Signal, at_s: float, value: str | None, stamp: str | None) -> tuple[float | None, str | None]:
    """The value of a point, or why it has none."""
    if value is None or stamp is None:
        if signal.absence != "bad":
            return None, "no such series"
        lines = [signal.threshold, signal.threshold if signal.leave_threshold is None else signal.leave_threshold]
        beyond = min(lines) - 1 if signal.comparator == "gte" else max(lines) + 1
        return beyond, "no such series, which this signal declares to be the failure"
    number, taken_s = float(value), float(stamp)
    if not math.isfinite(number):
        return None, f"{value} is not a number to compare"
    if at_s - taken_s > signal.max_age_s:
        return None, f"the sample is {at_s - taken_s:.1f} s old"
    return number, f"sample of {max(at_s - taken_s, 0):.1f} s ago"


def _unusable(message: str) -> TargetError:
    hint = "nothing was replayed: look at the query in Prometheus itself, then run this again"
    return TargetError(message, hint=hint, effect=Effect.NONE)
