"""`hyops approval delegate` and `hyops approval delegations`: who acts for an approver who is away (APR-1)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from hyops.cli.approval_options import CONFIG, JSON, Signing, signing
from hyops.cli.said import say


@click.command()
@click.argument("delegate")
@click.option("--service", "services", multiple=True, required=True, help="Repeat for each.")
@click.option("--type", "kinds", multiple=True, default=("failover",), show_default=True)
@click.option("--from", "starts", metavar="TIME", help="2026-07-01T08:00Z [default: now].")
@click.option("--days", default=7.0, show_default=True)
@signing
def delegate(
    delegate: str, services: tuple[str, ...], kinds: tuple[str, ...], starts: str | None, days: float, by: Signing
) -> None:
    """Let DELEGATE, a known signer, grant requests for you while you are away."""
    from hyops import compose_operator as compose
    from hyops.errors import UsageError
    from hyops.model.routes import kind_of

    try:
        types = [kind_of(word) for word in kinds]
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    if not 0 < days <= 366:
        raise UsageError(f"--days {days:g}: between 0 and 366")
    desk = compose.delegation_desk(by.config)
    statement = desk.give(
        approver=by.principal,
        delegate=delegate,
        services=services,
        kinds=types,
        starts_at=_time(starts),
        lasts_s=days * 86400,
        note=by.note,
    )
    click.echo(
        f"{delegate} may grant {', '.join(types)} of {', '.join(services)} for {statement.approver}\n"
        f"from {statement.starts_at:%Y-%m-%d %H:%M} until {statement.expires_at:%Y-%m-%d %H:%M} UTC",
        err=True,
    )
    made = by.put(desk, statement, "Sign this delegation?")
    said = {"approval_id": made.approval_id, "verdict": "delegate", "approver": statement.approver}
    click.echo(json.dumps(said) if by.as_json else f"delegation by {statement.approver}: {made.approval_id}")


@click.command()
@CONFIG
@JSON
def delegations(config: Path, as_json: bool) -> None:
    """Who may act for whom, and what is approved in advance: for what and until when."""
    from hyops import compose_operator as compose

    found = compose.delegation_desk(config).listed()
    if as_json:
        click.echo(json.dumps([{"state": one.state, **one.approval.body()} for one in found]))
        return
    for one in found:
        given = one.approval.statement
        if given.verdict == "standing":
            say(f"{one.approval.approval_id}  {one.state:10} standing approval of {given.plan_digest}")
            what = f"{', '.join(given.decision_types)} of {given.service} ({', '.join(given.occasions)})"
            say(f"    {what}, by {given.approver} until {given.expires_at:%Y-%m-%d %H:%M} UTC")
            continue
        say(f"{one.approval.approval_id}  {one.state:10} {given.delegate} for {given.approver}")
        what = f"{', '.join(given.decision_types)} of {', '.join(given.services or ())}"
        say(f"    {what}, {given.starts_at:%Y-%m-%d %H:%M} until {given.expires_at:%Y-%m-%d %H:%M} UTC")
    if not found:
        click.echo("nobody acts for anybody, and nothing is approved in advance")


def take_back(approval_id: str, by: Signing) -> None:
    """End a delegation or a standing approval: what rests on it and was not executed counts no more."""
    from hyops import compose_operator as compose

    desk = compose.delegation_desk(by.config)
    statement = desk.take_back(approval_id, approver=by.principal, note=by.note)
    made = by.put(desk, statement, f"Take {approval_id} back?")
    said = {"approval_id": made.approval_id, "verdict": "withdraw", "approver": statement.approver}
    named = statement.delegation or approval_id
    also = "" if named == approval_id else f", and with it {approval_id}, a copy,"
    text = f"{named}{also} taken back by {statement.approver}: {made.approval_id}"
    click.echo(json.dumps(said) if by.as_json else text)


def _time(text: str | None) -> datetime | None:
    from hyops.errors import UsageError

    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise UsageError(f"--from {text!r}: in which zone?", hint="write it as 2026-07-01T08:00Z")
        return at.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise UsageError(f"--from {text!r}: not a time", hint="write it as 2026-07-01T08:00Z") from exc
