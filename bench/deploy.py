"""`hyops runner blueprint` as a person types it: whole processes, from their start to their exit.

A control host with its four stages as services, and a real sshd in front of a runner; the executor's service stands
beside the command, and leaves the command's own decision to it. The plan does nothing and stands approved.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.control import Control, plain_ssh, quiet
from bench.dispatch import Runner, listening
from bench.measure import Row, Table, interleaved
from bench.proxy import Proxy

ONE_WAY_S = 0.020
NEAR_S, FAR_S = 0.6, 1.2


@dataclass(frozen=True)
class Asked:
    """One row: a command, over which way, and what it should reach."""

    verb: str
    what: str
    far: bool
    goal_s: float | None
    incumbent: str


ROWS = (
    Asked("preflight", "preflight", far=False, goal_s=None, incumbent="5.15 s"),
    Asked("preflight", "preflight, 40 ms round trip", far=True, goal_s=None, incumbent=""),
    Asked("deploy", "deploy of a no-op", far=False, goal_s=NEAR_S, incumbent="6.42 s, 12 connections"),
    Asked("deploy", "deploy of a no-op, 40 ms round trip", far=True, goal_s=FAR_S, incumbent="9.4 s"),
)


def run(table: Table, count: int) -> None:
    """Preflight and deploy, near and far, each in turn with a cold ssh over the same way."""
    with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder:
        stages = Control(Path(folder))
        stages.stand()
        with listening(stages) as runner, Proxy(runner.port, ONE_WAY_S).listening() as far:
            stages.config("execution").write_text(stages.dials(runner, runner.port).read_text())
            with stages.running():
                for asked in ROWS:
                    table.add(measured(asked, count, stages, runner, far.port if asked.far else runner.port))


def measured(asked: Asked, count: int, stages: Control, runner: Runner, port: int) -> Row:
    """One row. A first run of each warms bytecode and page cache, as on hosts that are used; it does not count."""
    command = quiet(stages.words(asked.verb, stages.dials(runner, port)))
    plain = quiet(plain_ssh(runner, port, "true"))
    interleaved(1, command, plain)
    before = runner.connections()
    whole, cold = interleaved(count, command, plain)
    connections = (runner.connections() - before) / count - 1
    goal = "" if asked.goal_s is None else f"<= {asked.goal_s:g} s, "
    return Row(
        f"`hyops runner blueprint` {asked.what}, whole command",
        whole,
        baseline=cold,
        baseline_name="cold `ssh host true` the same way",
        goal=f"{goal}one connection",
        reached=connections == 1 and (asked.goal_s is None or whole.p50 <= asked.goal_s),
        incumbent=asked.incumbent,
        note=f"{connections:g} connection a command, counted in sshd's log; launcher `fork`",
    )
