"""From a runner's job to the authority: the real job lays the state out, runs, signs, and what it left is taken."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hyops.adapters.clock_system import SystemClock
from hyops.compose_access import run_access
from hyops.control.execution import attempt_of, closed_by_result
from hyops.model import canonical
from hyops.model.execution import AttemptOutcome
from hyops.model.module_state import state_path
from hyops.model.plan import Plan
from hyops.model.run import RunResult
from hyops.runner.folders import write_file
from hyops.services.runner_job import JobParts, run_job
from hyops.testing.drivers import Scripted
from hyops.testing.evidence import APPROVALS, STAGES, VERIFIER
from hyops.testing.runs import spec_of
from staging_kit import config, folders_of
from state_kit import REF, Root, state


def ran(folder: Path, root: Root, plan: Plan, driver: Scripted) -> AttemptOutcome:
    """The outcome of a run of this plan by the real job process, as the executor records it."""
    folder.mkdir()
    made = config(folder, host_sites={})
    folders, spec = folders_of(made), spec_of(plan)
    for name, digest in plan.bundle.items():
        data = (root.path / name).read_bytes()
        assert canonical.digest_bytes(data) == digest
        write_file(folders.cas / digest.removeprefix("sha256:"), data)
    folders.raise_seen(spec.service, generation=spec.generation, epoch=spec.epoch)
    folders.run(spec.run_id).mkdir(mode=0o700)
    write_file(folders.run(spec.run_id) / "spec.json", canonical.encode(spec.body()))
    signer, drivers = STAGES["runner:cloud-runner"], {"platform/net": driver}
    parts = JobParts(SystemClock(), signer, VERIFIER, APPROVALS, lambda _: drivers, run_access(made))
    assert run_job(made, spec.run_id, parts) == 0
    result = RunResult.read((folders.run(spec.run_id) / "result.json").read_bytes())
    now = datetime.now(UTC)
    return closed_by_result(attempt_of(spec.execution, "dispatch", now), result, VERIFIER, now)


@pytest.mark.req("RUN-6", "ROOT-3", "MOD-1")
def test_what_a_run_left_comes_home(tmp_path: Path) -> None:
    """Without a state, with one, and with one that others moved on meanwhile; only what is published comes home."""
    root = Root(tmp_path / "lab")
    driver = Scripted(outputs={"net": {"cidr": "10.1.0.0/16", "private": "stays"}})
    assert root.one(ran(tmp_path / "first", root, root.plan(), driver)).generation == 1
    plan = root.plan()
    assert list(plan.bundle) == [state_path(REF)[0]]
    outcome = ran(tmp_path / "second", root, plan, Scripted(outputs={"net": {"cidr": "10.2.0.0/16"}}))
    root.put(state(2, cidr="10.1.0.0/16", gateway="moved on"))
    change = root.one(outcome)
    assert (change.what, change.generation) == ("merged", 3)
    now = root.now()
    assert now is not None
    assert now.outputs == {"cidr": "10.2.0.0/16", "gateway": "moved on"}
    assert "stays" not in json.dumps(now.body())


@pytest.mark.req("RUN-6", "INV-10")
@pytest.mark.fault(18, 21)
def test_a_secret_that_a_driver_publishes_stays_out(tmp_path: Path) -> None:
    """The runner masks what has the form of a secret, and neither the mask nor the value becomes state."""
    root = Root(tmp_path / "lab")
    driver = Scripted(outputs={"net": {"cidr": {"password": "hunter2-canary"}}})
    change = root.one(ran(tmp_path / "run", root, root.plan(), driver))
    assert (change.what, change.reason) == ("refused", "output cidr has, or is, a secret")
    assert root.now() is None
    assert "hunter2" not in root.text()


@pytest.mark.req("RUN-6")
def test_a_state_that_is_none_refuses_the_run(tmp_path: Path) -> None:
    """A damaged state in the bundle stops the run before any effect, and nothing comes home."""
    root = Root(tmp_path / "lab")
    plan, driver = root.plan(), Scripted()
    place = root.path / state_path(REF)[0]
    place.parent.mkdir(parents=True)
    place.write_bytes(b'{"generation": 9}')
    damaged = plan.model_copy(update={"bundle": {state_path(REF)[0]: canonical.digest_bytes(place.read_bytes())}})
    outcome = ran(tmp_path / "run", root, damaged, driver)
    assert outcome.exit_code == 16, outcome.reason
    assert driver.effects == []
    root.plans.create(damaged.digest().removeprefix("sha256:"), canonical.encode(damaged.body()))
    assert root.returns.take(outcome) is None
