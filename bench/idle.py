"""What the services of an idle lab cost: resident memory a minute after they started, and CPU over half a minute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Row, Table, series
from bench.process import cpu_s, rss_mb
from hyops_lab import Lab
from hyops_lab.hosts import HOSTS
from hyops_lab.machine import processes
from hyops_lab.wiring import everything

SETTLE_S, WINDOW_S = 60.0, 30.0
GOAL_MB = 60.0
LAB_ID = "bench"


@dataclass(frozen=True)
class Process:
    """One process of ours on one host; `service` as on its command line."""

    host: str
    service: str
    pid: int


def run(table: Table, count: int) -> None:
    """A row a service; `count` labs, one after the other."""
    rss: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(count):
        lab = Lab(LAB_ID)
        try:
            lab.down()
            lab.up(wire=everything.wire)
            time.sleep(SETTLE_S)
            found = list(of_ours(lab))
            before = {process: cpu_s(process.pid) for process in found}
            time.sleep(WINDOW_S)
            for process in found:
                rss.setdefault(process.service, []).append(rss_mb(process.pid))
                cpu.setdefault(process.service, []).append((cpu_s(process.pid) - before[process]) / WINDOW_S)
        finally:
            lab.down()
    for service in sorted(rss):
        used = max(cpu[service]) * 100
        table.add(
            Row(
                f"idle service `{service}`, resident",
                series(rss[service]),
                unit="MB",
                goal="<= 60 MB",
                reached=max(rss[service]) <= GOAL_MB,
                note=f"{used:.1f} % of one core at most, over {WINDOW_S:g} s",
            )
        )


def of_ours(lab: Lab) -> Iterator[Process]:
    """Every process of ours in the lab's machines."""
    for host in HOSTS:
        for pid in processes(lab.machine(host).cgroup):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if "/usr/bin/hyops" in words:
                tail = words[words.index("/usr/bin/hyops") + 1 :]
                yield Process(host, " ".join(tail[2:3] if tail[0] == "service" else tail[:2]), pid)
