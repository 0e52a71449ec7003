"""A server dies, the blackbox exporter sees it, Prometheus alerts, Alertmanager tells us: all real, on loopback."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from hyops.adapters.alertmanager_source import AlertmanagerSource, Door
from hyops.adapters.clock_system import SystemClock
from hyops.errors import ConfigError
from hyops.model.policy import Signal
from hyops.ports.signals import Received, Watched, Watchlist
from loopback import free_ports, missing
from waiting import PATIENCE_S

PROGRAMS = ("prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter")


def watchlist(**words: Any) -> Watchlist:
    """One signal about the web server."""
    body = {"name": "web", "source": "alertmanager", "select": {"alertname": "WebDown"}, **words}
    body = {"dead_man": {"alertname": "Watchdog"}, "max_age_s": 30.0, "interval_s": 0.1, **body}
    return Watchlist(
        vantage="alertmanager", watched=[Watched(signal=Signal.of(body), host="web", address="127.0.0.1", port=1)]
    )


@contextmanager
def web(port: int) -> Iterator[ThreadingHTTPServer]:
    """The service that is watched."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def monitoring(folder: Path, served: int, told: int) -> Iterator[None]:
    """Debian's three programs, quick: a scrape each second, an alert at once, its group told after 100 ms."""
    prometheus, alertmanager, blackbox = free_ports(3)
    rules = [
        {"alert": "WebDown", "expr": "probe_success == 0", "labels": {"host": "web"}},
        {"alert": "Watchdog", "expr": "vector(1)"},
    ]
    relabel = [
        {"source_labels": ["__address__"], "target_label": "__param_target"},
        {"target_label": "__address__", "replacement": f"127.0.0.1:{blackbox}"},
    ]
    scrape = {
        "job_name": "web",
        "metrics_path": "/probe",
        "params": {"module": ["http"]},
        "static_configs": [{"targets": [f"http://127.0.0.1:{served}/"]}],
        "relabel_configs": relabel,
    }
    files: dict[str, Any] = {
        "blackbox": {"modules": {"http": {"prober": "http", "http": {"preferred_ip_protocol": "ip4"}}}},
        "rules": {"groups": [{"name": "g", "interval": "200ms", "rules": rules}]},
        "prometheus": {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "rule_files": [str(folder / "rules.yml")],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
            "scrape_configs": [scrape],
        },
        "alertmanager": {
            "route": {
                "receiver": "hyops", "group_by": ["alertname"],
                "group_wait": "100ms", "group_interval": "300ms", "repeat_interval": "1s",
            },
            "receivers": [{"name": "hyops", "webhook_configs": [_webhook(told)]}],
        },
    }  # fmt: skip
    for name, body in files.items():
        (folder / f"{name}.yml").write_text(json.dumps(body))
    argvs = [
        ["prometheus-blackbox-exporter", f"--config.file={folder}/blackbox.yml",
         f"--web.listen-address=127.0.0.1:{blackbox}"],
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
         f"--web.listen-address=127.0.0.1:{prometheus}", "--log.level=error", "--rules.alert.resend-delay=1s"],
        ["prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/am",
         f"--web.listen-address=127.0.0.1:{alertmanager}", "--cluster.listen-address=", "--log.level=error"],
    ]  # fmt: skip
    with ExitStack() as stack, (folder / "log").open("wb") as log:
        for argv in argvs:
            process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def _webhook(port: int) -> dict[str, Any]:
    credentials = {"authorization": {"type": "Bearer", "credentials": "s3cret"}}
    return {"url": f"http://127.0.0.1:{port}/alerts", "send_resolved": True, "http_config": credentials}


@pytest.mark.req("DEC-2", "DEC-3")
def test_a_dead_server_is_told_of_and_its_return_too(tmp_path: Path) -> None:
    """Unknown before a word; well by the dead man's alert; bad with the alert's own time; well again when resolved."""
    if missing(*PROGRAMS):
        pytest.skip(str(missing(*PROGRAMS)))
    served, told = free_ports(2)
    (tmp_path / "token").write_text("s3cret\n")
    door = Door(port=told, token_file=str(tmp_path / "token"))

    async def run() -> list[tuple[float | None, str]]:
        source = AlertmanagerSource("alertmanager", SystemClock(), door, lambda _: None)
        found: list[tuple[float | None, str]] = []

        async def until(stream: Any, value: float | None) -> None:
            async with asyncio.timeout(PATIENCE_S):
                async for event in stream:
                    sample = event.sample
                    if isinstance(event, Received) and sample.value == value:
                        found.append((sample.value, sample.error or sample.detail or ""))
                        return

        async with aclosing(source.observe(watchlist())) as stream:
            await until(stream, None)
            with monitoring(tmp_path, served, told):
                with web(served):
                    await until(stream, 1.0)
                await until(stream, 0.0)
                with web(served):
                    await until(stream, 1.0)
        return found

    before, well, bad, again = asyncio.run(run())

    assert before[0] is None
    assert "dead man" in well[1]
    assert "WebDown fires since" in bad[1]
    assert again[0] == 1.0


GOOD = {"version": "4", "groupKey": "g", "alerts": []}


@pytest.mark.req("DEC-2", "INV-5", "UX-1")
def test_who_may_not_speak_or_speaks_nonsense_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """No token, another one, another path or method, no JSON, too much: each its status; then a good one is heard."""
    (port,) = free_ports(1)
    (tmp_path / "token").write_text("s3cret")
    url, told = f"http://127.0.0.1:{port}/alerts", {"authorization": "Bearer s3cret"}
    said: list[str] = []

    async def run() -> list[int]:
        door = Door(port=port, token_file=str(tmp_path / "token"))
        source = AlertmanagerSource("alertmanager", SystemClock(), door, said.append)
        async with aclosing(source.observe(watchlist())) as stream, httpx.AsyncClient(trust_env=False) as client:
            await anext(stream)
            replies = [
                await client.post(url, json=GOOD),
                await client.post(url, json=GOOD, headers={"authorization": "Bearer other"}),
                await client.post(url + "/x", json=GOOD, headers=told),
                await client.get(url, headers=told),
                await client.post(url, content=json.dumps(GOOD), headers={**told, "content-type": "text/plain"}),
                await client.post(url, json={**GOOD, "version": "3"}, headers=told),
                await client.post(url, content=b" " * 3_000_000, headers={**told, "content-type": "application/json"}),
                await client.post(url, json=GOOD, headers=told),
            ]
        return [reply.status_code for reply in replies]

    assert asyncio.run(run()) == [401, 401, 404, 405, 415, 400, 413, 200]
    assert "s3cret" not in "".join(said)


@pytest.mark.req("UX-1")
@pytest.mark.parametrize("text", [None, "", "\n"])
def test_a_token_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    """A missing or empty file would let everybody in: the error names it."""
    if text is not None:
        (tmp_path / "token").write_text(text)
    with pytest.raises(ConfigError, match="token_file"):
        Door(token_file=str(tmp_path / "token")).token()
