"""Bastions in the executor's configuration: named and known, and the only way of the runners that name one (ACC-2)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyops.adapters.doors import Door
from hyops.compose_pki import runner_target
from hyops.errors import ConfigError
from hyops.services.config_execution import ExecutionConfig
from simulation.world import policy

LOGIN = {"address": "10.77.2.5", "user": "hyops", "key_file": "/etc/hyops/key", "known_hosts": "/etc/hyops/hosts"}
JUMP = {**LOGIN, "address": "198.51.100.7", "user": "hyops-jump", "key_file": "/etc/hyops/jump", "port": 2222}


def config(**changes: Any) -> ExecutionConfig:
    """One runner behind one bastion, and one beside it."""
    body = {
        "api_version": "hybridops/v1",
        "kind": "DecisionExecutor",
        "signing_key": "/etc/hyops/execution.pem",
        "trusted_keys": "/etc/hyops/trusted_keys.json",
        "protected": [{"policy": policy().body()}],
        "runners": {"far": {**LOGIN, "bastion": "jump"}, "near": LOGIN},
        "bastions": {"jump": JUMP},
        **changes,
    }
    return ExecutionConfig.read(json.dumps(body).encode(), source="config.json")


@pytest.mark.req("RUN-3", "ACC-2")
@pytest.mark.parametrize("client", ["asyncssh", "openssh"])
def test_a_runner_goes_the_way_that_is_written_down(client: str) -> None:
    """The bastion is pinned under its name and asked for no command; each runner keeps its own pin."""
    read = config(ssh_client=client)
    far, near = (runner_target(ref, read.runners[ref], read.bastions) for ref in ("far", "near"))

    assert far.bastion is not None
    assert (far.bastion.host_key_alias, far.bastion.only_forwards, far.bastion.user) == ("jump", True, "hyops-jump")
    assert (far.host_key_alias, far.only_forwards) == ("far", False)
    assert far.door == Door("10.77.2.5", 22, behind=Door("198.51.100.7", 2222))
    assert (near.bastion, near.door) == (None, Door("10.77.2.5", 22))


@pytest.mark.req("RUN-3", "ACC-2")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bastions": {}}, "runners.far.bastion: no 'jump' in bastions"),
        ({"ssh_client": "openssh", "bastions": {}}, "runners.far.bastion: no 'jump' in bastions"),
        ({"bastions": {"jump": {**JUMP, "bastion": "jump"}}}, "bastions.jump.bastion"),
    ],
)
def test_a_way_that_cannot_be_gone_is_refused_when_it_is_read(changes: dict[str, Any], told: str) -> None:
    """An unknown bastion, whatever the client, and a bastion behind a bastion: named by its key."""
    with pytest.raises(ConfigError) as refused:
        config(**changes)
    assert told in refused.value.message
