"""The executor takes a run's state home with its outcome: once over any crash, and evidence comes after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyops.model.decision import Decision
from hyops.model.dispatch import Route
from hyops.model.dsse import sign_record
from hyops.model.execution import AttemptOutcome
from hyops.model.plan import Plan
from hyops.model.run import RunResult, StepOutcome
from hyops.model.state_change import StateReturn
from hyops.services.returning import ReturnedStates
from simulation import world as simulated
from simulation.world import KEYS, Crash, World
from state_kit import REF, Root, net, state


def leaves(result: RunResult) -> RunResult:
    """A runner whose step left a state; signed again."""
    at = result.ended_at.isoformat()
    step = {"step_id": "net", "outcome": "succeeded", "started_at": at, "ended_at": at, "elapsed_s": 1.0,
            "outputs": {"cidr": "new"},
            "state": {"state_ref": REF, "base_generation": 1, "status": "ok", "published": ["cidr"]}}  # fmt: skip
    made = result.model_copy(update={"steps": [StepOutcome.of(step)], "signature": None})
    return sign_record(made, KEYS[f"runner:{result.runner_ref}"])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Root]:
    """A loop whose failover plan keeps a state, at its first generation."""
    root, plain = Root(tmp_path / "lab"), simulated.plan_for
    root.put(state(1, cidr="old"))
    kept = root.plan()

    def plan_for(route: Route, decision: Decision) -> Plan:
        plan = plain(route, decision)
        return plan.model_copy(update={"steps": [*plan.steps, net()], "bundle": kept.bundle})

    monkeypatch.setattr(simulated, "plan_for", plan_for)
    world = World()
    for runner in world.runners.values():
        runner.forge = leaves
    return world, root


def fail_over(world: World, root: Root) -> None:
    """The site dies; everything happens, over every crash, until nothing changes any more."""
    root.plans, root.clock = world.disk["plans"], world.clock
    world.states = root.returns
    world.boot(0)
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.settle()


@pytest.mark.req("RUN-6", "ROOT-5", "INV-7")
@pytest.mark.parametrize(
    "boundary", ["", "locked", "history:written", "history:named", "current:named", "current:durable"]
)
def test_taken_once_over_a_crash(site: tuple[World, Root], boundary: str) -> None:
    """The state is one generation on, its evidence is made after it, and no crash makes two or none of either."""
    world, root = site
    left = [boundary]

    def dies(name: str) -> None:
        if name in left:
            left.remove(name)
            raise Crash

    root.at_boundary = dies
    fail_over(world, root)
    assert left == ([""] if not boundary else [])
    assert world.crashes == bool(boundary)
    assert [kept.state.outputs["cidr"] for kept in root.states.history(REF)] == ["old", "new"]
    (outcome,) = world.outcomes()
    assert world.hook.given == [outcome.outcome_id]
    assert b'"applied"' in root.returns.attachments(outcome)["state-return.json"]


@pytest.mark.req("RUN-6", "ROOT-5")
def test_evidence_never_comes_before_the_state(site: tuple[World, Root], monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed right after the outcome was recorded, with the runner away since: the state is taken all the same."""
    world, root = site
    take, asked, away = ReturnedStates.take, list[bool](), world.runners["cloud-runner"].cuts

    def dies(self: ReturnedStates, outcome: AttemptOutcome) -> StateReturn | None:
        asked.append("collect" in away)
        if len(asked) == 1:
            away.append("collect")
            raise Crash
        return take(self, outcome)

    monkeypatch.setattr(ReturnedStates, "take", dies)
    fail_over(world, root)
    assert asked[:2] == [False, True]  # the second time before the runner was asked again
    (outcome,) = world.outcomes()
    now = root.now()
    assert now is not None
    assert now.outputs == {"cidr": "new"}
    assert now.run_id == outcome.run_id
