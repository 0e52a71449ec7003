"""A workspace keeps state only, or nothing starts; what may be changed is changed and read back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hyops.errors import NotVerifiedError, PrerequisiteError, TargetError
from hyops.ports.terraform_cloud import ExecutionMode, Workspace
from hyops.services.workspace import Ensured, ensure_local
from hyops.testing.tfc import ORGANIZATION, MemoryTerraformCloud


def cloud(mode: ExecutionMode | None = ExecutionMode.LOCAL, **more: bool) -> MemoryTerraformCloud:
    """One with the workspace `core` in a mode, or with none."""
    if mode is None:
        return MemoryTerraformCloud()
    return MemoryTerraformCloud([Workspace("ws-1", ORGANIZATION, "core", mode, **more)])


def ensure(of: MemoryTerraformCloud, name: str = "core", **allowed: bool) -> Ensured:
    """The call under test."""
    return asyncio.run(ensure_local(of, ORGANIZATION, name, **allowed))


@pytest.mark.req("RUN-10")
def test_a_local_workspace_is_left_as_it_is() -> None:
    """Nothing is ordered, also when it might be."""
    given = cloud()

    assert ensure(given, create=True, set_local=True).done == "kept"
    assert given.orders == []


@pytest.mark.req("RUN-10", "GATE-1")
@pytest.mark.parametrize("mode", [ExecutionMode.REMOTE, ExecutionMode.AGENT])
@pytest.mark.parametrize("inherited", [True, False])
def test_a_workspace_that_would_run_remotely_is_refused(mode: ExecutionMode, inherited: bool) -> None:
    """On Terraform Cloud's workers or on an agent: exit code 12, nothing changed, and what to do."""
    given = cloud(mode, inherited=inherited)
    with pytest.raises(PrerequisiteError) as caught:
        ensure(given, create=True)

    assert caught.value.exit_code == 12
    assert (str(mode) in caught.value.message, "--set-local" in caught.value.hint) == (True, True)
    assert given.orders == []


@pytest.mark.req("RUN-10")
@pytest.mark.parametrize("mode", [ExecutionMode.REMOTE, ExecutionMode.AGENT])
def test_told_so_it_is_set_to_local_and_read_back(mode: ExecutionMode) -> None:
    """One order, and what the API says afterwards is what is returned."""
    given = cloud(mode, inherited=True)
    ensured = ensure(given, set_local=True)

    assert (ensured.done, ensured.workspace.mode, ensured.workspace.inherited) == (
        "set-local",
        ExecutionMode.LOCAL,
        False,
    )
    assert given.orders == ["set-local core"]


@pytest.mark.req("RUN-10")
def test_a_locked_workspace_is_not_changed() -> None:
    """A lock is a run under way, or a person; a locked one that is local already is good."""
    given = cloud(ExecutionMode.REMOTE, locked=True)
    with pytest.raises(PrerequisiteError, match="locked"):
        ensure(given, set_local=True)

    assert given.orders == []
    assert ensure(cloud(locked=True)).done == "kept"


@pytest.mark.req("RUN-10", "GATE-1")
def test_a_missing_workspace_is_refused_with_the_nearest_name() -> None:
    """Terraform would make it, in the organization's default mode; `--set-local` is no yes to making one."""
    given = cloud()
    with pytest.raises(PrerequisiteError, match="did you mean 'core'"):
        ensure(given, "cored", set_local=True)

    assert given.orders == []


@pytest.mark.req("RUN-10")
def test_told_so_a_missing_workspace_is_made_local() -> None:
    """Made, and read back."""
    given = cloud(None)

    assert ensure(given, create=True).done == "created"
    assert given.known[0].mode is ExecutionMode.LOCAL


@pytest.mark.req("RUN-10")
@pytest.mark.parametrize("mode", list(ExecutionMode))
def test_one_that_somebody_else_made_meanwhile_counts_like_any_other(mode: ExecutionMode) -> None:
    """The name was taken between the look and the order: local is good, anything else refused."""

    class Overtaken(MemoryTerraformCloud):
        async def create_local(self, organization: str, name: str) -> Workspace:
            """Too late."""
            self.known.append(Workspace("ws-2", organization, name, mode))
            raise TargetError("name has already been taken")

    if mode is ExecutionMode.LOCAL:
        assert ensure(Overtaken(), create=True).done == "kept"
        return
    with pytest.raises(PrerequisiteError):
        ensure(Overtaken(), create=True)


@pytest.mark.req("RUN-10")
def test_an_error_of_the_creation_stays_an_error() -> None:
    """Not taken, just turned down: the error is the API's own."""

    class Full(MemoryTerraformCloud):
        async def create_local(self, organization: str, name: str) -> Workspace:
            """No."""
            raise TargetError("no room")

    with pytest.raises(TargetError, match="no room"):
        ensure(Full(), create=True)


@pytest.mark.req("RUN-10", "VOC-5")
@pytest.mark.parametrize("mode", [None, ExecutionMode.REMOTE])
def test_an_order_that_was_accepted_and_not_done_is_not_success(mode: ExecutionMode | None) -> None:
    """Success is what is read back: exit code 40."""
    given = replace(cloud(mode), deaf=True)
    with pytest.raises(NotVerifiedError):
        ensure(given, create=True, set_local=True)
