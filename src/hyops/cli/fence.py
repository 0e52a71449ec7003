"""`hyops fence`: look at and talk to the fence agent of this database host, through its socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import click

from hyops import errors
from hyops.cli.config_file import TO_READ, read_file
from hyops.errors import PrerequisiteError, TargetError, UsageError

SOCKET = Path("/run/hyops/fence-agent.sock")
RUNNER = Path("/etc/hyops/runner.json")
REPLY_BYTES_MAX = 262_144


@click.group()
def fence() -> None:
    """The fence agent beside a database (run this on the database host)."""


@fence.command()
@click.option("--socket", "path", type=click.Path(path_type=Path), default=SOCKET, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def status(path: Path, as_json: bool) -> None:
    """Edge, role, generation and lease, as the agent sees them now."""
    found = asyncio.run(_ask(path, {"verb": "status"}))
    if as_json:
        click.echo(json.dumps(found))
        return
    lease = "holds the lease" if found["holds_lease"] else "holds no lease"
    click.echo(f"{found['host']}: {found['role']}, edge {found['edge']}, generation {found['generation']}, {lease}")
    for key, value in sorted(found.get("facts", {}).items()):
        click.echo(f"  {key}: {value}")


@fence.command()
@click.option("--primary", required=True, help="the member that is primary now")
@click.option("--generation", type=int, required=True, help="the service's generation now (`hyops fence status`)")
@click.option("--yes", is_flag=True, help="rows that only this host has are thrown away by the rewind: agree to it")
@click.option("--socket", "path", type=click.Path(path_type=Path), default=SOCKET, show_default=True)
def rejoin(primary: str, generation: int, yes: bool, path: Path) -> None:
    """Make this host a standby of PRIMARY, rewound where the histories differ."""
    if not yes:
        raise PrerequisiteError(
            "a rewind throws away the rows that only this host has", hint="save what you need, then add --yes"
        )
    request = {"verb": "follow", "primary": primary, "generation": generation, "run_id": "operator"}
    found = asyncio.run(_ask(path, request))
    click.echo(f"{found['host']}: {found['role']} of {primary}, timeline {found.get('timeline')}")


@fence.command()
@click.option(
    "--run", "run_id", required=True, help="the run that holds this host (`hold_run` of `hyops fence status`)"
)
@click.option("--generation", type=int, required=True, help="the generation at which it is held")
@click.option("--socket", "path", type=click.Path(path_type=Path), default=SOCKET, show_default=True)
def readmit(run_id: str, generation: int, path: Path) -> None:
    """Serve again on this host after a switchover that stopped half-way, or a lost memory of the agent.

    Raises the generation for this host in the quorum store, which ends whatever the run could still do. Refused once
    the run's target has taken the lease of its own generation: then resume the run, or switch on from there.
    """
    request = {"verb": "readmit", "generation": generation, "run_id": run_id}
    found = asyncio.run(_ask(path, request))
    click.echo(f"{found['host']}: {found['role']}, edge {found['edge']}, generation {found['generation']}")


@fence.command("restore-generation")
@click.option("--config", type=TO_READ, default=RUNNER, show_default=True, help="this runner's")
@click.option("--policy", type=TO_READ, required=True, help="the service's policy, as JSON")
@click.option("--seen", multiple=True, metavar="RUNNER=GENERATION", help="what that runner's file says; repeatable")
@click.option("--without", multiple=True, metavar="NAME", help="leave this host, runner or authority out; repeatable")
@click.option("--reason", help="why; it stands in the quorum store from then on")
@click.option("--primary", help="only where the newest primary cannot be asked: the member that shall serve")
def restore_generation(
    config: Path, policy: Path, seen: tuple[str, ...], without: tuple[str, ...], reason: str | None, primary: str | None
) -> None:
    """After etcd was restored from a snapshot: let the newest primary go on. Run this on a runner.

    Raises the generation past the highest one that any member, runner or DNS authority reports, by compare-and-set.
    Refused while somebody cannot be asked and is not left out by name, and while another host is open.
    """
    from hyops.compose_restore import restore_generation as restore
    from hyops.fence.restore import LeftOut
    from hyops.model.policy import ServicePolicy

    data = read_file(policy, hint="`protected.policy` of the decision service")
    numbers = dict(_pair(word) for word in seen)
    read = ServicePolicy.read(data, source=str(policy))
    now = asyncio.run(restore(config, read, numbers, LeftOut(without, reason), primary))
    click.echo(f"{now.service}: generation {now.generation} belongs to {now.primary}")


def _pair(word: str) -> tuple[str, int]:
    name, _, number = word.rpartition("=")
    if not name or not number.isdecimal():
        raise UsageError(f"--seen {word}: RUNNER=GENERATION is wanted")
    return name, int(number)


@fence.command()
@click.option("--config", type=TO_READ, required=True)
@click.option("--generation", type=int, default=1, show_default=True)
@click.option("--wait-s", type=float, default=0.0, show_default=True, help="wait so long for a quorum")
def init(config: Path, generation: int, wait_s: float) -> None:
    """Give the service its first generation, with this host as primary. Once, before the agent is first started."""
    from hyops.compose_fence import agent_memory, first_generation
    from hyops.fence.config import FenceAgentConfig
    from hyops.fence.first import refuse_if_known
    from hyops.fence.state import AgentState, forgotten

    read = FenceAgentConfig.read(read_file(config), source=str(config))
    with contextlib.closing(agent_memory(Path(read.state_file))) as memory:  # an agent that runs has it
        refuse_if_known(memory.load())
        memory.save(forgotten(read.service, read.host))  # a disk that is full is found out before anything is created
        asyncio.run(first_generation(read, generation, wait_s))
        memory.save(AgentState(service=read.service, host=read.host, generation=generation, primary=read.host))
    click.echo(f"{read.service}: generation {generation}")


@fence.command("install-edge")
@click.option("--config", type=TO_READ, required=True)
def install_edge(config: Path) -> None:
    """Close the database's edge (the boot unit runs this before the network is up)."""
    from hyops.compose_fence import database_edge
    from hyops.fence.config import FenceAgentConfig

    database_edge(FenceAgentConfig.read(read_file(config), source=str(config))).install()


async def _ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=REPLY_BYTES_MAX)
    except OSError as exc:
        raise PrerequisiteError(f"no fence agent at {path}: {exc.strerror}", hint="run on a database host") from exc
    writer.write(json.dumps(request).encode() + b"\n")
    reply = json.loads(await reader.readline() or b"{}")
    writer.close()
    if not reply.get("ok"):
        error = reply.get("error", {"message": "the agent hung up"})
        kind = getattr(errors, str(error.get("error")), TargetError)
        raise kind(str(error["message"]), hint=str(error.get("hint", "")))
    result: dict[str, Any] = reply["result"]
    return result
