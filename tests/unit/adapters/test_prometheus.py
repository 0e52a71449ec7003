"""Fault 6 against the query API: whatever is not exactly one fresh number is unknown (DEC-2, DEC-3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from hyops.adapters.prometheus import PrometheusProbe
from hyops.adapters.prometheus_answer import MARK, both
from hyops.adapters.sampling import Look
from hyops.model.policy import Signal
from hyops.ports.signals import Watched, Watchlist

JSON = "application/json"
IDS = ["nan", "inf", "-inf", "two", "stale", "future", "age-nan", "error", "matrix", "other", "text", "deep", "503"]
IDS += ["redirect", "huge", "ageless", "twice", "scalar"]
Reply = Callable[[str], httpx.Response]


class Wire(httpx.AsyncByteStream):
    """A body that arrives, as one does from a real server."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """All of it in one piece."""
        yield self._content


def vector(*values: str) -> dict[str, Any]:
    """An answer with so many series."""
    series = [{"metric": {"n": str(n)}, "value": [1.0, value]} for n, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": series}}


def asked(reply: Reply, **signal: Any) -> Look:
    """One look at a server that answers like this."""
    body = {"name": "up", "source": "prometheus", "query": 'up{host="$host"}', "url": "http://prometheus", **signal}
    watched = Watched(signal=Signal.of(body), host="onprem-db", address="10.77.1.10", port=5432)

    def serve(request: httpx.Request) -> httpx.Response:
        made = reply(httpx.QueryParams(request.content.decode())["query"])
        return httpx.Response(made.status_code, headers=made.headers, stream=Wire(made.content))

    async def look() -> Look:
        async with httpx.AsyncClient(transport=httpx.MockTransport(serve)) as client:
            return await PrometheusProbe(client)(watched, Watchlist(vantage="prometheus", watched=[watched]))

    return asyncio.run(look())


def server(value: dict[str, Any], age: dict[str, Any] | None = None) -> Reply:
    """Answers with the series of `value`, and with those of `age` as their ages."""
    answer = json.loads(json.dumps(value))
    if answer.get("data", {}).get("resultType") == "vector":
        marked = [{**one, "metric": {**one["metric"], MARK: "1"}} for one in (age or vector("0.5"))["data"]["result"]]
        answer["data"]["result"] += marked if value["data"]["result"] else []
    return lambda query: httpx.Response(200, json=answer)


@pytest.mark.req("DEC-2")
def test_one_fresh_number_is_a_value() -> None:
    """The number, in one request with its age; and the member that is asked about stands in the query."""
    queries: list[str] = []

    def reply(query: str) -> httpx.Response:
        queries.append(query)
        return server(vector("1"))(query)

    assert asked(reply).value == 1.0
    assert queries == [both('up{host="onprem-db"}')]


@pytest.mark.fault(6)
@pytest.mark.req("DEC-3", "INV-5")
@pytest.mark.parametrize(
    "reply",
    [
        server(vector("NaN")),
        server(vector("+Inf")),
        server(vector("-Inf")),
        server(vector("1", "1")),
        server(vector("1"), vector("3.0")),
        server(vector("1"), vector("-5")),
        server(vector("1"), vector("NaN")),
        server({"status": "error", "error": "x"}),
        server({"status": "success", "data": {"resultType": "matrix", "result": []}}),
        server({"hello": 1}),
        lambda _query: httpx.Response(200, content=b"not json", headers={"content-type": JSON}),
        lambda _query: httpx.Response(200, content=b'{"data":' * 5000, headers={"content-type": JSON}),
        lambda _query: httpx.Response(503, json=vector("1")),
        lambda _query: httpx.Response(302, headers={"location": "http://elsewhere"}),
        lambda _query: httpx.Response(
            200, content=json.dumps(vector("1")).encode() + b" " * 10_000_000, headers={"content-type": JSON}
        ),
        lambda _query: httpx.Response(200, json=vector("1")),
        server(vector("1"), {"data": {"result": vector("0.5")["data"]["result"] * 2}}),
        server({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "1"]}}),
    ],
    ids=IDS,
)
def test_anything_else_is_unknown(reply: Reply) -> None:
    """No value, and words that say why."""
    look = asked(reply)

    assert look.value is None
    assert look.said


@pytest.mark.fault(6)
def test_a_server_that_fails_is_unknown() -> None:
    """Refused, reset, timed out."""

    def reply(query: str) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    assert asked(reply).value is None


@pytest.mark.fault(5)
@pytest.mark.req("DEC-3")
@pytest.mark.parametrize(("comparator", "bad"), [("gte", lambda v: v < 1), ("lte", lambda v: v > 1)])
def test_absence_is_failure_only_where_it_is_declared(comparator: str, bad: Callable[[float], bool]) -> None:
    """The series is gone: unknown by default, a value on the bad side where the signal says so."""
    silent = asked(server(vector()), comparator=comparator)
    declared = asked(server(vector()), comparator=comparator, absence="bad")

    assert silent.value is None
    assert declared.value is not None
    assert bad(declared.value)
