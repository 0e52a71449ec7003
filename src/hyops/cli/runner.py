"""`hyops runner`: what the standing runners say, and what ran there (RUN-5)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.executor_config import config_option
from hyops.cli.run import cancel, chosen, find, follow, json_option, runner_option, show_status
from hyops.cli.runner_asked import each, note_apart, tell_error
from hyops.cli.runner_blueprint import blueprint
from hyops.cli.runner_bootstrap import bootstrap, signing_key
from hyops.cli.runner_look import doctor, list_runners

if TYPE_CHECKING:
    from hyops.ports.transport import GcReport


@click.group()
def runner() -> None:
    """Look at standing runners and what ran there."""


for _command in (bootstrap, cancel, doctor, list_runners, signing_key):
    runner.add_command(_command)
runner.add_command(follow, "attach")


@runner.command()
@config_option
@json_option
def status(config: Path, as_json: bool) -> int:
    """Every runner: reachable, its site, version, room and open runs. Ends 22 when one does not answer.

    A silent one is given up within seconds, and its line says what was silent.
    """
    from hyops import compose_transport as compose
    from hyops.services.looking import looking

    transport, runners = compose.runner_transport(config)

    async def ask(name: str) -> dict[str, Any]:
        async with looking(transport, name) as session:
            return asdict(await session.hello())

    def tell(told: dict[str, Any]) -> None:
        if not told["ok"]:
            tell_error(told, as_json)
        elif as_json:
            click.echo(json.dumps(told))
        else:
            free = int(told["disk_free_bytes"]) // 2**20
            click.echo(
                f"{told['runner_ref']:20} ready  site {told['site']}  hyops {told['hyops_version']}  {free} MiB free  "
                f"open: {', '.join(told['open_runs']) or 'none'}"
            )

    return asyncio.run(each(runners, ask, tell))


@runner.command()
@config_option
@runner_option
@json_option
def jobs(config: Path, runner_ref: str | None, as_json: bool) -> int:
    """Every run that the runners still have. Ends 22 when one does not answer; the others are shown all the same."""
    from hyops import compose_transport as compose
    from hyops.services.looking import looking

    transport, runners = compose.runner_transport(config)

    async def ask(name: str) -> dict[str, Any]:
        async with looking(transport, name) as session:
            note_apart(await session.differs())
            return {"jobs": await session.jobs()}

    def tell(told: dict[str, Any]) -> None:
        if not told["ok"]:
            tell_error(told, as_json)
        for job in told.get("jobs", []):
            show_status(job, as_json)

    return asyncio.run(each(chosen(runners, runner_ref), ask, tell))


@runner.command()
@click.argument("run_id")
@config_option
@runner_option
def logs(run_id: str, config: Path, runner_ref: str | None) -> None:
    """The log of a run, as far as it got."""
    from hyops import compose_transport as compose
    from hyops.model import wire, words
    from hyops.services.looking import looking

    transport, runners = compose.runner_transport(config)

    async def read() -> None:
        name, _ = await find(transport, chosen(runners, runner_ref), run_id)
        async with looking(transport, name, acts=True) as session:
            async for event in session.attach(run_id, follow=False):
                if event.stream == "log":
                    click.echo(words.shown(event.body.get("line"), wire.HEADER_MAX))

    asyncio.run(read())


@runner.command()
@click.option("--dry-run", is_flag=True, help="only say which runs would go")
@config_option
@runner_option
@json_option
def gc(dry_run: bool, config: Path, runner_ref: str | None, as_json: bool) -> int:
    """Remove finished runs whose result was collected long enough ago; every run that stays is named with the reason.
    Bundle files that no run needs any more go too, by age and size.

    What ran is remembered: a removed execution is not taken again. Ends 22 when a runner does not answer.
    """
    from hyops import compose_transport as compose
    from hyops.services.looking import looking

    transport, runners = compose.runner_transport(config)

    async def ask(name: str) -> dict[str, Any]:
        async with looking(transport, name, acts=True) as session:
            return {"dry_run": dry_run, **_told(await session.gc(dry_run=dry_run))}

    def tell(told: dict[str, Any]) -> None:
        if not told["ok"]:
            return tell_error(told, as_json)
        if as_json:
            return click.echo(json.dumps(told))
        for one in told["runs"]:
            word = ("would go" if dry_run else "removed") if one["goes"] else "stays"
            click.echo(f"{told['runner_ref']:20} {word:8}  {one['run_id']}  {one['why']}")
        gone = sum(one["goes"] for one in told["runs"])
        click.echo(
            f"{told['runner_ref']:20} {gone} {'would go' if dry_run else 'removed'}, {len(told['runs']) - gone} stay"
        )
        held = told["cache"]
        click.echo(
            f"{told['runner_ref']:20} cache of bundle files: {held['gone_files']} of {held['files']} files "
            f"{'would go' if dry_run else 'removed'}, {held['gone_bytes']} of {held['size_bytes']} bytes"
        )
        return None

    return asyncio.run(each(chosen(runners, runner_ref), ask, tell))


def _told(report: GcReport) -> dict[str, Any]:
    told = asdict(report)
    return {"runs": told.pop("runs"), "cache": told}


@runner.command()
@click.argument("run_id")
@click.option("--output", "-o", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--release", is_flag=True, help="this copy counts: the runner may remove the run once it is old enough")
@config_option
@runner_option
def collect(run_id: str, output: Path, release: bool, config: Path, runner_ref: str | None) -> None:
    """Bring a finished run home: result.json, journal.jsonl and runner.log, verified before they are written.

    It is a copy: the runner keeps the run until the executor has collected it, or --release says that nobody will.
    """
    from hyops import compose_transport as compose
    from hyops.services.looking import looking

    transport, runners = compose.runner_transport(config)

    async def bring() -> None:
        name, _ = await find(transport, chosen(runners, runner_ref), run_id)
        async with looking(transport, name, acts=True) as session:
            home = await session.collect(run_id, confirm=False)
            output.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = {"result.json": home.result.encoded(), "journal.jsonl": home.journal, "runner.log": home.log}
            for file, data in files.items():
                (output / file).write_bytes(data)
            if release:
                await session.collect(run_id)
        click.echo(f"{run_id}: {home.result.outcome}; signature and journal verified; in {output}")

    asyncio.run(bring())


runner.add_command(blueprint)
