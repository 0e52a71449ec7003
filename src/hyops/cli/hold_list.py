"""`hyops hold list`: what holds one service, or each that the decision service is about (DEC-6, UX-2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.approval_options import JSON
from hyops.cli.config_file import TO_READ

if TYPE_CHECKING:
    from hyops.model.hold import HoldRecord
    from hyops.model.observed import Hold, Latch
    from hyops.services.hold_desk import HoldDesk

DEFAULT_CONFIG = "/opt/hybridops/decision-service/config/config.json"
CONFIG = click.option(
    "--config",
    type=TO_READ,
    default=DEFAULT_CONFIG,
    envvar="HYOPS_DECISION_CONFIG",
    help="The decision service's file.",
)


@dataclass(frozen=True)
class Look:
    """What was found of one service. `without`: name of a record that changes nothing -> why."""

    service: str
    records: tuple[HoldRecord, ...]
    now: Hold | None
    latch: Latch | None
    without: Mapping[str, str]

    def body(self) -> dict[str, Any]:
        """For programs."""
        return {
            "holds": [record.body() for record in self.records],
            "in_force": self.now.body() if self.now else None,
            "latch": self.latch.body() if self.latch else None,
            "without_effect": dict(self.without),
        }

    def lines(self) -> list[str]:
        """For people; what was signed does not speak to the terminal, nor in a line of its own."""
        from hyops.model.words import shown

        said = [(record.hold_id, record.statement) for record in self.records]
        lines = [f"{name}  until {one.until:%F %T} UTC  {one.owner}: {one.reason}" for name, one in said]
        if self.now is not None and self.now.window is not None:
            now = self.now
            lines.append(f"window {now.window}  until {now.until:%F %T} UTC  {now.owner}: {now.reason}")
        if self.latch is not None:
            told = f"LATCHED at generation {self.latch.generation}"
            lines.append(f"{told}: acknowledge it to let the loop trigger again")
        lines += [f"{name}  without effect: {why}" for name, why in sorted(self.without.items())]
        if self.now is None and self.latch is None:
            lines.append(f"nothing holds {self.service}")
        return [shown(line) for line in lines]


@click.command("list")
@click.argument("service", required=False)
@CONFIG
@JSON
def list_holds(service: str | None, config: Path, as_json: bool) -> None:
    """What holds SERVICE, and which records change nothing, with why; without SERVICE, of every service of the file."""
    from hyops import compose_hold as compose

    if service is not None:
        look = _look(compose.hold_desk(config, service))
        click.echo(json.dumps(look.body()) if as_json else "\n".join(look.lines()))
        return
    desks = compose.hold_desks(config)
    looks = [_look(desk) for desk in desks]
    nobodys = set.intersection(*(desk.of_others() for desk in desks))  # told with the first service, not with each
    found = []
    for number, (desk, look) in enumerate(zip(desks, looks, strict=True)):
        hidden = desk.of_others() - (nobodys if number == 0 else set())
        without = {name: why for name, why in look.without.items() if name not in hidden}
        found.append(Look(look.service, look.records, look.now, look.latch, without))
    if as_json:
        click.echo(json.dumps({look.service: look.body() for look in found}))
        return
    for look in found:
        click.echo("\n".join([f"{look.service}:", *(f"  {line}" for line in look.lines())]))


def _look(desk: HoldDesk) -> Look:
    records, now, without = desk.look()
    return Look(desk.policy.service, records, now, desk.latch(), without)
