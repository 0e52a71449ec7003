"""`hyops tfc`: workspaces that keep state and run nothing (RUN-10)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.root import rooted

if TYPE_CHECKING:
    from hyops.ports.terraform_cloud import TerraformCloud, Workspace


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a `cloud`: the host's API with the token that the root keeps."""

    @rooted
    @click.option("--host", default="app.terraform.io", show_default=True)
    @click.option("--ca-file", type=click.Path(path_type=Path, dir_okay=False), help="Trust this authority.")
    @wraps(command)
    def with_cloud(root: Path, host: str, ca_file: Path | None, **rest: Any) -> None:
        from hyops import compose_operator as compose
        from hyops.model.terraform import project

        (token,) = project(compose.terraform_credentials(root).read(), [host]).values()
        command(cloud=compose.terraform_cloud(host.lower(), token, ca_file), **rest)

    return with_cloud


ORGANIZATION = click.option("--organization", required=True, envvar="TF_CLOUD_ORGANIZATION")
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group()
def tfc() -> None:
    """Terraform Cloud workspaces that keep state only."""


@tfc.group()
def workspace() -> None:
    """Where a workspace would run."""


@workspace.command("list")
@connected
@ORGANIZATION
@JSON
def list_workspaces(cloud: TerraformCloud, organization: str, as_json: bool) -> None:
    """Every workspace that the token may see, and where it runs."""
    found = asyncio.run(cloud.workspaces(organization))
    if as_json:
        click.echo(json.dumps([_body(one) for one in found]))
        return
    for one in found:
        click.echo(f"{one.name:40} {one.mode}{' (inherited)' if one.inherited else ''}")
    if not found:
        click.echo("no workspace")


@workspace.command()
@click.argument("name")
@connected
@ORGANIZATION
@click.option("--create", is_flag=True, help="Make it when it is missing.")
@click.option("--set-local", is_flag=True, help="Change it when it would run remotely.")
@JSON
def ensure(name: str, cloud: TerraformCloud, organization: str, create: bool, set_local: bool, as_json: bool) -> None:
    """Exit 0 when NAME keeps state only; 12 when it is missing or would run remotely and may not be changed."""
    from hyops.services.workspace import ensure_local

    ensured = asyncio.run(ensure_local(cloud, organization, name, create=create, set_local=set_local))
    found = ensured.workspace
    if as_json:
        click.echo(json.dumps({**_body(found), "done": ensured.done}))
        return
    note = "; the mode is inherited and changes with the organization's default" if found.inherited else ""
    click.echo(f"{organization}/{name}: {found.mode} ({ensured.done}){note}")


def _body(one: Workspace) -> dict[str, Any]:
    return {"name": one.name, "id": one.workspace_id, "execution_mode": str(one.mode), "inherited": one.inherited}
