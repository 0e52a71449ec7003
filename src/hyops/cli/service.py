"""`hyops service`: run one stage of the control loop, or an agent. Each is a process, a user and a unit of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from hyops.cli.config_file import TO_READ, read_file

SERVICES = {
    "decision": "signals become decisions",
    "dispatch": "decisions become dispatch requests",
    "approval": "approved requests become executions",
    "execution": "executions become runs on their runners",
    "fence-agent": "beside a database: writes are served only under the lease",
}


@click.group()
def service() -> None:
    """Run one stage of the control loop, or an agent."""


@service.command("list")
def list_services() -> None:
    """What can be run."""
    for name, what in SERVICES.items():
        click.echo(f"{name:12} {what}")


@service.command()
@click.argument("name", type=click.Choice(sorted(SERVICES)))
@click.option("--config", type=TO_READ, required=True)
def run(name: str, config: Path) -> None:
    """Run NAME in the foreground until SIGTERM."""
    from hyops import compose

    read_file(config)  # a service that cannot even begin says so as every other command does
    asyncio.run(getattr(compose, f"run_{name.replace('-', '_')}")(config))
