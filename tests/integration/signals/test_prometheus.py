"""Queries against a real Prometheus with a scrape target of our own, and against servers that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.adapters.prometheus import PrometheusProbe
from hyops.adapters.prometheus_source import PrometheusSource
from hyops.adapters.sampling import Look
from hyops.model.policy import Signal
from hyops.ports.signals import Received, Watched, Watchlist
from loopback import free_ports, missing
from waiting import wait_for


def watched(url: str, query: str = 'pg_up{host="$host"}', **words: Any) -> Watched:
    """One query; old samples are allowed unless a test is about age."""
    chosen = {"max_age_s": 60.0, "timeout_s": 5.0, "interval_s": 0.05, **words}
    signal = Signal(name="metrics", source="prometheus", url=url, query=query, **chosen)
    return Watched(signal=signal, host="onprem-db", address="10.77.1.10", port=5432)


def look(one: Watched) -> Look:
    """One look, with a client that would obey a proxy of the environment if it were asked to."""

    async def run() -> Look:
        probe = PrometheusProbe()
        try:
            return await probe(one, Watchlist(vantage="prometheus", watched=[one]))
        finally:
            await probe.close()

    return asyncio.run(run())


@dataclass
class Exporter:
    """A text-format target; `text` None closes the port's answer with an error."""

    port: int
    text: str = ""
    server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.text.encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a scrape that took too long is given up
                    self.wfile.write(body)

            def log_message(self, *words: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@dataclass
class Prometheus:
    """The server and its one target."""

    url: str
    exporter: Exporter

    def shows(self, query: str) -> list[Any]:
        """The series that a query finds now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, trust_env=False, timeout=30).json()
        return list(answer["data"]["result"])

    def until(self, query: str, series: int) -> None:
        """Scrapes are not announced; look until a query finds so many series."""
        wait_for(lambda: len(self.shows(query)) == series, f"{series} series of {query}")


@pytest.fixture(scope="module")
def prometheus() -> Iterator[Prometheus]:
    """Debian's Prometheus on loopback with its own folder, scraping ten times a second."""
    if missing("prometheus"):
        pytest.skip(str(missing("prometheus")))
    with tempfile.TemporaryDirectory(prefix="hyops-prometheus-") as name:
        folder = Path(name)
        port, target = free_ports(2)
        config = {
            "global": {"scrape_interval": "100ms", "scrape_timeout": "100ms"},
            "scrape_configs": [
                {
                    "job_name": "pg",
                    "honor_timestamps": True,
                    "static_configs": [{"targets": [f"127.0.0.1:{target}"], "labels": {"host": "onprem-db"}}],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        exporter = Exporter(target)
        argv = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        argv += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder)
        server = Prometheus(f"http://127.0.0.1:{port}", exporter)
        try:
            wait_for(lambda: ready(server.url), "prometheus")
            yield server
        finally:
            process.kill()
            process.wait()
            exporter.server.shutdown()
            exporter.server.server_close()


def ready(url: str) -> bool:
    """Whether it serves queries."""
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.req("DEC-2")
def test_a_value_comes_with_the_age_of_its_sample(prometheus: Prometheus) -> None:
    """The exporter's number, found by the member's host, with what its age was."""
    prometheus.exporter.text = "pg_up 1\n"
    prometheus.until('pg_up{host="onprem-db"}', 1)

    seen = look(watched(prometheus.url))

    assert seen.value == 1.0
    assert "s ago" in (seen.said or "")


@pytest.mark.fault(5)
@pytest.mark.req("DEC-3")
@pytest.mark.parametrize(
    ("words", "bad"),
    [
        ({}, None),
        ({"absence": "bad"}, 0.0),
        ({"absence": "bad", "threshold": 5.0, "comparator": "lte", "leave_threshold": 9.0}, 10.0),
    ],
    ids=["unknown", "bad", "bad-when-high"],
)
def test_a_series_that_vanished_is_what_the_signal_declares(
    prometheus: Prometheus, words: dict[str, Any], bad: float | None
) -> None:
    """The dead exporter's series are gone: unknown, except where absence is declared to be the failure."""
    prometheus.exporter.text = "pg_up 1\n"
    prometheus.until("pg_up", 1)
    prometheus.exporter.text = "other 1\n"
    prometheus.until("pg_up", 0)

    seen = look(watched(prometheus.url, **words))

    assert seen.value == bad
    assert "no such series" in (seen.said or "")


@pytest.mark.fault(6)
@pytest.mark.req("DEC-3")
def test_a_stale_sample_has_no_value(prometheus: Prometheus) -> None:
    """A sample older than the signal allows (by the server's own clock) is unknown, though the query finds it."""
    prometheus.exporter.text = f"old_up 1 {stamp_ms(prometheus, -30)}\n"
    prometheus.until("old_up", 1)

    assert look(watched(prometheus.url, "old_up", max_age_s=120.0)).value == 1.0
    seen = look(watched(prometheus.url, "old_up", max_age_s=5.0))
    assert seen.value is None
    assert "s old" in (seen.said or "")


def stamp_ms(prometheus: Prometheus, offset_s: float) -> int:
    """A time of the server's own, as exporters write it."""
    return int((float(prometheus.shows("vector(time())")[0]["value"][1]) + offset_s) * 1000)


@pytest.mark.req("DEC-2", "INV-5")
@pytest.mark.parametrize("query", ["pg_up == 1", "sum(pg_up)", "vector(1)"])
def test_a_query_that_computes_has_no_age_and_so_no_value(prometheus: Prometheus, query: str) -> None:
    """`timestamp()` of a computed result is when it was computed: a stale series would look fresh for five minutes."""
    prometheus.exporter.text = "pg_up 1\n"
    prometheus.until("pg_up", 1)

    seen = look(watched(prometheus.url, query))

    assert seen.value is None
    assert "record it by a rule" in (seen.said or "")


@pytest.mark.fault(6)
@pytest.mark.req("DEC-3")
@pytest.mark.parametrize(
    "query", ["0/0", "vector(0)/0", "vector(1)/0", "two_up", "pg_up[1m]", "pg_up{", '"text"', "absent_over(pg_up)"]
)
@pytest.mark.parametrize("absence", ["unknown", "bad"])
def test_what_is_not_one_finite_number_has_no_value(prometheus: Prometheus, query: str, absence: str) -> None:
    """NaN, infinity, two series, a matrix, a syntax error: unknown, also where absence would be bad."""
    prometheus.exporter.text = 'pg_up 1\ntwo_up{n="1"} 1\ntwo_up{n="2"} 1\n'
    prometheus.until("two_up", 2)

    seen = look(watched(prometheus.url, query, absence=absence))

    assert seen.value is None
    assert seen.said


def test_a_source_gives_samples_until_it_is_closed(prometheus: Prometheus) -> None:
    """As the decision service uses it: received on its own clock, nothing left running after the end."""
    prometheus.exporter.text = "pg_up 1\n"
    prometheus.until("pg_up", 1)

    async def run() -> tuple[list[Received], int]:
        source = PrometheusSource("prometheus", SystemClock())
        events = source.observe(Watchlist(vantage="prometheus", watched=[watched(prometheus.url)]))
        found = [event async for event, _ in _numbered(events, 3)]
        await events.aclose()
        return [event for event in found if isinstance(event, Received)], len(asyncio.all_tasks())

    found, tasks = asyncio.run(run())

    assert [event.sample.sequence for event in found] == [0, 1, 2]
    assert {event.sample.value for event in found} == {1.0}
    assert tasks == 1


async def _numbered(events: Any, count: int) -> Any:
    """The first `count` events."""
    for number in range(count):
        yield await anext(events), number


def answer(**words: Any) -> bytes:
    """A 200 with a JSON body."""
    return http(json.dumps(words).encode(), "application/json")


def http(body: bytes, kind: str = "text/plain", status: str = "200 OK", more: str = "") -> bytes:
    """A whole response."""
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}connection: close\r\n\r\n"
    )
    return head.encode() + body


def vector(*values: Any, **more: Any) -> bytes:
    """A successful answer with one series per value."""
    result = [{"metric": {}, "value": [1700000000, value]} for value in values]
    return answer(status="success", data={"resultType": "vector", "result": result}, **more)


BOMB = gzip.compress(b" " * 50_000_000)
HOSTILE = {
    "huge": http(b" " * 10_000_000),
    "bomb": http(BOMB, "application/json", more="content-encoding: gzip\r\n"),
    "compressed": http(
        gzip.compress(vector("1").split(b"\r\n\r\n", 1)[1]), "application/json", more="content-encoding: gzip\r\n"
    ),
    "redirect": http(b"", status="302 Found", more="location: http://127.0.0.1:9/\r\n"),
    "error": http(b"no", status="500 Internal Server Error"),
    "unavailable": http(b'{"status":"success"}', status="503 Service Unavailable"),
    "not-json": http(b"<html>login</html>"),
    "empty": http(b""),
    "list": http(b"[]"),
    "deep": http(b"[" * 100_000),
    "failed": answer(status="error", errorType="timeout", error="query timed out"),
    "number-not-text": vector(1),
    "true": vector(True),
    "nan": vector("NaN"),
    "infinite": vector("+Inf"),
    "two": vector("1", "1"),
    "partial": vector("1", warnings=["store onprem did not answer"]),
    "partial-absent": vector(warnings=["store onprem did not answer"]),
    "cut-off": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
    "not-http": b"\0\1\2\3" * 100,
    "silent-close": b"",
    "chunks-cut-off": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    b'20\r\n{"status":"success","data":{"res',
    "lying-type": vector("1").replace(b"application/json", b"text/html"),
    "no-type": vector("1").replace(b"content-type: application/json", b"x-type: application/json"),
    "redirect-permanent": http(b"", status="301 Moved Permanently", more="location: /api/v1/query\r\n"),
    "redirect-keep-method": http(b"", status="307 Temporary Redirect", more="location: /api/v1/query\r\n"),
    "no-age": vector("1"),
}


@pytest.mark.fault(6)
@pytest.mark.req("DEC-3", "INV-5")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_is_unknown(listening: Any, name: str) -> None:
    """Too large, compressed, elsewhere, broken, incomplete: no value and a reason, even where absence would be bad."""
    assert asyncio.run(_looked_at(listening, HOSTILE[name])).value is None


async def _looked_at(listening: Any, said: bytes) -> Look:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    async with listening(serve) as port:
        one = watched(f"http://127.0.0.1:{port}", absence="bad")
        probe = PrometheusProbe()
        try:
            seen = await probe(one, Watchlist(vantage="prometheus", watched=[one]))
        finally:
            await probe.close()
    assert seen.said
    return seen


@pytest.mark.fault(6)
def test_a_server_that_hangs_is_unknown_at_the_time_limit(listening: Any) -> None:
    """The sample comes at the limit, without a value; the next look does not wait for the hanging one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async def run() -> Received:
        async with listening(serve) as port:
            one = watched(f"http://127.0.0.1:{port}", timeout_s=0.2, absence="bad")
            events = PrometheusSource("prometheus", SystemClock()).observe(
                Watchlist(vantage="prometheus", watched=[one])
            )
            first = await anext(events)
            await events.aclose()
            assert isinstance(first, Received)
            return first

    received = asyncio.run(run())

    assert received.sample.value is None
    assert "no answer" in (received.sample.error or "")


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "ftp://x", "no url", "http://[", "http://127.0.0.1:1"])
def test_an_address_that_is_none_is_unknown(url: str) -> None:
    """A misspelt URL gives samples with a reason, not an exception that ends the source."""

    async def run() -> Any:
        events = PrometheusSource("p", SystemClock()).observe(Watchlist(vantage="p", watched=[watched(url)]))
        first = await anext(events)
        await events.aclose()
        return first

    sample = asyncio.run(run()).sample

    assert sample.value is None
    assert sample.error


def test_no_proxy_of_the_environment_stands_between(prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY of whoever started the service changes nothing."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:1")
    prometheus.exporter.text = "pg_up 1\n"
    prometheus.until("pg_up", 1)

    assert look(watched(prometheus.url)).value == 1.0
