"""`hyops control`: where the records of a loop are, and who may write them (LOOP-3)."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hyops.cli.control_status import CONFIG, JSON, restore, status

PLACES = click.Choice(["files", "etcd"])


@click.group()
def control() -> None:
    """A loop at a glance, and where its records are: users of etcd, moving them, going on after a restore."""


for _command in (restore, status):
    control.add_command(_command)


@control.command()
@CONFIG
@click.option("--from", "source", type=PLACES, required=True)
@click.option("--to", "target", type=PLACES, required=True)
@click.option(
    "--aside-max",
    type=click.IntRange(min=0),
    help="How many records may be moved aside that only the closed copy at the target has; by itself 16, and none "
    "where the source is empty.",
)
@JSON
def migrate(config: Path, source: str, target: str, aside_max: int | None, as_json: bool) -> None:
    """Move every record and slot, byte for byte; all stages are stopped. Killed, the same command goes on.

    Moving back, what was removed at the source meanwhile is moved aside in the target's old copy, and named.
    """
    from hyops import compose_control as compose
    from hyops.errors import UsageError

    if source == target:
        raise UsageError(f"--from and --to are both {source}")
    moved = compose.migrate(config, source, target, lambda line: None if as_json else click.echo(line), aside_max)
    records, slots, written = (sum(found[n] for found in moved.kinds.values()) for n in range(3))
    left = {f"{stage}/{kind}": names for (stage, kind), names in moved.left.items()}
    if as_json:
        body = {"already": moved.already, "records": records, "slots": slots, "written": written, "left": left}
        aside = {f"{stage}/{kind}": places for (stage, kind), places in moved.aside.items()}
        click.echo(json.dumps({"from": source, "to": target, **body, "aside": aside}))
        return
    for (stage, kind), places in moved.aside.items():
        for name, place in places.items():
            click.echo(f"SET ASIDE in {target}, for {source} has it no more: {stage}/{kind}: {name}: now {place}")
    for kind, names in left.items():
        click.echo(f"LEFT in {source}: {kind}: {len(names)} that are no records: {', '.join(sorted(names)[:5])}")
    if moved.already:
        click.echo(f"nothing to do: the records are in {target} already: {records} records, {slots} slots")
        return
    click.echo(f"moved to {target}: {records} records, {slots} slots; {written} written now, all compared")
    store = "add `store`" if target == "etcd" else "take `store` out"
    click.echo(f"{source} is closed. Next: {store} in the configuration of all four stages, then start them")


@control.command("etcd-roles")
@CONFIG
@click.option(
    "--passwords",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of one file for each user; a password that is there is kept.",
)
@JSON
def etcd_roles(config: Path, passwords: Path, as_json: bool) -> None:
    """Make one user and role of etcd for each stage, and turn authentication on. Safe to repeat."""
    from hyops import compose_control as compose

    done = compose.etcd_roles(config, passwords)
    if as_json:
        files = {user: str(file) for user, file in done.passwords.items()}
        click.echo(json.dumps({"changed": done.changed, "passwords": files}))
        return
    for line in done.changed or ["nothing to do"]:
        click.echo(line)
    for user, file in done.passwords.items():
        click.echo(f"{user}  {file}")
