"""One request for what many services ask alike, each its own series; and a slow server that delays nobody else."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.adapters.prometheus_answer import MARK
from hyops.adapters.prometheus_source import PrometheusSource
from hyops.model.policy import Signal
from hyops.model.signal import Sample
from hyops.ports.signals import Received, Watched, Watchlist
from waiting import PATIENCE_S


def watched(service: str, port: int, **words: Any) -> Watched:
    """A check of a service: the same query for all, and a label that says whose series is meant."""
    body = {"name": "up", "source": "prometheus", "url": f"http://127.0.0.1:{port}", "query": "up", **words}
    body = {"select": {"service": "$service", "host": "$host"}, "interval_s": 0.1, "timeout_s": 5.0, **body}
    return Watched(signal=Signal.of(body), host="db", address="x", port=1, service=service)


def answer(*series: tuple[str, str, str]) -> bytes:
    """Service, value, age."""
    result = []
    for service, value, age in series:
        metric = {"service": service, "host": "db"}
        result.append({"metric": {"__name__": "up", **metric}, "value": [1.0, value]})
        result.append({"metric": {**metric, MARK: "1"}, "value": [1.0, age]})
    body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Server:
    """Counts what it is asked and on how many connections."""

    def __init__(self, said: bytes | None) -> None:
        self.said, self.asked, self.connections = said, 0, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer for as long as somebody asks; `said` None: never."""
        self.connections += 1
        while (head := await reader.readuntil(b"\r\n\r\n")) and self.said is not None:
            length = next(int(line.split()[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
            await reader.readexactly(length)
            self.asked += 1
            writer.write(self.said)
        await reader.read()


async def first_of_each(watchlist: Watchlist, count: int) -> dict[str, Sample]:
    """The first sample of so many services."""
    found: dict[str, Sample] = {}
    async with (
        asyncio.timeout(PATIENCE_S),
        aclosing(PrometheusSource("prometheus", SystemClock()).observe(watchlist)) as stream,
    ):
        async for event in stream:
            assert isinstance(event, Received)
            found.setdefault(event.sample.service or "", event.sample)
            if len(found) == count:
                break
    return found


@pytest.mark.fault(5, 6)
@pytest.mark.req("DEC-2", "DEC-3")
def test_many_services_share_a_query_and_each_finds_its_own_series(listening: Any) -> None:
    """One request; absent, duplicated, stale and odd ones are unknown for whom they concern, and for nobody else."""
    series = [(f"s{n}", "1", "0.5") for n in range(50)]
    odd = [
        ("twice", "1", "0.5"),
        ("nan", "NaN", "0.5"),
        ("stale", "1", "99"),
        ("future", "1", "-9"),
        ("low", "0", "0.5"),
    ]
    body = json.loads(answer(*series, *odd).split(b"\r\n\r\n", 1)[1])
    again = {"metric": {"service": "twice", "host": "db", "job": "other"}, "value": [1.0, "1"]}
    body["data"]["result"].append(again)
    data = json.dumps(body).encode()
    server = Server(
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data
    )
    names = [service for service, _, _ in (*series, *odd)] + ["gone"]

    async def run() -> dict[str, Sample]:
        async with listening(server.serve) as port:
            watchlist = Watchlist(
                vantage="prometheus", watched=[watched(name, port, interval_s=60.0 / 600) for name in names]
            )
            found = await first_of_each(watchlist, len(names))
            assert server.asked <= 3, "not one per service"
            assert server.connections <= 3
            return found

    found = asyncio.run(run())

    assert {name for name, sample in found.items() if sample.value == 1.0} == {service for service, _, _ in series}
    assert found["low"].value == 0.0
    reasons = {name: sample.error or "" for name, sample in found.items() if sample.value is None}
    assert reasons.keys() == {"twice", "nan", "stale", "future", "gone"}
    assert "2 series instead of one" in reasons["twice"]
    assert "no such series" in reasons["gone"]


@pytest.mark.fault(6)
@pytest.mark.req("DEC-2")
def test_a_hanging_server_delays_nobody_else(listening: Any) -> None:
    """Forty queries wait for one that never answers, and another server's answers come meanwhile."""
    slow, quick = Server(None), Server(answer(("quick", "1", "0.5")))

    async def run() -> dict[str, Sample]:
        async with listening(slow.serve) as there, listening(quick.serve) as here:
            stuck = [watched("slow", there, name=f"q{n}", query=f"q{n}", timeout_s=60.0) for n in range(40)]
            watchlist = Watchlist(vantage="prometheus", watched=[*stuck, watched("quick", here)])
            found = await first_of_each(watchlist, 1)
            assert slow.connections <= 8
            return found

    assert asyncio.run(run())["quick"].value == 1.0


def test_a_changed_list_is_asked_from_then_on(listening: Any) -> None:
    """A new query begins, the numbers of an old one go on without a gap, and one that is not wanted ends."""
    server = Server(answer(("a", "1", "0.5"), ("b", "1", "0.5")))

    async def run() -> None:
        async with listening(server.serve) as port, asyncio.timeout(PATIENCE_S):
            source = PrometheusSource("prometheus", SystemClock())
            a, b = watched("a", port), watched("b", port, query="other")
            async with aclosing(source.observe(Watchlist(vantage="prometheus", watched=[a]))) as stream:
                first = (await anext(stream)).sample
                source.rewatch(Watchlist(vantage="prometheus", watched=[a, b]))
                seen = {first.service: [first.sequence]}
                while len(seen.get("b", [])) < 2 or len(seen["a"]) < 2:
                    sample = (await anext(stream)).sample
                    seen.setdefault(sample.service, []).append(sample.sequence)
                assert seen["a"] == list(range(len(seen["a"])))
                source.rewatch(Watchlist(vantage="prometheus", watched=[b]))
                last = [(await anext(stream)).sample.service for _ in range(8)]
                assert last[-4:] == ["b"] * 4

    asyncio.run(run())
