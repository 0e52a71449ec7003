"""`hyops run`: show, follow, resume and cancel runs, wherever they are under way (RUN-5, UX-2)."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hyops.cli.executor_config import config_option
from hyops.cli.run_reconcile import reconcile
from hyops.cli.runner_asked import note_apart
from hyops.errors import HyopsError, PrerequisiteError, ProtocolError, RunnerUnreachableError, UsageError

if TYPE_CHECKING:
    from hyops.cli.run_view import RunView
    from hyops.ports.transport import OperatorSession, OperatorTransport, RunEvent, RunStatus

T = TypeVar("T")
RETRY_MAX_S = 0.5  # one person watches one run: a healed link is seen within a second, a handshake included

runner_option = click.option("--runner-ref", help="ask only this runner")
json_option = click.option("--json", "as_json", is_flag=True, help="JSON for programs")


@click.group()
def run() -> None:
    """Show, follow, resume, cancel and reconcile runs."""


run.add_command(reconcile)


@run.command()
@click.argument("run_id", required=False)
@config_option
@runner_option
@json_option
def show(run_id: str | None, config: Path, runner_ref: str | None, as_json: bool) -> None:
    """What a run did, step by step; without RUN_ID the latest one."""
    view, events, facts = asyncio.run(_on_run(config, runner_ref, run_id, _read))
    if "fault" in facts:
        click.echo(f"not going on: {facts['fault']}; next: {facts.get('hint')}", err=True)
    if as_json:
        click.echo(json.dumps([asdict(event) for event in events]))
    else:
        from rich.console import Console

        Console().print(view.draw(view.t))


@run.command()
@click.argument("run_id", required=False)
@config_option
@runner_option
@json_option
def follow(run_id: str | None, config: Path, runner_ref: str | None, as_json: bool) -> int:
    """Follow a run live to its end, over lost links; without RUN_ID the latest one. Ends with the run's exit code."""
    return asyncio.run(_follow(config, runner_ref, run_id, as_json))


@run.command()
@click.argument("run_id")
@click.option("--reason", default="", help="stands in the run's record when a run goes on that had ended")
@config_option
@runner_option
@json_option
def resume(run_id: str, reason: str, config: Path, runner_ref: str | None, as_json: bool) -> None:
    """Let a run go on: an interrupted one, or one that failed after its promotion.

    What was under way is asked for first; nothing that is done is done again. A run that ended otherwise is refused.
    """

    async def go(session: OperatorSession, status: RunStatus) -> RunStatus:
        return await session.resume(run_id, _epoch(status), by=_user(), reason=reason)

    show_status(asyncio.run(_on_run(config, runner_ref, run_id, go)), as_json)


@run.command()
@click.argument("run_id")
@click.option("--reason", required=True, help="stands in the run's record")
@click.option("--kill", is_flag=True, help="kill the job and its processes, then ask the probes and close the run")
@config_option
@runner_option
@json_option
def cancel(run_id: str, reason: str, kill: bool, config: Path, runner_ref: str | None, as_json: bool) -> int:
    """Stop a run after the effect under way. Exit 12 when it has ended, or ends otherwise before it is stopped."""

    async def go(session: OperatorSession, status: RunStatus) -> RunStatus:
        return await session.cancel(run_id, _epoch(status), reason, force=kill)

    status = asyncio.run(_on_run(config, runner_ref, run_id, go))
    show_status(status, as_json)
    return PrerequisiteError.exit_code if status.facts.get("cancel") == "too-late" else 0


def show_status(status: RunStatus, as_json: bool) -> None:
    """One run's status, for people or programs."""
    if as_json:
        click.echo(json.dumps(asdict(status)))
    else:
        facts = "  ".join(f"{key} {value}" for key, value in status.facts.items() if key != "plan_digest")
        click.echo(f"{status.run_id}  {status.state}  {status.outcome or '-'}  {facts}")


def _epoch(status: RunStatus) -> int:
    """An operator acts on what is there now: the highest epoch that the runner has seen."""
    seen = status.facts.get("epoch_seen")
    return max(status.epoch, seen if type(seen) is int else 0)


def _user() -> str:
    """Who asks, as this host knows them; the runner's record says so, and believes it no further."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


async def _on_run(
    config: Path, runner_ref: str | None, run_id: str | None, act: Callable[[OperatorSession, RunStatus], Awaitable[T]]
) -> T:
    """Find the run on the runners and act there."""
    from hyops.services.looking import looking

    transport, runners = _transport(config)
    runner, status = await find(transport, chosen(runners, runner_ref), run_id)
    async with looking(transport, runner, acts=True) as session:
        return await act(session, status)


def _transport(config: Path) -> tuple[OperatorTransport, list[str]]:
    from hyops import compose_transport as compose

    return compose.runner_transport(config)


def chosen(runners: list[str], runner_ref: str | None) -> list[str]:
    """The runners to ask; a name that is none of them is a typo, not a runner that is away."""
    if runner_ref is None:
        return runners
    if runner_ref not in runners:
        raise UsageError(f"--runner-ref {runner_ref!r}: the runners are {', '.join(sorted(runners)) or 'none'}")
    return [runner_ref]


async def find(transport: OperatorTransport, runners: list[str], run_id: str | None) -> tuple[str, RunStatus]:
    """The runner that has the run, and its status; without an id the open one, or else the latest.

    Without an id every runner must answer: the latest run may lie on a silent one. With an id a silent one is named
    only if nothing was found.
    """
    from hyops.services.looking import looking

    silent: list[str] = []
    mends: list[str] = []
    apart: dict[str, ProtocolError | None] = {}

    async def look(runner: str) -> list[tuple[str, RunStatus]]:
        try:
            async with looking(transport, runner) as session:
                apart[runner] = await session.differs()
                return [(runner, job) for job in await session.jobs() if run_id in (None, job.run_id)]
        except HyopsError as exc:
            silent.append(f"{runner}: {exc.message}")
            mends.append(exc.hint)
            return []

    found: list[tuple[str, RunStatus]] = []
    looks = [asyncio.ensure_future(look(runner)) for runner in runners]
    try:
        for there in asyncio.as_completed(looks):
            found += await there
            if run_id is not None and found:  # it lies on one runner: no silent one is waited for
                break
    finally:
        for one in looks:
            one.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
    open_here = any(_open(job) for _, job in found)
    if silent and not open_here and (run_id is None or not found):
        raise RunnerUnreachableError(
            f"{run_id or 'the latest run'} was not found; no answer from {'; '.join(silent)}",
            hint="; ".join(["name the run, or one runner with --runner-ref; or wait until the runner is back", *mends]),
        )
    if not found:
        raise PrerequisiteError(f"no runner has {run_id or 'a run'}", hint="`hyops runner jobs` lists what there is")
    runner, status = max(found, key=lambda job: (_open(job[1]), _made_at(job[1].run_id)))
    note_apart(apart[runner])
    return runner, status


def _open(status: RunStatus) -> bool:
    """Not over; what only stands in a run's place is none."""
    return status.state not in ("finished", "absent")


def _made_at(run_id: str) -> str:
    return next((word for word in run_id.split("-") if word[:2] == "20" and word.endswith("Z")), run_id)


async def _read(session: OperatorSession, status: RunStatus) -> tuple[RunView, list[RunEvent], dict[str, Any]]:
    """The run as far as it got, with what the runner knows of it; a running one is not waited for."""
    from hyops.cli.run_view import RunView

    view, events = RunView(status.run_id), []
    async for event in session.attach(status.run_id, follow=False):
        view.take(event)
        events.append(event)
    return view, events, status.facts


async def _follow(config: Path, runner_ref: str | None, run_id: str | None, as_json: bool) -> int:
    from hyops.cli.run_view import RunView

    transport, runners = _transport(config)
    runner, status = await find(transport, chosen(runners, runner_ref), run_id)
    view = RunView(status.run_id)
    live = not as_json and sys.stdout.isatty()

    def plain(event: RunEvent) -> None:
        told = view.take(event)
        if as_json:
            click.echo(json.dumps(asdict(event)))
        elif told is not None and not live:
            click.echo(told)

    if live:
        from rich.live import Live

        drawn = _Drawn(view)
        with Live(get_renderable=drawn.now, refresh_per_second=10, transient=False):
            state = await _to_the_end(transport, runner, view, drawn.take)
    else:
        state = await _to_the_end(transport, runner, view, plain)
    if view.exit_code is None:
        raise RunnerUnreachableError(
            f"{view.run_id} is {state}: its process ended without closing the run",
            hint=f"`hyops run resume {view.run_id}` lets it go on",
        )
    return view.exit_code


class _Drawn:
    """Keeps the picture's clock moving between two events."""

    def __init__(self, view: RunView) -> None:
        self._view, self._seen_at = view, time.monotonic()

    def take(self, event: RunEvent) -> None:
        """Fold an event in."""
        self._view.take(event)
        self._seen_at = time.monotonic()

    def now(self) -> Any:
        """The picture now."""
        return self._view.draw(self._view.t + time.monotonic() - self._seen_at)


async def _to_the_end(
    transport: OperatorTransport, runner: str, view: RunView, take: Callable[[RunEvent], None]
) -> str:
    """Follow over lost links, without a gap; returns the state in which the runner says the run ended."""
    from hyops.services.looking import looking

    offset, pause_s = 0, 0.25
    while True:
        try:
            async with looking(transport, runner, acts=True) as session:
                view.link, pause_s = "", 0.25
                async for event in session.attach(view.run_id, offset):
                    offset = event.offset
                    take(event)
                    if event.stream == "end":
                        return str(event.body.get("state"))
        except RunnerUnreachableError as exc:
            view.link = f"the link is lost ({exc.message}); the run goes on, trying again"
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)
