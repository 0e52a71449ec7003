"""`hyops service`: run one stage of the control loop, or an agent. Each is a process, a user and a unit of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

SERVICES = {
    "decision": "signals become decisions",
    "dispatch": "decisions become dispatch requests",
    "approval": "approved requests become executions",
    "execution": "executions become runs on their runners",
    "pull-desk": "agents of runners without inbound SSH ask here for work",
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
@click.option("--config", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
def run(name: str, config: Path) -> None:
    """Run NAME in the foreground until SIGTERM."""
    from hyops import compose, compose_pull

    home = compose_pull if name == "pull-desk" else compose
    asyncio.run(getattr(home, f"run_{name.replace('-', '_')}")(config))
