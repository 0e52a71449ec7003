"""Executors on one loop in etcd, of which one is killed or frozen between two steps: one run, one outcome."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from etcd_kit import Records
from executor_there import POINTS, stores_of
from fault_size import FULL
from hyops.adapters import starts_etcd
from hyops.model import canonical
from hyops.model.execution import AttemptOutcome
from hyops.testing.runs import plan_of, spec_of, step
from loopback import Etcd, missing
from simulation.world import policy
from waiting import wait_for

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
THERE = Path(__file__).parents[2] / "executor_there.py"
CASES = [(point, how) for point in POINTS for how in ("SIGSTOP", "SIGKILL")]
FEW = [("after-note", "SIGSTOP")]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Three members for all loops of this module."""
    with Etcd(tmp_path_factory.mktemp("etcd"), count=3) as cluster:
        yield cluster


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """A runner that is reached over pipes."""
    from tests.integration.runner.conftest import Runner

    made = Runner(tmp_path)
    made.folders.make()
    try:
        yield made
    finally:
        made.end()


class Executor:
    """A process, what it said on stdout, and its log."""

    def __init__(self, folder: Path, name: str, words: list[str]) -> None:
        self.out, self.log = folder / f"{name}.out", folder / f"{name}.log"
        with self.out.open("wb") as out, self.log.open("wb") as log:
            command = [sys.executable, str(THERE), *words]
            env = {**os.environ, "PYTHONPATH": str(THERE.parent)}
            self.process = subprocess.Popen(command, stdout=out, stderr=log, env=env)

    def said(self, event: str) -> list[float]:
        """When."""
        lines = [json.loads(line) for line in self.out.read_text().splitlines() if line.endswith("}")]
        return [line["at"] for line in lines if line["event"] == event]

    def wait(self, event: str) -> float:
        """Until it says so."""
        wait_for(lambda: bool(self.said(event)) or self.process.poll() is not None, f"{event} in {self.out}")
        assert self.said(event), self.log.read_text()
        return self.said(event)[0]


class Loop:
    """One loop on the cluster, with an approved execution to come."""

    def __init__(self, folder: Path, etcd: Etcd, runner: Runner) -> None:
        self.folder, self.etcd, self.runner = folder, etcd, runner
        self.env = f"loop-{os.getpid()}-{abs(hash(folder))}"
        (folder / "policy.json").write_text(json.dumps(policy().body()))
        self.evidence = folder / "evidence"

    @contextmanager
    def executor(self, name: str, point: str = "-", how: str = "-") -> Iterator[Executor]:
        """One more, which serves."""
        words = [",".join(self.etcd.endpoints), self.env, str(self.runner.config), str(self.folder / "policy.json")]
        made = Executor(self.folder, name, [*words, str(self.evidence), point, how])
        try:
            made.wait("serves")
            yield made
        finally:
            made.process.kill()
            made.process.wait()

    def approve(self, records: Records) -> None:
        """The records of an approved switch; the execution last."""
        spec, stores = spec_of(plan_of([step("a"), step("b", "a")])), stores_of(records)
        stores.decisions.create(spec.decision.decision_id, spec.decision.encoded())
        stores.requests.create(spec.request.dispatch_id, spec.request.encoded())
        stores.plans.create(spec.plan.digest().removeprefix("sha256:"), canonical.encode(spec.plan.body()) + b"\n")
        stores.approvals.create(spec.approvals[0].approval_id, spec.approvals[0].encoded())
        stores.executions.create(spec.execution.execution_id, spec.execution.encoded())

    def outcomes(self, records: Records) -> list[Any]:
        """How it ended, as often as it did."""
        store = records.store("execution", "outcomes")
        return [AttemptOutcome.read(store.read(name), source=name).outcome for name in store.ids()]

    def made(self) -> list[str]:
        """The evidence."""
        return self.evidence.read_text().splitlines() if self.evidence.exists() else []


@pytest.mark.req("LOOP-1", "LOOP-3", "EXE-1", "EXE-3", "INV-3", "INV-7")
@pytest.mark.fault(12, 13, 14)
@pytest.mark.parametrize(("point", "how"), CASES if FULL else FEW)
def test_whoever_takes_over_does_it_once(
    tmp_path: Path, etcd: Etcd, runner: Runner, point: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed or frozen at any point: the other one ends it, each effect is made once, and who thaws changes nothing."""
    loop = Loop(tmp_path, etcd, runner)
    with Records(etcd.endpoints, loop.env) as records, loop.executor("first", point, how) as first:
        loop.approve(records)
        first.wait("stops")
        _, status = os.waitpid(first.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status) if how == "SIGSTOP" else os.WTERMSIG(status) == signal.SIGKILL
        with loop.executor("second") as second:
            wait_for(lambda: len(loop.made()) == 1 and bool(loop.outcomes(records)), "the outcome and its evidence")
            if how == "SIGSTOP":
                first.process.send_signal(signal.SIGCONT)
                wait_for(lambda: bool(first.said("leaves")), "the end of what was frozen")
            takeover_s = second.said("dials")[0] - first.said("stops")[0]
            with capsys.disabled():
                print(f"\n  {point} {how}: dials {takeover_s:.2f} s after, lease {starts_etcd.TTL_S} s")
        assert [str(outcome) for outcome in loop.outcomes(records)] == ["succeeded"]
        assert len(records.store("execution", "evidence").ids()) == 1
    assert runner.effects == ["a", "b"]
    assert len(loop.made()) == 1


@pytest.mark.req("LOOP-3", "EXE-1", "EXE-3", "INV-7")
@pytest.mark.fault(12, 13, 14)
def test_one_frozen_and_one_killed_in_mid_switch_and_the_third_ends_it(
    tmp_path: Path, etcd: Etcd, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run, one outcome, one evidence; each takeover is printed, and who thaws changes nothing."""
    loop = Loop(tmp_path, etcd, runner)
    with Records(etcd.endpoints, loop.env) as records, loop.executor("first", "after-note", "SIGSTOP") as first:
        loop.approve(records)
        first.wait("stops")
        with loop.executor("second", "before-close", "SIGKILL") as second:
            second.wait("stops")
            second.process.wait()
            with loop.executor("third") as third:
                wait_for(lambda: len(loop.made()) == 1 and bool(loop.outcomes(records)), "the outcome and its evidence")
                first.process.send_signal(signal.SIGCONT)
                wait_for(lambda: bool(first.said("leaves")), "the end of what was frozen")
                took = [
                    after.said("dials")[0] - before.said("stops")[0]
                    for before, after in ((first, second), (second, third))
                ]
                with capsys.disabled():
                    print(f"\n  frozen: taken over in {took[0]:.2f} s; killed: in {took[1]:.2f} s")
        assert [str(outcome) for outcome in loop.outcomes(records)] == ["succeeded"]
        assert len(records.store("execution", "evidence").ids()) == 1
    assert runner.effects == ["a", "b"]
    assert len(loop.made()) == 1
