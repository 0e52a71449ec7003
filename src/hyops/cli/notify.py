"""`hyops notify`: whom the loop tells what happens, tried and looked at (UX-4)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from hyops.cli.config_file import TO_READ
from hyops.cli.said import say

DEFAULT_CONFIG = "/opt/hybridops/notify/config/notify.yml"
CONFIG = click.option(
    "--config", type=TO_READ, default=DEFAULT_CONFIG, envvar="HYOPS_NOTIFY_CONFIG", help="The notifier's file."
)


@click.group()
def notify() -> None:
    """Whom the loop tells what happens."""


@notify.command()
@click.argument("sink")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def test(sink: str, config: Path, as_json: bool) -> None:
    """Tell SINK that this is a test, once; exit code 20 when it was not taken."""
    import difflib

    from hyops import compose_notify as compose
    from hyops.errors import UsageError

    read = compose.read_notify(config)
    if sink not in read.sinks:
        near = difflib.get_close_matches(sink, read.sinks, n=1)
        known = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(read.sinks))}"
        raise UsageError(f"{config}: no sink {sink!r}; {known}")
    asyncio.run(compose.send_test(read, sink))
    click.echo(json.dumps({"sink": sink, "delivered": True}) if as_json else f"{sink}: taken")


@notify.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def told(config: Path, as_json: bool) -> None:
    """What each sink was told, and what was given up."""
    from hyops import compose_notify as compose
    from hyops.model.notify import Told

    found = [
        Told.read(data, source=f"{sink}: mark")
        for sink, marks in compose.told_by(compose.read_notify(config)).items()
        for data in marks
    ]
    found.sort(key=lambda mark: mark.at)
    if as_json:
        click.echo(json.dumps([mark.body() for mark in found]))
        return
    for mark in found:
        why = f": {mark.reason}" if mark.reason else ""
        say(f"{mark.at:%F %T}  {mark.sink:12} {mark.how:10} {mark.event:12} {mark.about}{why}")
    if not found:
        click.echo("nothing was told")
