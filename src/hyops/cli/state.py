"""`hyops state`: what modules left in an environment, and the conflicts that a person has to decide (ROOT-3, RUN-6)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.root import root_options, runtime_root

if TYPE_CHECKING:
    from hyops.model.module_state import ModuleState
    from hyops.services.state_desk import StateDesk

as_json = click.option("--json", "as_json", is_flag=True, help="for programs")


@click.group()
def state() -> None:
    """Module state: what is there, what it was, and conflicts."""


def _desk(root: Path | None, env: str | None) -> StateDesk:
    from hyops.compose_state import state_desk

    return state_desk(runtime_root(root, env)[0])


@state.command("list")
@as_json
@root_options
def list_(as_json: bool, root: Path | None, env: str | None) -> None:
    """Every state with its status and generation; `!` where a conflict waits."""
    desk = _desk(root, env)
    torn = {conflict.state_ref for conflict, _ in desk.conflicts()}
    for ref, found in desk.every():
        if isinstance(found, str):
            click.echo(json.dumps({"state_ref": ref, "fault": found}) if as_json else f"{ref}  unreadable: {found}")
        elif as_json:
            told = {"status": found.status, "generation": found.generation, "run_id": found.run_id}
            click.echo(json.dumps({"state_ref": ref, **told, "conflict": ref in torn}))
        else:
            click.echo(f"{ref:48} {_line(found)}{'  ! conflict' if ref in torn else ''}")


@state.command()
@click.argument("state_ref", metavar="MODULE_REF[#INSTANCE]")
@root_options
def show(state_ref: str, root: Path | None, env: str | None) -> None:
    """One state, as JSON."""
    click.echo(json.dumps(_desk(root, env).show(state_ref).body(), indent=2, sort_keys=True))


@state.command()
@click.argument("state_ref", metavar="MODULE_REF[#INSTANCE]")
@as_json
@root_options
def history(state_ref: str, as_json: bool, root: Path | None, env: str | None) -> None:
    """Every generation of one state, oldest first."""
    for found in _desk(root, env).history(state_ref):
        click.echo(json.dumps(found.body()) if as_json else _line(found))


@state.command()
@click.option("--all", "everything", is_flag=True, help="those too that were resolved")
@as_json
@root_options
def conflicts(everything: bool, as_json: bool, root: Path | None, env: str | None) -> None:
    """What runs left and the authority did not take, oldest first."""
    for conflict, resolution in _desk(root, env).conflicts(resolved=everything):
        if as_json:
            body = {**conflict.body(), "resolution": resolution.body() if resolution else None}
            click.echo(json.dumps(body))
            continue
        end = f"{resolution.by} took {resolution.take}" if resolution else "open"
        click.echo(f"{conflict.conflict_id}  {conflict.state_ref}  {end}")
        click.echo(f"  run {conflict.run_id}, step {conflict.step_id}, on {conflict.runner_ref}: {conflict.reason}")
        for key in conflict.keys:
            sides = ", ".join(f"{name} {json.dumps(value)}" for name, value in _sides(conflict.body(), key).items())
            click.echo(f"  {key}: {sides}")


@state.command()
@click.argument("conflict_id")
@click.option("--take", type=click.Choice(["ours", "theirs"]), required=True, help="the authority's side, or the run's")
@click.option("--at-generation", type=click.IntRange(min=0), help="the generation you looked at, if it has moved on")
@click.option("--by", help="who decides (default: you)")
@as_json
@root_options
def resolve(
    conflict_id: str,
    take: Any,
    at_generation: int | None,
    by: str | None,
    as_json: bool,
    root: Path | None,
    env: str | None,
) -> None:
    """Decide the keys that clash; what does not clash is merged in any case."""
    import getpass
    import os

    who = by or os.environ.get("SUDO_USER") or getpass.getuser()
    done = _desk(root, env).resolve(conflict_id, take, by=who, at_generation=at_generation)
    said = f"{conflict_id}: {done.take} was taken; the state is at generation {done.generation}"
    click.echo(json.dumps(done.body()) if as_json else said)


def _line(found: ModuleState) -> str:
    return f"{found.status:10} {found.generation:>6}  {found.body()['updated_at']}  {found.run_id}"


def _sides(body: dict[str, Any], key: str) -> dict[str, Any]:
    """What each side says of one key that clashes."""
    if not key.startswith("outputs."):
        theirs = {"status": body["status"], "generation": body.get("base_generation")}.get(key)
        return {"ours": body.get("ours", {}).get(key), "theirs": theirs}
    name = key.removeprefix("outputs.")
    sides = {side: body.get(side, {}).get("outputs", {}) for side in ("base", "ours")}
    return {**{side: value.get(name) for side, value in sides.items()}, "theirs": body["published"].get(name)}
