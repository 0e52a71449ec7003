"""A workspace that keeps state and runs nothing: found so, made so when told to, refused otherwise (RUN-10).

A remote run would happen on workers that are neither the runner that was approved nor in its site. Terraform itself
creates a missing workspace in the organization's default mode, so a missing one is a refusal too, before `init`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from hyops.errors import NotVerifiedError, PrerequisiteError, TargetError
from hyops.ports.terraform_cloud import ExecutionMode, TerraformCloud, Workspace


@dataclass(frozen=True)
class Ensured:
    """The workspace as it was read last, and what was done to have it so."""

    workspace: Workspace
    done: Literal["kept", "created", "set-local"]


async def ensure_local(
    cloud: TerraformCloud, organization: str, name: str, *, create: bool = False, set_local: bool = False
) -> Ensured:
    """Return when the workspace runs locally; `create` and `set_local` say what may be changed for that.

    Raises:
        PrerequisiteError: it is missing, or would run remotely, and may not be changed; nothing was touched.
        NotVerifiedError: it was changed and does not run locally all the same.
    """
    found = await cloud.workspace(organization, name)
    if found is None:
        if not create:
            raise await _missing(cloud, organization, name)
        try:
            await cloud.create_local(organization, name)
        except TargetError:  # somebody else may have made it a moment ago: then it counts like any other
            found = await cloud.workspace(organization, name)
            if found is None:
                raise
        else:
            return Ensured(await _read_back(cloud, organization, name), "created")
    if found.mode is ExecutionMode.LOCAL:
        return Ensured(found, "kept")
    if not set_local:
        raise PrerequisiteError(
            f"workspace {organization}/{name} runs {found.mode}: Terraform would not run on the approved runner",
            hint="set it to local there, or repeat with --set-local",
            execution_mode=found.mode,
            inherited=found.inherited,
        )
    if found.locked:
        raise PrerequisiteError(
            f"workspace {organization}/{name} runs {found.mode} and is locked: somebody is at work in it",
            hint="wait for that run, or unlock it there; then repeat",
        )
    await cloud.set_local(found)
    return Ensured(await _read_back(cloud, organization, name), "set-local")


async def _read_back(cloud: TerraformCloud, organization: str, name: str) -> Workspace:
    """An accepted order is no proof: what counts is what the API says afterwards."""
    found = await cloud.workspace(organization, name)
    if found is None or found.mode is not ExecutionMode.LOCAL:
        seen = "is not there" if found is None else f"runs {found.mode}"
        raise NotVerifiedError(f"workspace {organization}/{name} was set to local and {seen} all the same")
    return found


async def _missing(cloud: TerraformCloud, organization: str, name: str) -> PrerequisiteError:
    known = [workspace.name for workspace in await cloud.workspaces(organization)]
    near = difflib.get_close_matches(name, known, n=1)
    return PrerequisiteError(
        f"workspace {organization}/{name} is absent, or this token may not see it"
        + (f"; did you mean {near[0]!r}?" if near else ""),
        hint="check the name and the token's permissions, or repeat with --create",
    )
