"""Terraform Cloud or Enterprise as a place for state: its workspaces, and where they would run (RUN-10)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class ExecutionMode(StrEnum):
    """Where a workspace runs Terraform: on its own workers, on the caller's host, or on an agent."""

    REMOTE = "remote"
    LOCAL = "local"
    AGENT = "agent"


@dataclass(frozen=True)
class Workspace:
    """One workspace. `inherited`: its mode is the organization's or project's default and changes with it."""

    workspace_id: str
    organization: str
    name: str
    mode: ExecutionMode
    inherited: bool = False
    locked: bool = False


class TerraformCloud(Protocol):
    """Every call has a limit on time.

    Raises, from all of them:
        PrerequisiteError: the token is not accepted, or the thing is absent or hidden from it (one answer for both).
        TargetError: an error or nonsense; effect `none` where the request was turned down.
        DeadlineError: no answer, or turned away for too long; effect `unknown` where something may have been changed.
    """

    async def whoami(self) -> str:
        """The name of the account that the token belongs to."""

    async def workspace(self, organization: str, name: str) -> Workspace | None:
        """Ask now; None when it is absent or hidden from this token: the API says the same for both."""

    async def workspaces(self, organization: str) -> list[Workspace]:
        """All that this token may see, by name."""

    async def create_local(self, organization: str, name: str) -> Workspace:
        """Make one that runs locally from its first moment; TargetError when the name is taken."""

    async def set_local(self, workspace: Workspace) -> Workspace:
        """Make an existing one run locally, whatever the organization's default is."""
