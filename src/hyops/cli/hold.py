"""`hyops hold`: keep the loop still for a while, with your name to it, and acknowledge what it did (DEC-6)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.approval_options import consent
from hyops.cli.config_file import TO_READ
from hyops.errors import UsageError

if TYPE_CHECKING:
    from hyops.model.hold import HoldStatement
    from hyops.services.hold_desk import HoldDesk

DEFAULT_CONFIG = "/opt/hybridops/decision-service/config/config.json"
CONFIG = click.option(
    "--config",
    type=TO_READ,
    default=DEFAULT_CONFIG,
    envvar="HYOPS_DECISION_CONFIG",
    help="The decision service's file.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
FILE = click.Path(path_type=Path, dir_okay=False)
KEY = click.option("--key", type=FILE, required=True, envvar="HYOPS_APPROVAL_KEY", help="Your SSH key.")
SIGNER = click.option("--signer", help="Your principal [default: whom the allowed signers file gives the key].")
REASON = click.option("--reason", required=True, help="Why; it stands in decisions and in evidence.")
YES = click.option("--yes", is_flag=True, help="Do not ask. Without a terminal nothing is signed unless this is given.")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
def hold() -> None:
    """Hold a service during maintenance; acknowledge a switch."""


@hold.command()
@click.argument("service")
@click.option("--owner", help="Who answers for it, a person or a team [default: you].")
@REASON
@click.option("--until", help="Its end: 2026-01-31T23:59:59Z, or with another offset.")
@click.option("--for", "lasting", help="Its length instead: 90m, 4h, 2d.")
@CONFIG
@KEY
@SIGNER
@YES
@JSON
def add(
    service: str,
    owner: str | None,
    reason: str,
    until: str | None,
    lasting: str | None,
    config: Path,
    key: Path,
    signer: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Keep the loop from acting on SERVICE until a time. What it sees is still told; people can still ask."""
    from hyops import compose_hold as compose

    end = _end(until, lasting)
    desk = compose.hold_desk(config, service)
    who = signer or compose.principal_of(config, key)
    _put(desk, desk.hold(signer=who, owner=owner or who, reason=reason, until=end), key, yes, as_json)


@hold.command("list")
@click.argument("service")
@CONFIG
@JSON
def list_holds(service: str, config: Path, as_json: bool) -> None:
    """What holds SERVICE, and which records change nothing, with why."""
    from hyops import compose_hold as compose

    desk = compose.hold_desk(config, service)
    records, now, without = desk.look()
    latch = desk.latch()
    if as_json:
        said = {
            "holds": [record.body() for record in records],
            "in_force": now.body() if now else None,
            "latch": latch.body() if latch else None,
            "without_effect": without,
        }
        click.echo(json.dumps(said))
        return
    for record in records:
        said_by = record.statement
        click.echo(f"{record.hold_id}  until {said_by.until:%F %T} UTC  {said_by.owner}: {said_by.reason}")
    if now is not None and now.window is not None:
        click.echo(f"window {now.window}  until {now.until:%F %T} UTC  {now.owner}: {now.reason}")
    if latch is not None:
        click.echo(f"LATCHED at generation {latch.generation}: acknowledge it to let the loop trigger again")
    for name, why in sorted(without.items()):
        click.echo(f"{name}  without effect: {why}")
    if now is None and latch is None:
        click.echo(f"nothing holds {service}")


@hold.command()
@click.argument("service")
@click.argument("hold_id")
@REASON
@CONFIG
@KEY
@SIGNER
@YES
@JSON
def end(
    service: str, hold_id: str, reason: str, config: Path, key: Path, signer: str | None, yes: bool, as_json: bool
) -> None:
    """End a hold before its time, by a further record."""
    from hyops import compose_hold as compose

    desk = compose.hold_desk(config, service)
    who = signer or compose.principal_of(config, key)
    _put(desk, desk.end(hold_id, signer=who, reason=reason), key, yes, as_json)


@hold.command()
@click.argument("service")
@REASON
@CONFIG
@KEY
@SIGNER
@YES
@JSON
def acknowledge(
    service: str, reason: str, config: Path, key: Path, signer: str | None, yes: bool, as_json: bool
) -> None:
    """Say that you have seen the automatic failover of SERVICE: from then on the loop may trigger again."""
    from hyops import compose_hold as compose

    desk = compose.hold_desk(config, service)
    who = signer or compose.principal_of(config, key)
    _put(desk, desk.acknowledge(signer=who, reason=reason), key, yes, as_json)


def _put(desk: HoldDesk, statement: HoldStatement, key: Path, yes: bool, as_json: bool) -> None:
    from hyops import compose_operator as compose

    click.echo("\n".join(_shown(statement)), err=True)
    consent(f"Sign this {statement.verdict}?", yes)
    made = desk.put(statement, compose.ssh_sign(statement.signed_bytes(), key))
    said = {"hold_id": made.hold_id, "verdict": statement.verdict, "signer": statement.signer}
    click.echo(json.dumps(said) if as_json else f"{statement.verdict} by {statement.signer}: {made.hold_id}")


def _shown(statement: HoldStatement) -> list[str]:
    facts: dict[str, Any] = {
        "what": f"{statement.verdict} of {statement.service} in {statement.env}",
        "owner": statement.owner,
        "why": statement.reason,
        "until": f"{statement.until:%F %T} UTC" if statement.until else None,
        "ends": statement.ends,
        "generation": statement.generation,
    }
    return [f"{word:10} {value}" for word, value in facts.items() if value is not None]


def _end(until: str | None, lasting: str | None) -> datetime:
    """When a hold is over; UsageError when neither or both say so, or a person could read it in two ways."""
    if (until is None) == (lasting is None):
        raise UsageError("give one of --until and --for: a hold has an end")
    now = datetime.now(UTC)
    if lasting is not None:
        number, unit = lasting[:-1], UNITS.get(lasting[-1:])
        if unit is None or not number.isdigit() or not 0 < int(number) <= 10**6:
            raise UsageError(f"--for {lasting!r}: write a number and one of s, m, h, d, as in 90m")
        return now + timedelta(seconds=int(number) * unit)
    try:
        end = datetime.fromisoformat(str(until))
    except ValueError as exc:
        raise UsageError(f"--until {until!r}: write it as 2026-01-31T23:59:59Z") from exc
    if end.tzinfo is None:
        raise UsageError(f"--until {until!r} has no zone: write it as {until}Z, or with another offset")
    return end.astimezone(UTC)
