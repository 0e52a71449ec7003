"""`hyops fence init` beside a running agent, on a real cluster: the first generation, and a service that is not new."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hyops.adapters.state_file import StateFile
from hyops.cli.fence import fence
from hyops.errors import PrerequisiteError
from hyops.fence.state import AgentState
from loopback import Etcd, missing

pytestmark = pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))


def init(folder: Path, endpoints: list[str]) -> Result:
    """Run it as an operator on host `a` does; the agent's memory is `folder/state.json`."""
    members = [
        {"host": host, "address": f"127.0.0.{n}", "site": host, "runner_ref": f"{host}-runner"}
        for n, host in enumerate("ab", 1)
    ]
    config = {
        "api_version": "hybridops/v1", "kind": "FenceAgent", "service": "pg", "host": "a", "members": members,
        "lease": {"endpoints": endpoints}, "receipts": ["observed"], "state_file": str(folder / "state.json"),
    }  # fmt: skip
    (folder / "agent.json").write_text(json.dumps(config))
    return CliRunner().invoke(fence, ["init", "--config", str(folder / "agent.json")])


@pytest.mark.req("GEN-1")
def test_a_running_agent_does_not_keep_the_first_generation_from_being_made(tmp_path: Path) -> None:
    """The agent came first and holds its memory: it waits for the generation that only `init` can make."""
    memory = StateFile(tmp_path / "state.json", AgentState)
    assert memory.load() is None
    with Etcd(tmp_path / "etcd", count=1) as etcd:
        done = init(tmp_path, list(etcd.endpoints))
    memory.close()
    assert (done.exit_code, done.output) == (0, "pg: generation 1\n")


@pytest.mark.req("GEN-1", "INV-5")
def test_a_service_that_a_running_agent_knows_is_not_new(tmp_path: Path) -> None:
    """The store was lost, the agent runs and remembers generation 4: nothing is made."""
    memory = StateFile(tmp_path / "state.json", AgentState)
    memory.load()
    memory.save(AgentState(service="pg", host="a", generation=4, primary="a"))
    with Etcd(tmp_path / "etcd", count=1) as etcd:
        refused = init(tmp_path, list(etcd.endpoints))
        again = init(tmp_path, list(etcd.endpoints))
    memory.close()
    for result in (refused, again):
        assert isinstance(result.exception, PrerequisiteError)
        assert "has seen generation 4" in str(result.exception)
