"""`hyops service`: run one stage of the control loop, or an agent. Each is a process, a user and a unit of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from hyops.cli.config_file import TO_READ, read_file

SERVICES = {
    "decision": "signals become decisions",
    "dispatch": "decisions become dispatch requests",
    "approval": "approved requests become executions",
    "execution": "executions become runs on their runners",
    "pull-desk": "agents of runners without inbound SSH ask here for work",
    "notify": "what waits, ends badly or is held is told to people",
    "fence-agent": "beside a database: writes are served only under the lease",
}
WIRING = dict.fromkeys(SERVICES, "compose_loop") | {
    "fence-agent": "compose_fence",
    "notify": "compose_notify",
    "pull-desk": "compose_pull",
}
"""The module of composition that holds each service's `run_<name>`."""


def daemon(name: str) -> Callable[[Path], Coroutine[Any, Any, None]]:
    """What runs a service from its configuration file; nothing of another service is loaded."""
    wiring = import_module(f"hyops.{WIRING[name]}")
    run: Callable[[Path], Coroutine[Any, Any, None]] = getattr(wiring, f"run_{name.replace('-', '_')}")
    return run


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
    read_file(config)  # a service that cannot even begin says so as every other command does
    from hyops.compose_store import serving

    with serving(name, config):
        asyncio.run(_served(name, config))


async def _served(name: str, config: Path) -> None:
    run, stages = daemon(name), ("decision", "dispatch", "approval", "execution")
    if name not in stages:
        return await run(config)
    from hyops.compose_health import beside

    return await beside(name, config, lambda: run(config))


STAGE = click.argument("name", metavar="STAGE", type=click.Choice(["decision", "dispatch", "approval", "execution"]))


@service.command("signing-key")
@STAGE
@click.option("--key", type=TO_READ, required=True, help="the stage's private key")
def signing_key(name: str, key: Path) -> None:
    """The entry of a stage's signing key for every trusted_keys.json, as JSON."""
    import json

    from hyops import compose_check

    click.echo(json.dumps(compose_check.signing_key(name, key)))


@service.command()
@STAGE
@click.option("--config", type=TO_READ, required=True)
def check(name: str, config: Path) -> None:
    """Whether a stage could begin with a configuration; says its mode and its public key, as JSON."""
    import json

    from hyops import compose_check

    read_file(config)
    click.echo(json.dumps(compose_check.check(name, config)))
