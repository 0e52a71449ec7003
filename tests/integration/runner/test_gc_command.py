"""`hyops runner gc` and `collect` against a real runner behind a real sshd."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.runner.conftest import Runner

from hyops.adapters.signer_ed25519 import TrustedKey, TrustedKeys
from hyops.cli.main import main
from hyops.errors import UnsafePlanError
from hyops.model.run import RunSpec
from hyops.testing.evidence import STAGES, base64_of
from hyops.testing.runs import noop_plan, spec_of
from simulation.world import policy
from waiting import PATIENCE_S


def executor_config(runner: Runner) -> Path:
    """An executor's configuration that reaches this runner, and trusts its key."""
    key = TrustedKey(public=base64_of(STAGES["runner:cloud-runner"]), roles=["runner:cloud-runner"])
    (runner.folder / "trusted.json").write_text(json.dumps(TrustedKeys(keys=[key]).body()))
    user = "root" if os.geteuid() == 0 else os.environ["USER"]
    login = {"address": "127.0.0.1", "user": user, "port": runner.port, "key_file": str(runner.folder / "user")}
    body = {
        "api_version": "hybridops/v1",
        "kind": "DecisionExecutor",
        "signing_key": "/nonexistent",
        "trusted_keys": str(runner.folder / "trusted.json"),
        "protected": [{"policy": policy().body(), "initial_generation": 7}],
        "runners": {"cloud-runner": {**login, "known_hosts": str(runner.folder / "known_hosts")}},
    }
    path = runner.folder / "executor.json"
    path.write_text(json.dumps(body))
    return path


def ran(runner: Runner, *, collected: bool) -> RunSpec:
    """A run that has ended, collected by the executor or not yet."""
    spec = spec_of(noop_plan())

    async def body() -> None:
        async with asyncio.timeout(PATIENCE_S), runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            async for _ in session.attach(spec.run_id):
                pass
            if collected:
                await session.collect(spec.run_id)

    asyncio.run(body())
    return spec


def gc(runner: Runner, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the command; its exit code and what it printed."""
    code = main(["runner", "gc", *words, "--config", str(executor_config(runner))])
    return code, capsys.readouterr().out


@pytest.mark.req("RUN-5", "INV-4")
def test_a_collected_run_goes_and_cannot_be_started_again(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """It stays for the configured time; then it goes, and the same approved execution is refused though not expired."""
    spec = ran(runner, collected=True)
    code, out = gc(runner, capsys)
    assert (code, "kept for 30 days" in out, "0 removed, 1 stay" in out) == (0, True, True)

    runner.configure(keep_finished_s=0)
    code, out = gc(runner, capsys, "--dry-run")
    assert (code, f"would go  {spec.run_id}" in out, runner.folders.run_ids()) == (0, True, [spec.run_id])
    code, out = gc(runner, capsys, "--json")
    (told,) = [json.loads(line) for line in out.splitlines()]
    assert [(one["run_id"], one["goes"]) for one in told["runs"]] == [(spec.run_id, True)]
    assert runner.folders.run_ids() == []

    async def again() -> None:
        async with asyncio.timeout(PATIENCE_S), runner.transport().connect("cloud-runner") as session:
            assert "removed" in (await session.status(spec.run_id)).facts
            with pytest.raises(UnsafePlanError, match="an execution runs once"):
                await session.start(spec.model_copy(update={"epoch": 9}), {})

    asyncio.run(again())
    assert runner.folders.run_ids() == []


@pytest.mark.req("RUN-5", "INV-7")
def test_a_copy_is_not_the_collection(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """What a person copies stays for the executor; only --release says that this copy counts."""
    spec = ran(runner, collected=False)
    runner.configure(keep_finished_s=0)
    copy = ["runner", "collect", spec.run_id, "-o", str(runner.folder / "home"), "--config"]
    assert main([*copy, str(executor_config(runner))]) == 0
    assert "succeeded, not collected" in gc(runner, capsys)[1]
    assert runner.folders.run_ids() == [spec.run_id]

    assert main([*copy, str(executor_config(runner)), "--release"]) == 0
    assert "1 removed, 0 stay" in gc(runner, capsys)[1]
    assert (runner.folder / "home" / "result.json").exists()


@pytest.mark.req("UX-1")
def test_a_runner_that_is_not_there_is_named(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 22, with the runner's name; nothing else is claimed."""
    assert runner.sshd is not None
    runner.sshd.terminate()
    runner.sshd.wait()
    code, out = gc(runner, capsys)
    assert (code, "cloud-runner" in out, "removed" in out) == (22, True, False)
