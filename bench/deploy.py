"""`hyops runner blueprint` as a person types it: whole processes, from their start to their exit.

A control host with its four stages as services, and a real sshd in front of a runner; the executor's service stands
beside the command, and leaves the command's own decision to it. The plan does nothing and stands approved.
"""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.dispatch import Runner, listening
from bench.measure import Row, Series, Table, series, timed
from bench.proxy import Proxy
from bench.stages import RUNNER, SERVICE, STAGES, Stages
from hyops_lab.wiring import service

HYOPS = str(Path(sys.executable).with_name("hyops"))
ONE_WAY_S = 0.020
NEAR_S, FAR_S = 0.6, 1.2


def run(table: Table, count: int) -> None:
    """Preflight and deploy, near and far, each beside a cold `ssh host true` over the same way."""
    with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder:
        stages = Control(Path(folder))
        stages.stand()
        with listening(stages) as runner, Proxy(runner.port, ONE_WAY_S).listening() as far:
            near = stages.dials(runner, runner.port)
            stages.config("execution").write_text(near.read_text())
            over = stages.dials(runner, far.port)
            with stages.running():
                _rows(table, count, Site(stages, runner), near, far, over)


def _rows(table: Table, count: int, site: Site, near: Path, far: Proxy, over: Path) -> None:
    site.typed("deploy", near)  # bytecode and page cache, as on a host that is used
    preflight, plain = site.beside(count, lambda: site.typed("preflight", near))
    deployed, plain_too = site.beside(count, lambda: site.typed("deploy", near))
    table.add(
        Row(
            "`hyops runner blueprint preflight`, whole command",
            preflight,
            baseline=plain,
            baseline_name="cold `ssh host true`",
            goal="one connection",
            reached=site.connections == 1,
            incumbent="5.15 s",
        )
    )
    table.add(
        Row(
            "`hyops runner blueprint deploy` of a no-op, whole command",
            deployed,
            baseline=plain_too,
            baseline_name="cold `ssh host true`",
            goal=f"<= {NEAR_S:g} s, one connection",
            reached=deployed.p50 <= NEAR_S and site.connections == 1,
            incumbent="6.42 s, 12 connections",
        )
    )


@dataclass
class Site:
    """What the rows are measured on."""

    stages: Control
    runner: Runner
    connections: float = 0.0

    def typed(self, verb: str, execution: Path) -> None:
        """The command in a process of its own."""
        subprocess.run(self.stages.words(verb, execution), check=True, stdout=subprocess.DEVNULL)

    def beside(self, count: int, action: Callable[[], object], port: int | None = None) -> tuple[Series, Series]:
        """The action and a plain ssh in turn; counts the connections of one action."""
        before = self.runner.connections()
        pairs = [(timed(action), timed(self.runner.plain_ssh)) for _ in range(count)]
        self.connections = (self.runner.connections() - before) / count - 1
        return series([a for a, _ in pairs]), series([b for _, b in pairs])


class Control(Stages):
    """The stages of `bench.stages`, with an executor that dials, and the environment of an operator."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "envs" / service.ENV
        cloud = service.policy()["members"][1].get("target_cloud", "none")
        runners = {
            "api_version": "hybridops/v1",
            "kind": "RunnerMap",
            "runners": {RUNNER: {"site": "cloud"}, "onprem-runner": {"site": "onprem"}},
            "onprem_sites": ["onprem"],
            "mapping": {f"{cloud}/failover": RUNNER},
        }
        path = self.root / "config" / "runner" / "runners.yml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(runners))

    def dials(self, runner: Runner, port: int) -> Path:
        """A configuration of the executor that reaches the runner at that port."""
        kind, blob, *_ = (runner.folder / "host.pub").read_text().split()
        known = runner.folder / "pins"
        known.write_text(f"{RUNNER} {kind} {blob}\n")
        login = {
            "address": "127.0.0.1",
            "user": getpass.getuser(),
            "key_file": str(runner.folder / "dispatcher"),
            "known_hosts": str(known),
            "port": port,
        }
        path = self.folder / f"execution-{port}.json"
        body = {**self._common("execution"), **self._execution(), "mode": "dispatch", "runners": {RUNNER: login}}
        path.write_text(json.dumps(body))
        return path

    def words(self, verb: str, execution: Path) -> list[str]:
        """The command line."""
        files = [word for stage in STAGES for word in (f"--{stage}-config", str(self.config(stage)))]
        files[-1] = str(execution)
        yes = ["--yes"] if verb == "deploy" else []
        asked = ["core/noop@v1", "--root", str(self.root), "--service", SERVICE, "--occasion", "unplanned"]
        return [HYOPS, "runner", "blueprint", verb, *asked, *files, *yes]
