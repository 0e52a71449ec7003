"""`hyops apply` and `hyops destroy`: one module of the catalogue on its host (LOOP-4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hyops.cli.config_file import TO_READ
from hyops.cli.root import root_options, runtime_root

if TYPE_CHECKING:
    from hyops.services.module_desk import Done, ModuleDesk

F = TypeVar("F", bound=Callable[..., object])


def _options(command: F) -> F:
    command = click.option("--json", "as_json", is_flag=True, help="for programs")(command)
    command = click.option("--dry-run", is_flag=True, help="only say what is wanting there")(command)
    shown = "the module's inputs (default: those below config/modules of the environment, else of the last time)"
    command = click.option("--inputs", type=TO_READ, help=shown)(command)
    command = click.option("--instance", help="of the module, where it keeps more than one state")(command)
    command = click.option("--module", required=True, metavar="MODULE_REF", help="as the catalogue calls it")(command)
    return root_options(command)


@click.command()
@_options
def apply(**asked: Any) -> None:
    """Have a module stand on its host: what is wanting is made, what is as it should be is left alone.

    Its state is `running` while it works, and `ok` when the host itself said that it stands. A second time changes
    nothing.
    """
    _run("apply", asked)


@click.command()
@_options
@click.option("--purge-records", is_flag=True, help="the records go too: decisions, requests, approvals, outcomes")
def destroy(**asked: Any) -> None:
    """Take a module away from its host: service, user, folders, keys. Records stay, unless --purge-records is said."""
    _run("destroy", asked)


def _run(action: str, asked: dict[str, Any]) -> None:
    from hyops import compose_module as compose

    as_json = asked["as_json"]

    def tell(line: str) -> None:
        if not as_json:
            click.echo(line, err=True)

    root, env = runtime_root(asked["root"], asked["env"])
    wanted = compose.Asked(
        root, env, asked["module"], asked["instance"], asked["inputs"], asked.get("purge_records", False)
    )
    desk = compose.module_desk(wanted, action, tell)
    _show(wanted.state_ref, asyncio.run(_done(desk, action, asked["dry_run"])), as_json=as_json)


async def _done(desk: ModuleDesk, action: str, dry_run: bool) -> Done:
    if dry_run:
        return await desk.look(action)
    return await (desk.apply() if action == "apply" else desk.destroy())


def _show(state_ref: str, done: Done, *, as_json: bool) -> None:
    state = None if done.state is None else {"status": done.state.status, "generation": done.state.generation}
    if as_json:
        told = {"state_ref": state_ref, "changed": done.changed, "items": done.items, "outputs": done.outputs}
        click.echo(json.dumps({**told, "state": state}))
        return
    for item in done.items:
        click.echo(f"{item['state']:9}  {item['what']}")
    if not done.changed:
        click.echo(f"{state_ref}: nothing to change")
    if done.state is not None:
        click.echo(f"{state_ref}: {done.state.status}")
    for key, value in sorted(done.outputs.items()):
        click.echo(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
