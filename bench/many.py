"""A thousand services with ten checks each every ten seconds in one decision service, against a real Prometheus.

Debian's Prometheus scrapes an exporter with the ten series of each service; the service is `hyops service run decision`
with its own records on disk. Measured over a minute once it has settled: CPU, resident memory, how many checks it
judged, and what it wrote, which must be nothing. The baseline is the same queries by the same client with no judgement.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.measure import Row, Table, series
from bench.process import cpu_s, rss_mb, stored_bytes
from bench.stages import Stages
from hyops.adapters.prometheus import PrometheusProbe
from hyops.adapters.prometheus_source import asked_as
from hyops.model.observed import Mode
from hyops.model.policy import ServicePolicy
from hyops.ports.signals import Watched
from hyops.services.watchlists import joined
from hyops_lab.wiring import service

SERVICES, CHECKS, EVERY_S = 1000, 10, 10.0
SETTLE_S, WINDOW_S = 30.0, 60.0
GOAL_SHARE, GOAL_MB = 0.30, 200.0


def run(table: Table, count: int) -> None:
    """One row each for CPU and memory; `count` is of whole runs."""
    shares, floors, sizes, grown, rate = [], [], [], 0, 0.0
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder, prometheus(Path(folder)) as url:
            floors.append(asyncio.run(bare(policies(url))) / EVERY_S)
            share, size, wrote, answered = of_the_service(Path(folder), policies(url))
            shares.append(share)
            sizes.append(size)
            grown, rate = max(grown, wrote), answered
    name = f"{SERVICES:,} services x {CHECKS} checks every {EVERY_S:g} s, against a real Prometheus"
    table.add(
        Row(
            f"{name}: share of one core",
            series([100 * share for share in shares]),
            unit="%",
            baseline=series([100 * floor for floor in floors]),
            baseline_name="the bare queries",
            goal="<= 30 %",
            reached=max(shares) <= GOAL_SHARE,
            incumbent="375 evaluations/s, sequential",
            note=f"{rate:.1f} queries/s by Prometheus's own count; {grown} bytes written in {WINDOW_S:g} s",
        )
    )
    table.add(
        Row(
            f"{name}: resident",
            series(sizes),
            unit="MB",
            goal="<= 200 MB",
            reached=max(sizes) <= GOAL_MB,
        )
    )


def policies(url: str) -> list[dict[str, Any]]:
    """As an operator writes them: one query for a kind of check, and a label that says whose series is meant."""
    body = service.policy()
    made = []
    for number in range(SERVICES):
        checks = [
            {
                "name": f"check{check}",
                "source": "prometheus",
                "url": url,
                "query": f"bench_check{check}",
                "select": {"service": f"s{number}"},
                "about": "primary" if check < CHECKS // 2 else "target",
                "interval_s": EVERY_S,
                "timeout_s": 5.0,
                "max_age_s": 30.0,
            }
            for check in range(CHECKS)
        ]
        made.append({**body, "service": f"s{number}", "signals": checks, "quorum": 1})
    return made


def of_the_service(folder: Path, protected: list[dict[str, Any]]) -> tuple[float, float, int, float]:
    """Share of one core, resident MB, bytes written, queries a second by Prometheus's own count."""
    stages = Stages(folder)
    stages.stand()
    path = stages.config("decision")
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "protected": [{"policy": policy} for policy in protected], "vantages": {}}))
    hyops = str(Path(sys.executable).with_name("hyops"))
    with (folder / "decision.log").open("wb") as log:
        process = subprocess.Popen([hyops, "service", "run", "decision", "--config", str(path)], stderr=log)
    try:
        time.sleep(SETTLE_S)
        home = stages.directory("decision", "records").parent
        before, size, asked = cpu_s(process.pid), stored_bytes(home), queries(protected[0]["signals"][0]["url"])
        time.sleep(WINDOW_S)
        share = (cpu_s(process.pid) - before) / WINDOW_S
        if process.poll() is not None:
            raise RuntimeError((folder / "decision.log").read_text()[-2000:])
        answered = queries(protected[0]["signals"][0]["url"]) - asked
        return share, rss_mb(process.pid), stored_bytes(home) - size, answered / WINDOW_S
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def queries(url: str) -> float:
    """How many it has answered well."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    words = [line for line in lines if line.startswith("prometheus_http_requests_total") and '"/api/v1/query"' in line]
    return sum(float(line.split()[-1]) for line in words if 'code="200"' in line)


async def bare(protected: list[dict[str, Any]]) -> float:
    """CPU seconds of one round of the same queries in this process, answers parsed and nothing judged."""
    services = [ServicePolicy.of(body) for body in protected]
    watchlist = joined("prometheus", [(p, Mode(generation=1, primary=p.preferred)) for p in services], {})
    groups: dict[Any, list[Watched]] = {}
    for watched in watchlist.watched:
        groups.setdefault(asked_as(watched), []).append(watched)
    probe = PrometheusProbe(urls=["http://"])
    for together in groups.values():
        await probe.ask(together)
    began = time.process_time()
    for together in groups.values():
        looks = await probe.ask(together)
        assert all(look.value == 1.0 for look in looks), looks[0]
    took = time.process_time() - began
    await probe.close()
    return took


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """Debian's Prometheus with one target that has every series; ended with it."""
    text = "".join(
        f'bench_check{check}{{service="s{number}"}} 1\n' for check in range(CHECKS) for number in range(SERVICES)
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    exporter = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=exporter.serve_forever, daemon=True).start()
    port = 19790 + os.getpid() % 1000
    scrape = {"job_name": "b", "static_configs": [{"targets": [f"127.0.0.1:{exporter.server_port}"]}]}
    config = {"global": {"scrape_interval": "5s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    argv = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder)
    try:
        time.sleep(12.0)  # two scrapes
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        exporter.shutdown()
        exporter.server_close()
