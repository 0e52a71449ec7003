"""`hyops access`: a way in from outside for a drill or a broken glass, listed, and removed with proof (ACC-1)."""

from __future__ import annotations

import asyncio
import getpass
import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.config_file import TO_READ, read_file
from hyops.errors import ConfigError

if TYPE_CHECKING:
    from hyops.model.access import ResolvedAccess

CONFIG = Path("/etc/hyops/access.json")
config_option = click.option("--config", type=TO_READ, default=CONFIG, show_default=True, help="what this edge guards")


@click.group()
def access() -> None:
    """How targets are reached: ask a mode on its runner; open, list and remove ways in on the edge."""


@access.command("open")
@click.option("--occasion", type=click.Choice(["drill", "break-glass"]), required=True)
@click.option("--reason", required=True, help="why; it stays in the record")
@click.option("--source", required=True, help="from where: one address, or a few (CIDR)")
@click.option("--address", required=True, help="the guarded address")
@click.option("--port", type=int, default=22, show_default=True)
@click.option("--for", "for_s", type=click.FloatRange(1, 14400), default=900.0, show_default=True, help="seconds")
@config_option
def open_(occasion: str, reason: str, source: str, address: str, port: int, for_s: float, config: Path) -> None:
    """Let one source in; the edge ends it when the time is over."""
    from hyops import compose_access as compose
    from hyops.access.public import open_grant
    from hyops.model.access import AccessGrant

    desk = _desk(config)
    now = datetime.now(UTC)
    grant = AccessGrant.of(
        {
            "schema": "hyops/access-grant/v1",
            "grant_id": f"grant-{now:%Y%m%dT%H%M%S}Z-{secrets.token_hex(4)}",
            "state": "opening",
            "occasion": occasion,
            "reason": reason,
            "by": getpass.getuser(),
            "source": source if "/" in source else f"{source}/32",
            "address": address,
            "port": port,
            "opened_at": now.isoformat(),
            "expires_at": (now + timedelta(seconds=for_s)).isoformat(),
        },
        source="grant",
    )
    opened = asyncio.run(
        open_grant(grant, compose.edge(desk), compose.grants(desk).keep, looks_from=desk.vantage.address)
    )
    click.echo(f"{opened.grant_id}: {opened.source} to {address}:{port} until {opened.expires_at:%Y-%m-%dT%H:%M:%SZ}")


@access.command()
@click.argument("plane")
@click.option("--target", "targets", multiple=True, help="HOST=ADDRESS; more than one may be given")
@click.option("--failed-site", help="ask as a run would that is there because this site failed")
@click.option("--blueprint", default="operator/check@v1", show_default=True, help="whose run it would be")
@click.option("--config", type=TO_READ, default=Path("/etc/hyops/runner.json"), show_default=True)
@click.option("--json", "as_json", is_flag=True)
def check(
    plane: str, targets: tuple[str, ...], failed_site: str | None, blueprint: str, config: Path, as_json: bool
) -> None:
    """Ask every prerequisite of PLANE from this runner, as a run would before its first effect. Changes nothing."""
    from hyops import compose_access as compose
    from hyops.access.circumstances import Circumstances, Target, plane_of
    from hyops.model.vocabulary import DecisionType
    from hyops.runner.config import RunnerConfig

    loaded = RunnerConfig.load(config)
    pairs = [word.partition("=") for word in targets]
    if wrong := [word for word, (_, sign, address) in zip(targets, pairs, strict=True) if not (sign and address)]:
        raise ConfigError(f"--target {wrong[0]}: HOST=ADDRESS is needed")
    run = Circumstances(
        plane=plane_of(plane),
        runner_ref=loaded.runner_ref,
        runner_site=loaded.site,
        env="",
        blueprint_ref=blueprint,
        decision_type=DecisionType.FAILOVER,
        targets=tuple(Target(host, address, loaded.host_sites.get(host)) for host, _, address in pairs),
        failed_site=failed_site,
        site_networks=compose.access_options(loaded).site_networks,
    )

    async def ask() -> ResolvedAccess:
        return await compose.run_access(loaded)(run)

    found = asyncio.run(ask())
    if as_json:
        click.echo(json.dumps(found.body()))
        return
    click.echo(f"{found.plane} holds" + (f", through {', '.join(found.through)}" if found.through else ""))
    for one in found.checks:
        click.echo(f"  {one.prerequisite:30} {one.subject:16} {one.seen}")
    for limit in found.limits:
        click.echo(f"  not seen: {limit}")


@access.command("list")
@click.option("--json", "as_json", is_flag=True)
@config_option
def list_(as_json: bool, config: Path) -> None:
    """Every grant, and whether the edge still has it; a rule without a record is told too."""
    from hyops import compose_access as compose

    desk = _desk(config)
    grants, present = compose.grants(desk).all(), asyncio.run(compose.edge(desk).present())
    strays = sorted(set(present) - {grant.grant_id for grant in grants})
    if as_json:
        body = [{**grant.body(), "present": grant.grant_id in present} for grant in grants]
        click.echo(json.dumps({"grants": body, "without_record": strays}))
        return
    for grant in grants:
        there = "at the edge" if grant.grant_id in present else "not at the edge"
        until = f"until {grant.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        click.echo(f"{grant.grant_id} {grant.state} {there} {grant.source} to {grant.address}:{grant.port} {until}")
    for name in strays:
        click.echo(f"{name} without a record")


@access.command()
@config_option
def serve(config: Path) -> None:
    """Answer one question of a runner on standard input: the forced command of its key on this edge."""
    import sys

    from hyops import compose_access as compose
    from hyops.services.access_edge import QUESTION_MAX

    desk = compose.edge_desk(_desk(config))
    click.echo(json.dumps(asyncio.run(desk.answer(sys.stdin.buffer.readline(QUESTION_MAX)))))


@access.command()
@click.argument("grant_id", required=False)
@click.option("--all", "everything", is_flag=True, help="every grant that is not proved gone")
@config_option
def remove(grant_id: str | None, everything: bool, config: Path) -> None:
    """Remove GRANT_ID and prove from outside that nobody gets in; also one that expired or that a crash left."""
    from hyops import compose_access as compose
    from hyops.access.public import due, named, remove_grant
    from hyops.errors import UsageError

    if everything is (grant_id is not None):
        raise UsageError("name one grant, or give --all")
    desk = _desk(config)
    kept = compose.grants(desk)
    for grant in due(kept.all()) if grant_id is None else [named(kept.all(), grant_id)]:
        gone = asyncio.run(
            remove_grant(grant, compose.edge(desk), compose.outside(desk), kept.keep, lambda: datetime.now(UTC))
        )
        click.echo(f"{gone.grant_id} removed: {gone.proof}")


def _desk(config: Path) -> Any:
    from hyops.model.access import AccessDesk

    return AccessDesk.read(read_file(config, hint="name the edge's configuration with --config"), source=str(config))
