"""`hyops control status` and `hyops control restore`: a loop at a glance, and letting it go on after a restore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyops.cli.config_file import TO_READ
from hyops.cli.status import DEFAULT_CONFIG

if TYPE_CHECKING:
    from hyops.services.control_status import ControlStatus

CONFIG = click.option("--config", type=TO_READ, required=True, help="A file of kind Control: homes and store.")
LOOK = click.option(
    "--config",
    type=TO_READ,
    default=DEFAULT_CONFIG,
    envvar="HYOPS_CONTROL_CONFIG",
    help="A file of kind Control, or an executor's.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
STILL_WORKS = (
    "runs under way go on on their runners (`hyops runner jobs`); fences, database edges and evidence need no loop; "
    "`hyops takeover` finishes a switch without it; the stages go on by themselves when a majority is back"
)


@click.command()
@LOOK
@JSON
def status(config: Path, as_json: bool) -> None:
    """Who serves, who dials, what waits and why. Ends 12 when the quorum is lost, with what still works."""
    from hyops import compose_control_status as compose
    from hyops.errors import PrerequisiteError

    found = compose.control_status(config)
    if as_json:
        click.echo(json.dumps(found.body()))
    else:
        _show(found)
    if found.lost is not None:
        raise PrerequisiteError(f"quorum lost: no stage decides or creates anything: {found.lost}", hint=STILL_WORKS)


def _show(found: ControlStatus) -> None:
    from hyops.services.serving import told

    click.echo(f"records in {found.place}")
    for member in found.members:
        answers = f"answers in {member.latency_ms:g} ms" if member.answers else "DOES NOT ANSWER"
        click.echo(f"  {member.endpoint}  {answers}: {member.why}")
    if found.lost is not None:
        return
    if found.latency_ms is not None:
        revision = "" if found.revision is None else f", revision {found.revision}"
        click.echo(f"  quorum answers in {found.latency_ms:g} ms{revision}")
    foreign = "  RESTORED from a snapshot: nobody dials; next: `hyops control restore`" if found.foreign else ""
    click.echo(f"epoch {'not known' if found.epoch is None else found.epoch}{foreign}")
    for warning in found.warnings:
        click.echo(f"WARNING: {warning}")
    nobody = [] if found.serving is None else [{"stage": "no stage serves", "host": None}]
    for one in found.serving or nobody:
        where = f" on {one['host']} (pid {one['pid']})" if one["host"] else ""
        version = f", hyops {one['version']} since {one['since']}" if one.get("version") else ""
        click.echo(f"  {one['stage']}{where}{version}")
        if where and (words := told(one)):
            click.echo(f"    {words}")
    for name, who in found.dials.items():
        click.echo(f"  dialling {name}: {who['host']} (pid {who['pid']}) since {who['since']}")
    for queue in found.queues:
        oldest = ""
        if (first := queue.oldest) is not None:
            age = "nobody knows for how long" if first.age_s is None else f"{first.age_s:g} s"
            oldest = f"; oldest {first.record_id}, {age}: {first.why}"
        click.echo(f"  waiting for {queue.stage}: {queue.length}{oldest}")
    for what in found.unknown:
        click.echo(f"  not known: {what}")


@click.command()
@CONFIG
@click.option("--execution-config", type=TO_READ, required=True, help="The executor's, which names the runners.")
@click.option("--lost", multiple=True, metavar="RUNNER", help="A runner that is gone for good and cannot be asked.")
@JSON
def restore(config: Path, execution_config: Path, lost: tuple[str, ...], as_json: bool) -> None:
    """After a restore of etcd: ask every runner for its epoch, raise ours past all, and let the executors dial."""
    from hyops import compose_control as compose

    done = compose.restore(config, execution_config, lost)
    if as_json:
        body = {"seen": done.seen, "lost": done.lost, "marked": done.marked, "epoch": done.epoch}
        click.echo(json.dumps(body))
        return
    for name, epoch in done.seen.items():
        click.echo(f"{name} has seen epoch {epoch}")
    for name in done.lost:
        click.echo(f"LOST {name}: if it comes back and refuses an epoch, give this command again without --lost")
    click.echo(f"{len(done.marked)} attempts may have been started; they are asked for before anything is")
    click.echo(f"epoch {done.epoch}: the executors dial again")
