"""etcd is lost and restored by the page from a snapshot of the past: what was executed since is not executed again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.runner.conftest import Runner

from etcd_kit import Records
from executor_there import Stopping, Transport, stores_of
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.cli.main import main
from hyops.control.execution import attempt_id_of
from hyops.model import canonical
from hyops.model.run import RunSpec
from hyops.services.execution import ExecutionStage
from hyops.services.following import run
from hyops.testing.evidence import STAGES, VERIFIER
from hyops.testing.runs import plan_of, spec_of, step
from loop_site import LoopSite
from loopback import Etcd, free_ports, listens, missing
from runbook import block
from simulation.world import policy
from waiting import PATIENCE_S, until, wait_for

NEEDED = missing("etcd", "etcdctl", "sshd")
pytestmark = [
    pytest.mark.skipif(NEEDED is not None, reason=str(NEEDED)),
    pytest.mark.req("LOOP-1", "LOOP-3", "EXE-1", "INV-3", "UX-1"),
]
PAGE = "etcd-restored.md"
LIMIT_S = PATIENCE_S


def typed(block_: str, folder: Path, **words: str) -> None:
    """A page's block on a host; systemd is a word, for etcd is started by the test."""
    shim = folder / "bin" / "systemctl"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text('#!/bin/sh\necho "$*" >> "$0.log"\n')
    shim.chmod(0o755)
    known = {**os.environ, **words, "PATH": f"{shim.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-ec", block_], env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def restored(folder: Path, snapshot: Path, count: int = 3) -> Iterator[list[str]]:
    """A cluster whose members were each restored by the page; their endpoints."""
    folder.mkdir()
    ports = free_ports(2 * count)
    clients, peers = ([f"http://127.0.0.1:{port}" for port in half] for half in (ports[:count], ports[count:]))
    cluster = ",".join(f"m{n}={url}" for n, url in enumerate(peers))
    processes = []
    try:
        for n in range(count):
            data = folder / f"m{n}"
            words = {"DATA": str(data), "SNAPSHOT": str(snapshot), "NAME": f"m{n}", "CLUSTER": cluster}
            typed(block(PAGE, "member"), folder, **words, PEER_URL=peers[n], TOKEN="2026-03-14")
            command = ["etcd", "--name", f"m{n}", "--data-dir", str(data), "--initial-cluster", cluster]
            command += ["--listen-client-urls", clients[n], "--advertise-client-urls", clients[n]]
            command += ["--listen-peer-urls", peers[n], "--initial-advertise-peer-urls", peers[n]]
            command += ["--heartbeat-interval", "50", "--election-timeout", "500"]
            with (folder / f"m{n}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        assert (folder / "bin" / "systemctl.log").read_text().split().count("start") == count
        for port in ports[:count]:
            wait_for(lambda port=port: listens(port), f"etcd on {port}")  # type: ignore[misc]
        yield clients
    finally:
        for process in processes:
            process.kill()
            process.wait()


def approve(records: Records, spec: RunSpec) -> None:
    """The records of an approved switch; the execution last."""
    stores = stores_of(records)
    stores.decisions.create(spec.decision.decision_id, spec.decision.encoded())
    stores.requests.create(spec.request.dispatch_id, spec.request.encoded())
    stores.plans.create(spec.plan.digest().removeprefix("sha256:"), canonical.encode(spec.plan.body()) + b"\n")
    stores.approvals.create(spec.approvals[0].approval_id, spec.approvals[0].encoded())
    stores.executions.create(spec.execution.execution_id, spec.execution.encoded())


def serve(records: Records, runner: Runner, check: Callable[[], bool]) -> None:
    """An executor, until `check` holds."""
    stores, known = stores_of(records), policy()
    how: dict[str, Any] = {"signer": STAGES["execution"], "verifier": VERIFIER, "clock": SystemClock()}
    stage = ExecutionStage(
        stores,
        policies={known.service: known},
        initial_generations={known.service: 7},
        transport=Transport(runner.config, Stopping("-", "-")),  # type: ignore[arg-type]
        starts=EtcdStarts(records.session),
        mode="dispatch",
        **how,
    )

    async def body() -> None:
        task = asyncio.create_task(run(stage, [stores.executions, stores.attempts, stores.outcomes], lambda _: 8))
        try:
            await until(lambda: check() or task.done(), "what the executor is to do", LIMIT_S)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())


def outcomes(records: Records) -> dict[str, str]:
    """Attempt -> how it ended."""
    store = records.store("execution", "outcomes")
    found = [json.loads(store.read(name)) for name in store.ids()]
    assert len({one["attempt_id"] for one in found}) == len(found)
    return {one["attempt_id"]: one["outcome"] for one in found}


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """A runner that SSH enters, too: `hyops control restore` asks it."""
    (tmp_path / "runner").mkdir()
    made = Runner(tmp_path / "runner")
    made.folders.make()
    made.listen()
    try:
        yield made
    finally:
        made.end()


def loop_of(root: Path, endpoints: list[str], runner: Runner) -> LoopSite:
    """The configurations of a control host on this etcd."""
    known = root.with_name("known_hosts")
    known.write_text(f"cloud-runner {(runner.folder / 'host.pub').read_text()}")
    login = {"address": "127.0.0.1", "port": runner.port, "user": "root", "known_hosts": str(known)}
    execution = {"runners": {"cloud-runner": {**login, "key_file": str(runner.folder / "user")}}}
    return LoopSite(root, {"etcd": {"endpoints": endpoints, "env": "lab"}}, execution=execution)


@pytest.mark.fault(13)
def test_what_was_executed_since_the_snapshot_is_not_executed_again(
    tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record comes back as open: nobody dials before the epoch is raised, and then its end is collected."""
    snapshot = tmp_path / "snapshot"
    first, second = spec_of(plan_of([step("a")])), spec_of(plan_of([step("b")]), token="2")
    attempt_id = attempt_id_of(first.execution, "dispatch")
    with Etcd(tmp_path / "before") as etcd, Records(etcd.endpoints) as records:
        approve(records, first)
        EtcdStarts(records.session).next_epoch()
        typed(block(PAGE, "backup"), tmp_path, MEMBER=etcd.endpoints[0], SNAPSHOT=str(snapshot))
        serve(records, runner, lambda: bool(outcomes(records)))
        approve(records, second)
        serve(records, runner, lambda: len(outcomes(records)) == 2)
        handed_out = EtcdStarts(records.session).next_epoch()
    assert runner.effects == ["a", "b"]

    with restored(tmp_path / "after", snapshot) as endpoints, Records(endpoints) as records:
        site = loop_of(tmp_path / "site", endpoints, runner)
        monkeypatch.chdir(site.root)
        capsys.readouterr()
        assert outcomes(records) == {}
        assert main(["control", "status", "--config", "control.json"]) == 0
        assert "RESTORED from a snapshot: nobody dials" in capsys.readouterr().out
        attempts = records.store("execution", "attempts")
        serve(records, runner, lambda: bool(attempts.ids()))

        words = block(PAGE, "control").replace("\n", " ")
        installed = "/opt/hybridops/decision-executor/config/config.json"
        assert main(shlex.split(words.replace(installed, str(site.config("execution"))))[1:]) == 0
        said = capsys.readouterr().out
        assert "1 attempts may have been started" in said
        raised = EtcdStarts(records.session).epoch().number
        assert raised > handed_out
        assert f"epoch {raised}: the executors dial again" in said

        serve(records, runner, lambda: bool(outcomes(records)))
        assert outcomes(records) == {attempt_id: "succeeded"}
    assert runner.effects == ["a", "b"]
