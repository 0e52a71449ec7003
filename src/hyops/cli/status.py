"""`hyops status`: every protected service in a few lines."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from hyops.cli.config_file import TO_READ
from hyops.cli.said import say

DEFAULT_CONFIG = "/opt/hybridops/decision-executor/config/config.json"


@click.command()
@click.option("--config", type=TO_READ, default=DEFAULT_CONFIG, envvar="HYOPS_EXECUTION_CONFIG")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(config: Path, as_json: bool) -> None:
    """Services, generations and runs at a glance."""
    from hyops import compose_operator as compose

    found = compose.overview(config)
    wanting = takeover_gaps(config)
    if as_json:
        click.echo(json.dumps([{**one.body(), "takeover": wanting.get(one.service)} for one in found]))
        return
    for one in found:
        mode = one.mode
        open_run = f"run open: {mode.open_attempt}" if mode.open_attempt else None
        state = mode.uncertain or open_run or mode.unserved or "settled"
        primary = "unknown" if mode.unserved else mode.primary
        say(f"{one.service} ({one.env})  primary {primary}, generation {mode.generation}  {state}")
        if one.last_decision is not None:
            last = one.last_decision
            say(f"  last decision  {last.decision_type} {last.timestamp_utc:%F %T} UTC: {last.rationale}")
        if one.hold is not None:
            what = f"window {one.hold.window}" if one.hold.window else one.hold.hold_id
            say(f"  HELD           until {one.hold.until:%F %T} UTC by {one.hold.owner}: {one.hold.reason} ({what})")
        for execution in one.held_back:
            say(f"  HELD BACK      {execution.execution_id}: nothing of it is sent before the hold ends")
        if one.latch is not None:
            say(f"  LATCHED        at generation {one.latch.generation}; next: `hyops hold acknowledge {one.service}`")
        for name, why in sorted(one.without_effect.items()):
            say(f"  NO EFFECT      {name}: {why}")
        if one.hindrance is not None:
            by = one.hindrance
            say(f"  {by.word.upper():14} {by.at}: {by.message}; it is tried again; next: {by.hint}")
        if one.open_run is not None and one.open_run.overdue:
            run = one.open_run
            say(f"  OVERDUE        {run.run_id}: {run.since_s:.0f} s of {run.rto_s:g} s; `hyops run show {run.run_id}`")
        for why in wanting.get(one.service) or []:
            say(f"  NO TAKEOVER    {why}; next: `hyops takeover prepare`")
        for request in one.waiting:
            say(f"  WAITING        {request.dispatch_id}: {request.rationale}")
        for execution in one.break_glass:
            say(f"  BREAK-GLASS    {execution.execution_id} by {', '.join(execution.approval.approved_by)}")
        if one.last_outcome is not None:
            ended = one.last_outcome
            say(f"  last run       {ended.outcome} {ended.timestamp_utc:%F %T} UTC {ended.reason or ''}")


def takeover_gaps(config: Path) -> dict[str, list[str]]:
    """What stands in the way of a takeover, by service; empty where the executor keeps no standby orders."""
    from hyops import compose_takeover as compose
    from hyops.services.takeover_keep import concern

    found: dict[str, list[str]] = {}
    now = datetime.now(UTC)
    for holding in compose.held(config) or []:
        why = concern(holding, now)
        found.setdefault(holding.service, []).extend([why] if why else [])
    return found
