"""Each guard of Terraform Cloud is taken out; what it keeps must then break, or the guard's tests prove nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hyops.errors import HyopsError
from hyops.ports.terraform_cloud import ExecutionMode, Workspace
from hyops.services import workspace
from hyops.testing.tfc import ORGANIZATION, MemoryTerraformCloud


def ensured(cloud: MemoryTerraformCloud, **allowed: bool) -> bool:
    """Whether a run would start with this workspace."""
    try:
        asyncio.run(workspace.ensure_local(cloud, ORGANIZATION, "core", **allowed))
    except HyopsError:
        return False
    return True


@pytest.mark.req("RUN-10")
@pytest.mark.parametrize("mode", [ExecutionMode.REMOTE, ExecutionMode.AGENT])
def test_without_the_look_at_the_mode_a_run_goes_elsewhere(
    monkeypatch: pytest.MonkeyPatch, mode: ExecutionMode
) -> None:
    """Take the comparison out: a workspace that runs on other hosts is taken for one that keeps state."""
    for guarded in (True, False):
        cloud = MemoryTerraformCloud([Workspace("ws-1", ORGANIZATION, "core", mode)])
        if not guarded:

            class Anything:
                LOCAL = mode

            monkeypatch.setattr(workspace, "ExecutionMode", Anything)
        assert ensured(cloud) is not guarded


@pytest.mark.req("RUN-10", "VOC-5")
@pytest.mark.parametrize("known", [[], [Workspace("ws-1", ORGANIZATION, "core", ExecutionMode.REMOTE)]])
def test_without_reading_it_back_an_order_is_believed(monkeypatch: pytest.MonkeyPatch, known: list[Workspace]) -> None:
    """An API that accepts and does nothing: only the second look tells."""

    async def believed(*_: Any) -> Workspace:
        return Workspace("ws-1", ORGANIZATION, "core", ExecutionMode.LOCAL)

    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr(workspace, "_read_back", believed)
        assert ensured(MemoryTerraformCloud(list(known), deaf=True), create=True, set_local=True) is not guarded
