"""`hyops hold`: keep the loop still for a while, with your name to it, and acknowledge what it did (DEC-6)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.approval_options import JSON, KEY, YES, consent
from hyops.cli.hold_list import CONFIG, list_holds
from hyops.errors import UsageError

if TYPE_CHECKING:
    from hyops.model.hold import HoldStatement
    from hyops.services.hold_desk import HoldDesk

SIGNER = click.option("--signer", help="Your principal [default: whom the allowed signers file gives the key].")
REASON = click.option("--reason", required=True, help="Why; it stands in decisions and in evidence.")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
def hold() -> None:
    """Hold a service during maintenance; acknowledge a switch."""


hold.add_command(list_holds)


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
    from hyops.model.words import shown

    click.echo("\n".join(_shown(statement)), err=True)
    consent(f"Sign this {statement.verdict}?", yes)
    made = desk.put(statement, compose.ssh_sign(statement.signed_bytes(), key))
    said = {"hold_id": made.hold_id, "verdict": statement.verdict, "signer": statement.signer}
    click.echo(json.dumps(said) if as_json else shown(f"{statement.verdict} by {statement.signer}: {made.hold_id}"))


def _shown(statement: HoldStatement) -> list[str]:
    from hyops.model.words import shown

    facts: dict[str, Any] = {
        "what": f"{statement.verdict} of {statement.service} in {statement.env}",
        "owner": statement.owner,
        "why": statement.reason,
        "until": f"{statement.until:%F %T} UTC" if statement.until else None,
        "ends": statement.ends,
        "generation": statement.generation,
    }
    return [shown(f"{word:10} {value}") for word, value in facts.items() if value is not None]


def _end(until: str | None, lasting: str | None) -> datetime:
    """When a hold is over; UsageError when neither or both say so, or a person could read it in two ways."""
    if (until is None) == (lasting is None):
        raise UsageError("give one of --until and --for: a hold has an end")
    now = datetime.now(UTC)
    if lasting is not None:
        number, unit = lasting[:-1], UNITS.get(lasting[-1:])
        if unit is None or not (number.isascii() and number.isdigit()) or not 0 < int(number) <= 10**6:
            raise UsageError(f"--for {lasting!r}: write a number and one of s, m, h, d, as in 90m")
        return now + timedelta(seconds=int(number) * unit)
    try:
        end = datetime.fromisoformat(str(until))
        if end.tzinfo is None:
            raise UsageError(f"--until {until!r} has no zone: write it as {until}Z, or with another offset")
        return end.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise UsageError(f"--until {until!r}: write it as 2026-01-31T23:59:59Z") from exc
