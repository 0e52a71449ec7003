"""`hyops runner list` and `doctor`: which runners there are, and what would stop a run there (RUN-2, RUN-11)."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.executor_config import config_option
from hyops.cli.run import chosen, json_option, runner_option
from hyops.errors import HyopsError, PrerequisiteError

if TYPE_CHECKING:
    from hyops.ports.transport import OperatorSession, RunnerHello, RunStatus

DISK_LOW_BYTES = 1024**3
FAULT_HINT = "mend the file as it says; until then this runner starts nothing of the service"


@click.command("list")
@config_option
@json_option
def list_runners(config: Path, as_json: bool) -> None:
    """The names of the runners that the executor may dial; nobody is asked."""
    from hyops import compose_transport as compose

    _, runners = compose.runner_transport(config)
    click.echo(json.dumps(runners) if as_json else "\n".join(runners) or "none")


@click.command()
@config_option
@runner_option
@json_option
def doctor(config: Path, runner_ref: str | None, as_json: bool) -> int:
    """What would stop a run on each runner, or soon will. Ends 12 when there is something, 22 when one is away."""
    from hyops import compose_transport as compose
    from hyops.services.looking import looking

    transport, runners = compose.runner_transport(config)

    async def ask(name: str) -> dict[str, Any]:
        began = time.monotonic()
        try:
            async with looking(transport, name) as session:
                hello, jobs = await _asked(session)
        except HyopsError as exc:
            return {"runner_ref": name, **exc.as_json(), "faults": [exc.message], "hints": [exc.hint]}
        faults, hints = faults_of(hello, jobs)
        return {
            "runner_ref": name,
            "exit_code": PrerequisiteError.exit_code if faults else 0,
            "faults": faults,
            "hints": hints,
            "site": hello.site,
            "hyops_version": hello.hyops_version,
            "clock": None if hello.clock is None else asdict(hello.clock),
            "runs": len(jobs),
            "answered_s": round(time.monotonic() - began, 3),
        }

    async def everyone() -> list[dict[str, Any]]:
        return await asyncio.gather(*map(ask, chosen(runners, runner_ref)))

    found = asyncio.run(everyone())
    for told in found:
        if as_json:
            click.echo(json.dumps(told))
            continue
        click.echo(f"{told['runner_ref']:20} {'well' if not told['faults'] else 'ill'}")
        for fault, hint in zip(told["faults"], told["hints"], strict=True):
            click.echo(f"  {fault}\n    next: {hint}")
    return max((int(told["exit_code"]) for told in found), default=0)


async def _asked(session: OperatorSession) -> tuple[RunnerHello, list[RunStatus]]:
    return await session.hello(), await session.jobs()


def faults_of(hello: RunnerHello, jobs: list[RunStatus]) -> tuple[list[str], list[str]]:
    """What is wrong, and what to do about each."""
    from hyops.services import clocks

    found = []
    if (skewed := clocks.fault(hello.clock, hello.runner_ref)) is not None:
        found.append((skewed.message, skewed.hint))
    if hello.disk_free_bytes < DISK_LOW_BYTES:
        free = hello.disk_free_bytes // 2**20
        found.append((f"{free} MiB are free", "`hyops runner gc` makes room; or give it a larger disk"))
    for job in jobs:
        if job.state in ("interrupted", "staged"):
            again = f"`hyops run resume {job.run_id}`, or `hyops run cancel {job.run_id}`"
            found.append((f"{job.run_id} is {job.state}: it is open and nobody runs it", again))
        if fault := job.facts.get("fault"):
            found.append((f"{job.run_id}: {fault}", str(job.facts.get("hint") or FAULT_HINT)))
    return [fault for fault, _ in found], [hint for _, hint in found]
