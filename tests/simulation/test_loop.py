"""The loop from a lost site to one closed run, in simulation: crashes, second instances, lost links."""

from __future__ import annotations

import pytest

from fault_size import seeds
from hyops.control.decision import asked_inputs, operator_decision
from hyops.errors import PrerequisiteError, RunnerBusyError, StaleGenerationError
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, Execution
from hyops.model.observed import Asked
from hyops.model.vocabulary import DecisionType, Occasion, Outcome
from hyops.services.asking import record_once
from simulation.world import KEYS, VERIFIER, World


def effects_of_a_failover() -> int:
    """How many durable effects one failover has, counted rather than guessed."""
    return failed_over(World()).meter.done


def failed_over(world: World) -> World:
    """A lost site, decided, approved by a standing approval, and run."""
    world.stand()
    world.watch(3)
    world.site_dies()
    for _ in range(8):
        world.watch(0.5)
        world.settle()
    return world


@pytest.mark.req("EXE-1", "DEC-6", "LOOP-1")
def test_a_lost_site_ends_in_one_successful_run() -> None:
    """Quorum, request, standing approval, run, outcome: and the loop then knows the new primary."""
    world = failed_over(World())

    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]
    assert world.stages[0]["decision"].mode.primary == "cloud-db"
    assert world.stages[0]["decision"].mode.generation == 2
    assert len(world.runs()) == 1
    assert world.hook.given == [world.outcomes()[0].outcome_id]


@pytest.mark.fault(9, 13)
@pytest.mark.req("LOOP-1", "INV-7")
@pytest.mark.parametrize("crash_after", range(1, effects_of_a_failover() + 1))
def test_a_crash_after_any_effect_changes_nothing(crash_after: int) -> None:
    """Killed after each durable effect of any stage and started again: one decision, one run, one outcome."""
    world = World(seed=crash_after)
    world.meter.crash_after = crash_after

    failed_over(world)

    assert world.crashes == 1
    assert len(world.decisions(DecisionType.FAILOVER)) == 1
    assert len(world.runs()) == 1
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]
    assert world.hook.given == [world.outcomes()[0].outcome_id]


@pytest.mark.fault(12)
@pytest.mark.req("LOOP-1", "EXE-3")
@pytest.mark.parametrize("seed", seeds(12))
def test_two_instances_of_every_stage_make_one_run(seed: int) -> None:
    """Two of each stage, interleaved as the seed says: still one request, one execution, one run, one outcome."""
    world = failed_over(World(seed=seed, instances=2))

    assert len(world.disk["requests"].records) == 1
    assert len(world.disk["executions"].records) == 1
    assert len(world.runs()) == 1
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]


@pytest.mark.fault(12, 13)
@pytest.mark.parametrize("seed", seeds(20))
def test_two_instances_and_crashes_make_one_run(seed: int) -> None:
    """The same with one of the instances killed at an effect that the seed chooses."""
    world = World(seed=seed, instances=2)
    world.meter.crash_after = 1 + seed % effects_of_a_failover()

    failed_over(world)

    assert len(world.runs()) == 1
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]


@pytest.mark.fault(14)
@pytest.mark.req("RUN-5", "VOC-5")
@pytest.mark.parametrize("verb", ["connect", "hello", "start", "attach", "collect"])
def test_a_lost_link_is_neither_success_nor_failure(verb: str) -> None:
    """Cut three times at one verb: the attempt stays open meanwhile, the run goes on, its result arrives once."""
    world = World()
    world.runners["cloud-runner"].cuts = [verb] * 3
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval", "execution"):
        world.turn(0, name)

    assert world.outcomes() == []

    world.settle()

    assert len(world.runs()) == 1
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]


@pytest.mark.fault(14)
def test_a_runner_that_is_never_reached_is_not_success() -> None:
    """The link never comes back after the start: the attempt stays open, visibly, and nothing else may start."""
    world = World()
    world.runners["cloud-runner"].cuts = ["attach"] + ["connect"] * 20
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for _ in range(10):
        for name in ("dispatch", "approval", "execution"):
            world.turn(0, name)
        world.watch(60, judge=False)
        world.turn(0, "decision")

    assert world.outcomes() == []
    assert len(world.runs()) == 1
    assert world.stages[0]["decision"].mode.open_attempt is not None


@pytest.mark.fault(16)
@pytest.mark.req("RUN-3")
def test_a_changed_host_key_closes_the_attempt_as_refused() -> None:
    """Nothing was ever sent, so the attempt can be closed: refused, and nothing runs."""
    world = World()
    world.runners["cloud-runner"].host_key_changed = True

    failed_over(world)

    assert world.runs() == []
    assert {o.outcome for o in world.outcomes()} == {Outcome.REFUSED}
    assert "host key" in str(world.outcomes()[0].reason)


@pytest.mark.fault(16)
def test_a_changed_host_key_after_a_start_closes_nothing() -> None:
    """Once a start may have been sent, a refusal to connect says nothing about the run: it stays open."""
    world = World()
    runner = world.runners["cloud-runner"]
    runner.cuts = ["start"]
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval", "execution"):
        world.turn(0, name)
    runner.host_key_changed = True
    world.settle()

    assert world.outcomes() == []

    runner.host_key_changed = False
    world.settle()

    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]


@pytest.mark.fault(11)
@pytest.mark.req("INV-7")
def test_a_runner_that_refuses_closes_the_attempt() -> None:
    """The runner's own refusal, with no run there, is a closed `refused` with its exit code."""
    world = World()
    world.runners["cloud-runner"].refuses = PrerequisiteError("no disk")

    failed_over(world)

    assert world.runs() == []
    assert [(o.outcome, o.exit_code) for o in world.outcomes()] == [(Outcome.REFUSED, 12)]


@pytest.mark.req("INV-3")
def test_a_stale_epoch_is_tried_again_with_a_fresh_one() -> None:
    """Another executor has used higher epochs on the runner: a fresh number gets through, no second run appears."""
    world = World()
    world.runners["cloud-runner"].epoch = 2

    failed_over(world)

    assert len(world.runs()) == 1


@pytest.mark.req("INV-3")
def test_an_epoch_that_stays_stale_is_refused() -> None:
    """A runner far ahead of this host belongs to somebody else: refused, with the reason."""
    world = World()
    world.runners["cloud-runner"].refuses = StaleGenerationError("epoch 1 is not above 900")

    failed_over(world)

    assert [o.exit_code for o in world.outcomes()] == [StaleGenerationError.exit_code]


def dialled_busy() -> World:
    """A lost site, decided and approved; the runner has no room for the run, each of the times that it is asked."""
    world = World()
    world.runners["cloud-runner"].refuses = RunnerBusyError("8 runs are open, of at most 8 at once: run-1 (running)")
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval", "execution", "execution", "execution"):
        world.turn(0, name)
    return world


@pytest.mark.req("RUN-11", "EXE-1", "INV-7")
def test_a_busy_runner_is_asked_again_until_it_has_room() -> None:
    """It has enough runs for now: the attempt stays open, people are told why, and nobody has to do anything."""
    world = dialled_busy()

    assert (world.outcomes(), world.starts.epoch) == ([], 3)
    assert [told.error for told in world.starts.hindered.values()] == ["RunnerBusyError"]
    assert world.starts.sent == set()
    world.runners["cloud-runner"].refuses = None
    world.settle()
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]
    assert world.starts.hindered == {}
    assert len(world.runs()) == 1


@pytest.mark.req("RUN-11", "EXE-1", "INV-7")
def test_a_runner_that_stays_busy_leaves_a_refused_attempt() -> None:
    """Its execution expires, and no start of it is on its way: refused, nothing touched, nobody has to look."""
    world = dialled_busy()

    world.clock.advance(86400)
    world.turn(0, "execution")

    assert [o.outcome for o in world.outcomes()] == [Outcome.REFUSED]
    assert world.runs() == []


@pytest.mark.fault(18)
@pytest.mark.req("VOC-5", "RUN-6")
@pytest.mark.parametrize("forgery", ["unsigned", "another-run", "another-plan", "wild-generation", "edited"])
def test_a_forged_success_is_unknown_and_blocks(forgery: str) -> None:
    """A result that does not prove itself moves nothing: `unknown`, and the service waits for a person."""
    changes = {
        "unsigned": {"signature": None},
        "another-run": {"run_id": "run-x"},
        "another-plan": {"plan_digest": "sha256:" + "0" * 64},
        "wild-generation": {"generation_after": 9},
        "edited": {"primary_after": "onprem-db"},
    }
    world = World()
    world.runners["cloud-runner"].forge = lambda result: result.model_copy(update=changes[forgery])

    failed_over(world)
    world.watch(60)
    world.settle()

    assert [o.outcome for o in world.outcomes()] == [Outcome.UNKNOWN]
    assert world.stages[0]["decision"].mode.uncertain
    assert len(world.runs()) == 1
    assert len(world.decisions(DecisionType.FAILOVER)) == 1


@pytest.mark.req("EXE-1")
def test_dry_run_records_and_dials_nothing() -> None:
    """The default mode writes an attempt `dry-run-ready` and never opens a connection."""
    world = failed_over(World(mode="dry-run"))

    assert [a.status for a in world.records("attempts", Attempt)] == ["dry-run-ready"]
    assert world.runs() == []
    assert world.outcomes() == []


@pytest.mark.fault(11)
@pytest.mark.req("INV-4")
def test_a_changed_plan_is_refused_after_approval() -> None:
    """One byte of the stored plan changes after it was approved: refused, nothing runs."""
    world = World()
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval"):
        world.turn(0, name)
    (name,) = world.disk["plans"].records
    world.disk["plans"].records[name] = world.disk["plans"].records[name].replace(b"native/fence", b"native/fancy")
    world.turn(0, "execution")

    assert world.runs() == []
    assert ["not the approved one" in r.reason for r in world.refusals("execution")] == [True]


@pytest.mark.req("DEC-6")
def test_a_failed_run_leads_to_one_more_decision_after_the_cooldown() -> None:
    """The incident goes on after a failed attempt: a second decision, not before the cooldown, with its own slot."""
    world = World()
    world.runners["cloud-runner"].outcome, world.runners["cloud-runner"].exit_code = Outcome.FAILED, 20
    failed_over(world)
    first = len(world.decisions(DecisionType.FAILOVER))
    world.runners["cloud-runner"].outcome, world.runners["cloud-runner"].exit_code = Outcome.SUCCEEDED, 0
    for _ in range(12):
        world.watch(1)
        world.settle()

    assert first == 1
    assert [d.incident for d in world.decisions(DecisionType.FAILOVER)] == ["pg-g1-failover-1", "pg-g1-failover-2"]
    assert [o.outcome for o in world.outcomes()] == [Outcome.FAILED, Outcome.SUCCEEDED]


def asked_by(world: World, who: str) -> None:
    """Somebody asks for a planned switch, as `hyops decision request` does."""
    asked = Asked(
        decision_type=DecisionType.FAILOVER, occasion=Occasion.PLANNED, rationale="kernel upgrade", requested_by=who
    )
    known = asked_inputs(world.policy, world.stages[0]["decision"].mode, asked, world.clock.now())
    decision = sign_record(operator_decision(known), KEYS["decision"])
    record_once(world.disk["decisions"], world.disk["inputs"], decision, known, VERIFIER)


@pytest.mark.fault(29)
@pytest.mark.req("EXE-3")
def test_a_second_execution_waits_for_the_first_and_is_then_refused() -> None:
    """Two approved moves of one service: one runs, the other waits, and is stale when the first has ended."""
    world = World()
    world.runners["cloud-runner"].cuts = ["attach"]
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    world.turn(0, "dispatch")
    asked_by(world, "carl")
    world.turn(0, "dispatch")
    for request in world.records("requests", DispatchRequest):
        world.clock.advance(0.001)
        world.say_yes(dispatch_id=request.dispatch_id, request_digest=request.digest())
    world.turn(0, "approval")
    world.turn(0, "execution")

    assert len(world.disk["executions"].records) == 2
    assert len(world.disk["attempts"].records) == 1

    world.settle()

    assert len(world.runs()) == 1
    assert ["stale" in r.reason for r in world.refusals("execution")] == [True]


@pytest.mark.req("APR-1")
def test_who_asked_for_it_cannot_be_the_only_approver() -> None:
    """Ada asks for a planned switch and approves it: it waits until Bob approves it too."""
    world = World()
    world.watch(3)
    asked_by(world, "ada")
    world.turn(0, "dispatch")
    world.say_yes("ada")
    world.settle()

    assert world.runs() == []

    world.say_yes("bob")
    world.settle()

    assert len(world.runs()) == 1


@pytest.mark.req("DEC-6")
def test_the_outage_of_a_planned_switch_that_was_undone_is_no_incident() -> None:
    """Nobody serves for 12 s because a planned run hangs; it fails and the old primary serves again: no failover. What
    stays bad after the run is decided as ever."""
    world = World()
    world.watch(3)
    runner = world.runners["cloud-runner"]
    runner.cuts, runner.outcome = ["attach"], Outcome.FAILED
    asked_by(world, "ada")
    world.turn(0, "dispatch")
    world.say_yes("bob")
    world.turn(0, "approval")
    world.turn(0, "execution")
    world.site_dies()
    world.watch(12)
    assert world.outcomes() == []

    world.turn(0, "execution")
    world.turn(0, "decision")
    assert [o.outcome for o in world.outcomes()] == [Outcome.FAILED]
    assert [d.requested_by for d in world.decisions(DecisionType.FAILOVER)] == ["ada"]

    world.watch(5)
    assert len(world.decisions(DecisionType.FAILOVER)) == 2


@pytest.mark.req("DSP-3")
def test_a_synthetic_record_leaves_no_trace_when_it_is_removed() -> None:
    """The documented check: dropped in by hand, it becomes a waiting request; both removed, it can be done again."""
    world = World()
    data = b'{"decision_id":"synthetic-1","decision_type":"cutover","rationale":"check","checks":[]}'
    for _ in range(2):
        world.disk["decisions"].records["synthetic-1"] = data
        world.turn(0, "dispatch")
        (request,) = world.records("requests", DispatchRequest)

        assert request.status == "awaiting-approval"

        world.disk["decisions"].records.clear()
        world.disk["requests"].records.clear()
        world.turn(0, "dispatch")


@pytest.mark.req("EXE-1", "EXE-3")
def test_a_lost_service_goes_before_a_planned_move_of_it() -> None:
    """Both are approved and neither has begun: the run that the service needs now gets its one place."""
    world = World()
    world.stand()
    world.watch(3)
    asked_by(world, "bob")
    world.turn(0, "dispatch")
    world.say_yes("ada")
    world.turn(0, "approval")
    world.site_dies()
    world.watch(2)
    world.turn(0, "dispatch")
    world.turn(0, "approval")
    assert len(world.disk["executions"].records) == 2

    world.settle()

    (first, *later) = world.records("attempts", Attempt)
    executions = {e.execution_id: e for e in world.records("executions", Execution)}
    assert executions[first.source_execution_id].occasion is Occasion.UNPLANNED
    assert later == []
    assert [r.reason.split(":")[0] for r in world.refusals("execution")] == ["stale"]
