"""A control host as an operator uses it: `bench.stages` with an executor that dials, and a runtime root."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from bench.dispatch import Runner
from bench.stages import RUNNER, SERVICE, STAGES, Stages
from hyops_lab.wiring import service

HYOPS = str(Path(sys.executable).with_name("hyops"))


class Control(Stages):
    """The same folders, keys and configurations; the no-op plan is for the runner of the environment's mapping."""

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
        """A configuration of the executor that reaches the runner at that port; the service's own is another file."""
        login = {
            "address": "127.0.0.1",
            "user": getpass.getuser(),
            "key_file": str(runner.folder / "dispatcher"),
            "known_hosts": str(_pinned(runner)),
            "port": port,
        }
        path = self.folder / f"execution-{port}.json"
        body = {**self._common("execution"), **self._execution(), "mode": "dispatch", "runners": {RUNNER: login}}
        path.write_text(json.dumps(body))
        return path

    def words(self, verb: str, execution: Path) -> list[str]:
        """`hyops runner blueprint VERB` with that configuration of the executor."""
        files = {**{stage: self.config(stage) for stage in STAGES}, "execution": execution}
        asked = ["core/noop@v1", "--root", str(self.root), "--service", SERVICE, "--occasion", "unplanned"]
        asked += [word for stage, file in files.items() for word in (f"--{stage}-config", str(file))]
        return [HYOPS, "runner", "blueprint", verb, *asked, *(["--yes"] if verb == "deploy" else [])]


def plain_ssh(runner: Runner, port: int, *command: str) -> list[str]:
    """OpenSSH's client to that port with the key that may run anything, and nothing of the user's own settings."""
    options = ("BatchMode=yes", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "ControlPath=none",
               f"UserKnownHostsFile={_pinned(runner)}", f"HostKeyAlias={RUNNER}")  # fmt: skip
    words = [word for option in options for word in ("-o", option)]
    login = ["-i", str(runner.folder / "plain"), "-p", str(port), "127.0.0.1"]
    return ["ssh", "-F", "none", *words, *login, *command]


def quiet(argv: list[str]) -> Callable[[], object]:
    """A whole process as an action. What fails stops the bench, with what it said."""
    return lambda: subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _pinned(runner: Runner) -> Path:
    """The runner's key under its name, whatever the port."""
    kind, blob, *_ = (runner.folder / "host.pub").read_text().split()
    pins = runner.folder / "pins"
    pins.write_text(f"{RUNNER} {kind} {blob}\n")
    return pins
