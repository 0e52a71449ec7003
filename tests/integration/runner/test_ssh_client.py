"""`ssh_client` of the executor's configuration chooses who connects; a whole dispatch goes over either."""

from __future__ import annotations

import asyncio
import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hyops import compose_transport
from hyops.adapters.signer_ed25519 import TrustedKey, TrustedKeys
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.adapters.ssh_openssh import OpensshRunnerTransport
from hyops.errors import ConfigError
from hyops.model.vocabulary import Outcome
from hyops.testing.evidence import STAGES, base64_of
from hyops.testing.runs import plan_of, spec_of, step
from simulation.world import policy
from waiting import PATIENCE_S

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner


def executor(runner: Runner, **more: Any) -> Path:
    """The executor's configuration with this runner in it; its key is pinned under its reference."""
    keys = runner.folder / "trusted_keys.json"
    role = "runner:cloud-runner"
    trusted = TrustedKey(public=base64_of(STAGES[role]), roles=[role])
    keys.write_text(json.dumps(TrustedKeys(keys=[trusted]).body()))
    pins = runner.folder / "pins"
    pins.write_text("cloud-runner " + " ".join((runner.folder / "host.pub").read_text().split()[:2]) + "\n")
    login = {
        "address": "127.0.0.1",
        "port": runner.port,
        "user": getpass.getuser(),
        "key_file": str(runner.folder / "user"),
        "known_hosts": str(pins),
    }
    body = {
        "api_version": "hybridops/v1",
        "kind": "DecisionExecutor",
        "signing_key": "/nonexistent",
        "trusted_keys": str(keys),
        "protected": [{"policy": policy().body(), "initial_generation": 1}],
        "runners": {"cloud-runner": login},
    }
    path = runner.folder / "executor.json"
    path.write_text(json.dumps({**body, **more}))
    return path


@pytest.mark.req("RUN-3", "RUN-5", "RUN-6")
@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        ({}, AsyncsshRunnerTransport),
        ({"ssh_client": "asyncssh"}, AsyncsshRunnerTransport),
        ({"ssh_client": "openssh"}, OpensshRunnerTransport),
    ],
)
def test_the_chosen_client_carries_a_whole_dispatch(runner: Runner, chosen: dict[str, str], kind: type) -> None:
    """Hello, start, follow, collect and verify, with the pin under the runner's name."""
    transport, names = compose_transport.runner_transport(executor(runner, **chosen))
    spec = spec_of(plan_of([step("a"), step("b", "a")]))

    async def body() -> None:
        async with transport.connect("cloud-runner") as session:
            assert await session.start(spec, {}) == "started"
            assert [event async for event in session.attach(spec.run_id)][-1].stream == "end"
            assert (await session.collect(spec.run_id)).result.outcome is Outcome.SUCCEEDED

    asyncio.run(asyncio.wait_for(body(), PATIENCE_S))
    assert (type(transport), names) == (kind, ["cloud-runner"])
    assert runner.effects == ["a", "b"]


@pytest.mark.req("RUN-3", "UX-2")
def test_another_word_is_refused(runner: Runner) -> None:
    """A client that does not exist is no default."""
    with pytest.raises(ConfigError, match="ssh_client"):
        compose_transport.runner_transport(executor(runner, ssh_client="putty"))
