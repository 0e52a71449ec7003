"""`hyops takeover prepare`, `status` and `adopt`: what a control host does for takeovers, before and after (INV-9)."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyops.cli.executor_config import config_option
from hyops.cli.said import say

if TYPE_CHECKING:
    from hyops.services.takeover_keep import Holding

JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.command()
@config_option
@JSON
def prepare(config: Path, as_json: bool) -> int:
    """Bring the current standby orders to the runners now; the executor does it by itself too. Ends 12 on a gap."""
    from hyops import compose_takeover as compose

    keeper, _ = compose.on_control(config)
    return _told(asyncio.run(keeper.step()), as_json)


@click.command()
@config_option
@JSON
def status(config: Path, as_json: bool) -> int:
    """Which runner held which order when the executor last looked, and how old it is. Ends 12 on a gap."""
    from hyops import compose_takeover as compose
    from hyops.errors import PrerequisiteError

    found = compose.held(config)
    if found is None:
        raise PrerequisiteError(
            "nobody has looked yet what the runners hold",
            hint="set `takeover` in the executor's configuration and start it, or run `hyops takeover prepare`",
        )
    return _told(found, as_json)


@click.command()
@config_option
@JSON
def adopt(config: Path, as_json: bool) -> int:
    """Ask every runner for takeovers that are not recorded here, verify and record them; nothing is run again.

    `behind` warns of a service whose next runs a runner will refuse, since it has seen a higher epoch of it. Ends 13
    when a takeover does not verify, 22 when a runner does not answer, 20 when a takeover could not be looked at or
    recorded now (`failed`): the executor tries again.
    """
    from hyops import compose_takeover as compose
    from hyops.errors import FailedError, NotApprovedError, RunnerUnreachableError

    _, adopter = compose.on_control(config)
    found = asyncio.run(adopter.step())
    if as_json:
        click.echo(json.dumps([one.body() for one in found]))
    else:
        for one in found:
            say(f"{one.runner_ref:20} {one.run_id or '-'}  {one.state}: {one.detail}")
        if not found:
            click.echo("no runner knows of a takeover")
    states = {one.state for one in found}
    codes = {
        "refused": NotApprovedError.exit_code,
        "unreachable": RunnerUnreachableError.exit_code,
        "failed": FailedError.exit_code,
    }
    return next((code for state, code in codes.items() if state in states), 0)


def _told(found: list[Holding], as_json: bool) -> int:
    from hyops.errors import PrerequisiteError
    from hyops.services.takeover_keep import concern

    now = datetime.now(UTC)
    gaps = [why for one in found if (why := concern(one, now)) is not None]
    if as_json:
        click.echo(json.dumps([{**one.body(), "concern": concern(one, now)} for one in found]))
    else:
        for one in found:
            age = "" if one.sealed_at is None else f", sealed {_age(now, one.sealed_at)} ago, until {one.expires_at}"
            click.echo(f"{one.service:12} {one.runner_ref:20} {one.state}  {one.order_id or '-'}{age}")
        for why in gaps:
            say(f"  {why}", err=True)
        if not found:
            click.echo("no runner is outside the primary's site: nobody could take over")
    return PrerequisiteError.exit_code if gaps or not found else 0


def _age(now: datetime, at: str) -> str:
    age_s = max(0.0, (now - datetime.fromisoformat(at)).total_seconds())
    return f"{age_s / 86400:.1f} days" if age_s >= 86400 else f"{age_s / 60:.0f} minutes"
