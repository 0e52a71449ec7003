"""A dispatched run resolves its plan's access mode on the runner, and its signed result says how (EVD-1, GATE-1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from access_hosts import Host, bastion, target
from hyops.errors import ConfigError, Effect, HyopsError, PrerequisiteError
from hyops.model.access import ResolvedAccess
from hyops.model.plan import Plan
from hyops.model.vocabulary import ExecutionPlane, Outcome
from hyops.testing.runs import plan_of, spec_of, step
from waiting import until

FACTS = {
    "source": "onprem-db",
    "target": "cloud-db",
    "members": [
        {"host": "onprem-db", "site": "onprem", "address": "127.0.0.2"},
        {"host": "cloud-db", "site": "cloud", "address": "127.0.0.1"},
    ],
}


@dataclass
class Way:
    """A runner, the bastion that it is to use, and the target behind that."""

    runner: Any
    jump: Host
    db: Host

    def configure(self, **access: Any) -> None:
        """The runner's own definition of access."""
        login = {"user": "root", "key_file": str(self.db.folder / "client"), "port": self.db.port}
        here = {
            "address": "127.0.0.1", "port": self.jump.port, "user": "root", "site": "edge",
            "key_file": str(self.jump.folder / "client"), "known_hosts": str(self.jump.folder / "known_hosts"),
        }  # fmt: skip
        known = {"bastions": {"jump": here}, "bastion": "jump", "ready_wait_s": 3.0} | access
        login["known_hosts"] = str(self.db.folder / "known_hosts")
        self.runner.configure(options={"access": known, "targets": login})


@pytest.fixture
def way(runner: Any, tmp_path: Path) -> Iterator[Way]:
    """All three, up."""
    db = target(tmp_path / "db")
    jump = bastion(tmp_path / "jump", db.port)
    made = Way(runner, jump, db)
    made.configure()
    try:
        db.start()
        jump.start()
        yield made
    finally:
        jump.stop()
        db.stop()


def plan(plane: ExecutionPlane) -> Plan:
    """One step, on the way to the target."""
    return plan_of([step("a")], inputs=FACTS).model_copy(update={"execution_plane": plane})


def dispatched(way: Way, plane: ExecutionPlane) -> tuple[str, Outcome, ResolvedAccess | None]:
    """Run id, outcome and access of one run."""
    spec = spec_of(plan(plane))

    async def body() -> tuple[str, Outcome, ResolvedAccess | None]:
        async with way.runner.transport().connect("cloud-runner") as session:
            await session.start(spec, {})
            async for _ in session.attach(spec.run_id, 0):
                pass
            result = (await session.collect(spec.run_id)).result
            return spec.run_id, result.outcome, result.access

    return asyncio.run(body())


@pytest.mark.req("EVD-1", "ACC-1", "VOC-3")
@pytest.mark.parametrize("plane", [ExecutionPlane.RUNNER_LOCAL, ExecutionPlane.BASTION_EXPLICIT])
def test_the_signed_result_says_how_the_target_was_reached(way: Way, plane: ExecutionPlane) -> None:
    """The journal's first record and the result carry the resolved mode with every prerequisite."""
    run_id, outcome, access = dispatched(way, plane)

    assert outcome is Outcome.SUCCEEDED
    assert access is not None
    assert (access.plane, access.targets) == (plane, ["cloud-db (127.0.0.1)"])
    assert access.through == (["jump"] if plane is ExecutionPlane.BASTION_EXPLICIT else [])
    assert access.checks[-1].prerequisite == "target-answers"
    first = (way.runner.folders.run(run_id) / "journal.jsonl").read_bytes().partition(b"\n")[0]
    assert json.loads(first)["body"]["access"] == access.body()
    assert (way.jump.connections > 0) is (plane is ExecutionPlane.BASTION_EXPLICIT)


@pytest.mark.req("GATE-1", "ACC-2", "INV-6", "GATE-3")
@pytest.mark.fault(20)
def test_a_run_whose_bastion_is_down_is_refused_before_any_effect(way: Way) -> None:
    """The refusal names the mode; the target, which is up and reachable, is not asked, and nothing was done."""
    way.configure(ready_wait_s=0.3)
    way.jump.stop()
    spec = spec_of(plan(ExecutionPlane.BASTION_EXPLICIT))

    async def body() -> None:
        async with way.runner.transport().connect("cloud-runner") as session:
            with pytest.raises(PrerequisiteError, match="access mode bastion-explicit: bastion-answers"):
                await session.start(spec, {})

    asyncio.run(body())

    assert (way.db.connections, way.runner.effects) == (0, [])


@pytest.mark.req("GATE-1", "ACC-1")
@pytest.mark.parametrize(
    ("access", "kind", "why"),
    [
        ({"bastion": None}, PrerequisiteError, "bastion-defined .*no bastion is named"),
        ({"bastions": {}, "bastion": None, "infer_bastion": True}, PrerequisiteError, "not inferred for test/steps@v1"),
        ({"fallback": "runner-local"}, ConfigError, "options.access: fallback"),
    ],
)
def test_a_runner_without_its_definition_refuses(
    way: Way, access: dict[str, Any], kind: type[HyopsError], why: str
) -> None:
    """Nothing is guessed for a recovery, and a key that hyops does not know stops the run."""
    way.configure(**access)
    spec = spec_of(plan(ExecutionPlane.BASTION_EXPLICIT))

    async def body() -> None:
        async with way.runner.transport().connect("cloud-runner") as session:
            with pytest.raises(kind, match=why):
                await session.start(spec, {})

    asyncio.run(body())

    assert (way.db.connections, way.jump.connections, way.runner.effects) == (0, 0, [])


@pytest.mark.req("RUN-5", "INV-7", "GATE-1", "EVD-1")
def test_a_run_is_cancelled_while_its_access_is_probed(runner: Any) -> None:
    """It is closed at once by a signed result, as cancelled, with nothing touched; whoever started it is told why."""
    runner.configure(options={"slow": True, "effects": str(runner.folder / "effects")})
    spec = spec_of(plan_of([step("a")]))

    async def body() -> None:
        async with runner.transport().connect("cloud-runner") as session:
            starting = asyncio.create_task(session.start(spec, {}))
            await until((runner.folder / "probing").is_fifo, "the probe", 120.0)
            status = await session.cancel(spec.run_id, 1, "operator: wrong service")
            assert (status.state, status.outcome, status.facts["cancel"]) == ("finished", "cancelled", "done")
            with pytest.raises(PrerequisiteError, match="cancelled before it began: operator: wrong service") as told:
                await starting
            assert told.value.effect is Effect.NONE
            result = (await session.collect(spec.run_id)).result
            assert (result.outcome, result.exit_code) == (Outcome.CANCELLED, 130)
            assert (result.reason, result.steps) == ("operator: wrong service", [])

    asyncio.run(body())

    assert runner.effects == []
    assert runner.folders.secrets(spec.run_id) == {}


@pytest.mark.req("GATE-1", "INV-7")
def test_a_target_that_no_probe_understands_closes_the_run_as_refused(way: Way) -> None:
    """A name where an address is needed breaks a probe: the run is closed, not left to crash at each start."""
    facts = {**FACTS, "members": [{**member, "address": "db.example.internal"} for member in FACTS["members"]]}  # type: ignore[dict-item]
    way.configure()
    spec = spec_of(plan_of([step("a")], inputs=facts))

    async def body() -> None:
        async with way.runner.transport().connect("cloud-runner") as session:
            with pytest.raises(PrerequisiteError, match=r"runner-local.*db\.example\.internal"):
                await session.start(spec, {})
            assert (await session.collect(spec.run_id)).result.outcome is Outcome.REFUSED

    asyncio.run(body())

    assert way.runner.effects == []
