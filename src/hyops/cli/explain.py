"""`hyops explain`: why a decision or a request does not go on, and what to do about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyops.cli.config_file import TO_READ, read_file
from hyops.cli.said import say
from hyops.cli.status import DEFAULT_CONFIG

if TYPE_CHECKING:
    from hyops.services.explain import Explained


@click.command()
@click.argument("wanted", metavar="[ID]", required=False)
@click.option("--config", type=TO_READ, default=DEFAULT_CONFIG, envvar="HYOPS_EXECUTION_CONFIG")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(wanted: str | None, config: Path, as_json: bool) -> None:
    """Where a decision stands and what it waits for. ID: of it, its request, execution, attempt or run, or the end of
    one; without it the newest decision of each service."""
    from hyops import compose_explain as compose

    read_file(config)
    found = compose.explained(config, wanted)
    if as_json:
        click.echo(json.dumps([one.body() for one in found]))
        return
    for one in found:
        _show(one)
    if not found:
        click.echo("no decision yet")


def _show(one: Explained) -> None:
    chain, stand = one.chain, one.stand
    made = chain.decision
    about = f" of {made.service}" if made.service else ""
    say(f"{made.decision_id}  {made.decision_type}{about}: {made.rationale}")
    if chain.request is not None:
        say(f"  request    {chain.request.dispatch_id}, until {chain.request.expires_at:%F %T} UTC")
    if chain.execution is not None:
        by = ", ".join(chain.execution.approval.approved_by) or "nobody: it needed none"
        say(f"  approved   {chain.execution.execution_id} by {by}")
    if chain.attempt is not None:
        say(f"  run        {chain.attempt.run_id} on {chain.attempt.runner_ref}")
    say(f"  {stand.state.upper():10} {stand.why}")
    say(f"  next       {stand.next}")
