"""A burst that is open stands in no failover's way: it is decided beside it, and one runs at a time (EXE-3)."""

from __future__ import annotations

import pytest

from hyops.control.decision import decision_of, operator_decision
from hyops.control.giving_way import blocking, superseded
from hyops.errors import StaleGenerationError
from hyops.model.dispatch import DispatchRequest
from hyops.model.observed import Asked, DecisionInputs, Mode
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import DecisionType, Occasion, Outcome, RequestStatus
from hyops.services.desk import Desk
from hyops.testing.clock import EPOCH
from hyops.testing.evidence import VERIFIER
from simulation.test_burst import Loaded, bursting, bursts, inputs_of, loaded
from simulation.world import World, policy


def running(service_policy: ServicePolicy | None = None) -> Loaded:
    """A burst runs, and goes on for as long as the runner's log is cut off."""
    world = loaded(service_policy)
    world.watch(4)
    world.runners["cloud-runner"].cuts = ["attach"] * 60
    for name in ("dispatch", "approval"):
        world.turn(0, name)
    world.say_yes()
    for name in ("approval", "execution", "decision"):
        world.turn(0, name)
    return world


def waiting() -> Loaded:
    """A burst waits for approval while the site dies, and the failover waits too."""
    world = loaded()
    world.watch(4)
    world.settle()
    world.site_dies()
    world.watch(3)
    world.settle()
    return world


def requests(world: World, kind: DecisionType) -> list[DispatchRequest]:
    """What was asked for."""
    return [r for r in world.records("requests", DispatchRequest) if r.decision_type is kind]


def failovers(world: World) -> list[str]:
    """What was decided."""
    return [decision.decision_id for decision in world.decisions(DecisionType.FAILOVER)]


@pytest.mark.req("EXE-3", "DEC-4", "DEC-5", "INV-3")
def test_a_failover_is_decided_while_a_burst_runs_and_runs_after_it() -> None:
    """Decided, asked for and approved beside the open run; not begun beside it; begun when it has ended, once."""
    world = running()
    world.site_dies()
    world.watch(4)
    beside = failovers(world)
    for name in ("dispatch", "approval"):
        world.turn(0, name)
    world.say_yes()
    for name in ("approval", "execution"):
        world.turn(0, name)
    under_way = len(world.runs())
    decided = inputs_of(world, world.decisions(DecisionType.FAILOVER)[0])
    again = decision_of(decided)
    world.runners["cloud-runner"].cuts = []
    world.settle()
    world.turn(0, "decision")
    world.watch(20)

    assert (len(beside), under_way) == (1, 1)
    assert decided.mode.open_type is DecisionType.BURST
    assert again is not None
    assert again.unsigned() == world.decisions(DecisionType.FAILOVER)[0].unsigned()
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED, Outcome.SUCCEEDED]
    assert (world.stages[0]["decision"].mode.primary, failovers(world)) == ("cloud-db", beside)


@pytest.mark.req("EXE-3", "DEC-4")
def test_the_end_of_a_burst_is_no_end_of_a_failover() -> None:
    """A burst succeeds while a failover waits for its approval: the failover is still open, and is not decided anew."""
    world = running(bursting(cooldown_s=2.0))
    world.site_dies()
    world.watch(3)
    world.runners["cloud-runner"].cuts = []
    world.settle()
    world.turn(0, "decision")
    world.watch(30)

    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]
    assert len(failovers(world)) == 1


@pytest.mark.req("EXE-3", "DEC-6")
def test_nothing_else_is_decided_while_a_burst_runs() -> None:
    """Neither a further step nor, away from home, a way back: these wait for its end as ever."""
    world = running()
    world.watch(30)
    mode = Mode(generation=1, primary="onprem-db", open_attempt="a", open_type=DecisionType.BURST)

    assert [d.decision_type for d in world.decisions()] == [DecisionType.BURST]
    assert blocking(mode, Occasion.PLANNED) == "attempt a is open"
    assert blocking(mode, Occasion.UNPLANNED) is None


@pytest.mark.req("EXE-3", "VOC-5")
@pytest.mark.parametrize("kind", [None, DecisionType.FAILOVER, DecisionType.FAILBACK])
def test_any_other_open_run_blocks_as_ever(kind: DecisionType | None) -> None:
    """A move, or a run of which nobody knows what it is; and a burst that ended unknown blocks too."""
    mode = Mode(generation=1, primary="onprem-db", open_attempt="a", open_type=kind)
    unknown = Mode(generation=1, primary="onprem-db", uncertain="attempt a ended unknown", open_type=DecisionType.BURST)

    assert blocking(mode, Occasion.UNPLANNED) == "attempt a is open"
    assert blocking(unknown, Occasion.UNPLANNED) == "attempt a ended unknown"


@pytest.mark.req("EXE-3", "APR-3")
def test_a_person_may_ask_for_a_failover_while_a_burst_runs() -> None:
    """An unplanned one is a decision; a planned one is refused, and says which attempt is open."""
    mode = Mode(generation=1, primary="onprem-db", open_attempt="a", open_type=DecisionType.BURST)

    def asked(occasion: Occasion) -> DecisionInputs:
        said = Asked(decision_type=DecisionType.FAILOVER, occasion=occasion, rationale="dark", requested_by="ada")
        return DecisionInputs(at=EPOCH, now_s=0.0, policy=policy(), mode=mode, asked=said)

    assert operator_decision(asked(Occasion.UNPLANNED)).decision_type is DecisionType.FAILOVER
    with pytest.raises(StaleGenerationError, match="pg: attempt a is open"):
        operator_decision(asked(Occasion.PLANNED))


@pytest.mark.req("EXE-3", "APR-1", "INV-7", "UX-2")
def test_a_burst_that_waits_for_approval_gives_way() -> None:
    """Its request is closed with the reason, for good: a yes to it runs nothing, the desk says the same; the failover
    runs when it is approved."""
    world = waiting()
    (burst,), (move,) = requests(world, DecisionType.BURST), requests(world, DecisionType.FAILOVER)
    world.say_yes_to(burst.dispatch_id)
    world.settle()
    none = world.runs()
    desk = Desk(
        requests=world.disk["requests"],
        plans=world.disk["plans"],
        approvals=world.disk["approvals"],
        executions=world.disk["executions"],
        policy=world.approval_policy,
        approval_verifier=world.approvers,
        verifier=VERIFIER,
        clock=world.clock,
    )
    told = {w.request.dispatch_id: (w.state, w.reason) for w in desk.requests()}
    world.say_yes_to(move.dispatch_id)
    world.settle()
    said = f"it gives way to {move.dispatch_id}: an unplanned failover of pg"

    assert none == []
    assert [(r.subject_id, r.reason) for r in world.refusals("approval")] == [(burst.dispatch_id, said)]
    assert (told[burst.dispatch_id], told[move.dispatch_id][0]) == (("refused", said), "waiting")
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]
    assert len(bursts(world)) == 1


@pytest.mark.req("EXE-3", "INV-7")
def test_a_burst_that_was_approved_and_has_not_begun_gives_way() -> None:
    """Its execution lies there when the failover is asked for: the executor refuses it with the reason, and dials for
    the failover alone."""
    world = loaded()
    world.watch(4)
    for name in ("dispatch", "approval"):
        world.turn(0, name)
    world.say_yes()
    world.turn(0, "approval")
    world.site_dies()
    world.watch(3)
    world.turn(0, "dispatch")
    (move,) = requests(world, DecisionType.FAILOVER)
    world.turn(0, "execution")
    none = world.runs()
    world.say_yes_to(move.dispatch_id)
    world.settle()

    assert none == []
    assert [r.reason for r in world.refusals("execution")] == [
        f"it gives way to {move.dispatch_id}: an unplanned failover of pg"
    ]
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]
    assert world.stages[0]["decision"].mode.primary == "cloud-db"


@pytest.mark.req("EXE-3")
@pytest.mark.parametrize(
    "changes",
    [
        {"status": RequestStatus.DENIED},
        {"status": RequestStatus.EXPIRED},
        {"occasion": Occasion.PLANNED},
        {"decision_type": DecisionType.BURST},
        {"service": "mail"},
        {"generation": 2},
        {"target_env": "prod"},
        {"before": True},
        {"late": True},
    ],
)
def test_a_burst_gives_way_to_nothing_else(changes: dict[str, object]) -> None:
    """A denied or planned move, one of another service, generation or environment, one of before or too late."""
    world = waiting()
    (burst,), (move,) = requests(world, DecisionType.BURST), requests(world, DecisionType.FAILOVER)
    wrong = dict(changes)
    if wrong.pop("before", None):
        wrong["timestamp_utc"] = burst.timestamp_utc.replace(year=2000)
    if wrong.pop("late", None):
        wrong["timestamp_utc"] = burst.expires_at

    assert superseded(burst, [burst, move.model_copy(update=wrong)]) is None
    assert superseded(burst, [burst, move]) is not None
    assert superseded(move, [burst, move]) is None
