"""Terraform Cloud in memory, and the contract that it and the real one's adapter keep (RUN-10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from hyops.errors import Effect, PrerequisiteError, TargetError
from hyops.ports.terraform_cloud import ExecutionMode, TerraformCloud, Workspace

ORGANIZATION, SECRET_ORGANIZATION = "hyops-lab", "of-others"


@dataclass
class MemoryTerraformCloud:
    """`TerraformCloud`. `deaf`: takes orders and does nothing. `orders`: what was asked to be changed."""

    known: list[Workspace] = field(default_factory=list)
    organizations: tuple[str, ...] = (ORGANIZATION,)
    deaf: bool = False
    orders: list[str] = field(default_factory=list)

    async def whoami(self) -> str:
        """See the port."""
        return "ada"

    async def workspace(self, organization: str, name: str) -> Workspace | None:
        """See the port."""
        if organization not in self.organizations:
            return None
        return next((w for w in self.known if w.organization == organization and w.name == name), None)

    async def workspaces(self, organization: str) -> list[Workspace]:
        """See the port."""
        self._visible(organization)
        return sorted((w for w in self.known if w.organization == organization), key=lambda w: w.name)

    async def create_local(self, organization: str, name: str) -> Workspace:
        """See the port."""
        self._visible(organization)
        if await self.workspace(organization, name) is not None:
            raise TargetError("name has already been taken", effect=Effect.NONE)
        self.orders.append(f"create {name}")
        made = Workspace(f"ws-{len(self.known)}", organization, name, ExecutionMode.LOCAL)
        if not self.deaf:
            self.known.append(made)
        return made

    async def set_local(self, workspace: Workspace) -> Workspace:
        """See the port."""
        self.orders.append(f"set-local {workspace.name}")
        changed = replace(workspace, mode=ExecutionMode.LOCAL, inherited=False)
        if not self.deaf:
            self.known = [changed if w.workspace_id == workspace.workspace_id else w for w in self.known]
        return changed

    def _visible(self, organization: str) -> None:
        if organization not in self.organizations:
            raise PrerequisiteError(f"organization {organization} is absent or hidden")


class TerraformCloudContract:
    """What every one does. A subclass opens one that has `count` remote workspaces `ws-0000`... in ORGANIZATION.

    SECRET_ORGANIZATION exists, has a workspace `vault`, and is hidden from the token.
    """

    @asynccontextmanager
    async def opened(self, count: int = 1) -> AsyncIterator[TerraformCloud]:
        """One that is empty but for these."""
        raise NotImplementedError
        yield

    @pytest.mark.req("RUN-10")
    def test_a_workspace_is_shown_as_it_is(self) -> None:
        """Its name, id and mode; a missing one is None."""

        async def scenario() -> None:
            async with self.opened() as cloud:
                found = await cloud.workspace(ORGANIZATION, "ws-0000")
                assert found is not None
                assert (found.name, found.organization, found.mode) == ("ws-0000", ORGANIZATION, ExecutionMode.REMOTE)
                assert await cloud.workspace(ORGANIZATION, "ws-9999") is None
                assert await cloud.whoami() == "ada"

        asyncio.run(scenario())

    @pytest.mark.req("RUN-10")
    def test_what_is_hidden_looks_absent(self) -> None:
        """A workspace of others is None; their list and a new workspace there are refused, nothing changed."""

        async def scenario() -> None:
            async with self.opened() as cloud:
                assert await cloud.workspace(SECRET_ORGANIZATION, "vault") is None
                with pytest.raises(PrerequisiteError):
                    await cloud.workspaces(SECRET_ORGANIZATION)
                with pytest.raises(PrerequisiteError):
                    await cloud.create_local(SECRET_ORGANIZATION, "ws")

        asyncio.run(scenario())

    @pytest.mark.req("RUN-10")
    def test_a_new_workspace_is_local_from_the_start(self) -> None:
        """Made local, read back local, its own setting; the same name again is an error that changed nothing."""

        async def scenario() -> None:
            async with self.opened() as cloud:
                await cloud.create_local(ORGANIZATION, "new")
                found = await cloud.workspace(ORGANIZATION, "new")
                assert found is not None
                assert (found.mode, found.inherited) == (ExecutionMode.LOCAL, False)
                with pytest.raises(TargetError) as caught:
                    await cloud.create_local(ORGANIZATION, "new")
                assert caught.value.effect is Effect.NONE

        asyncio.run(scenario())

    @pytest.mark.req("RUN-10")
    def test_a_remote_workspace_becomes_local_and_no_other(self) -> None:
        """One is set, read back, and its neighbour still runs remotely."""

        async def scenario() -> None:
            async with self.opened(2) as cloud:
                found = await cloud.workspace(ORGANIZATION, "ws-0001")
                assert found is not None
                await cloud.set_local(found)
                modes = {w.name: w.mode for w in await cloud.workspaces(ORGANIZATION)}
                assert modes == {"ws-0000": ExecutionMode.REMOTE, "ws-0001": ExecutionMode.LOCAL}

        asyncio.run(scenario())

    @pytest.mark.req("RUN-10")
    @pytest.mark.parametrize("count", [0, 1, 100, 101, 205])
    def test_a_list_is_whole(self, count: int) -> None:
        """All workspaces once, by name, however many pages they fill."""

        async def scenario() -> None:
            async with self.opened(count) as cloud:
                names = [workspace.name for workspace in await cloud.workspaces(ORGANIZATION)]
                assert names == [f"ws-{number:04}" for number in range(count)]

        asyncio.run(scenario())
