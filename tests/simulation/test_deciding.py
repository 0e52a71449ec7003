"""Faults 1 to 9: what must not become a failover, and what must."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from fault_size import FULL, seeds
from hyops.control.decision import evaluate
from hyops.model.decision import Decision
from hyops.model.observed import DecisionInputs
from hyops.model.vocabulary import DecisionType, DrMode, Level, Occasion, Outcome
from hyops.ports.signals import Lost
from simulation.world import VANTAGES, World, policy

MOVES = (DecisionType.FAILOVER, DecisionType.FAILBACK)


def watched(world: World, seconds: float = 5) -> World:
    """A world in which all has been well for a while."""
    world.watch(seconds)
    return world


@pytest.mark.fault(1)
@pytest.mark.req("DEC-4")
@pytest.mark.parametrize("who", VANTAGES)
def test_one_vantage_point_alone_holds(who: str) -> None:
    """One vantage point loses the primary for a minute, the others see it: one hold, reason quorum, no request."""
    world = watched(World())
    world.seen.primary -= {who}
    world.watch(60)
    world.settle()

    assert [d.decision_type for d in world.decisions()] == [DecisionType.HOLD]
    assert "quorum" in world.decisions()[0].rationale
    assert world.disk["requests"].records == {}


@pytest.mark.fault(2)
@pytest.mark.req("DEC-4")
def test_a_broken_path_is_not_a_dead_primary() -> None:
    """All lose the primary while the standby still receives WAL: one hold that says so, no request."""
    world = watched(World())
    world.seen.primary = set()
    world.watch(60)
    world.settle()

    assert [d.decision_type for d in world.decisions()] == [DecisionType.HOLD]
    assert "still receives WAL" in world.decisions()[0].rationale
    assert world.disk["requests"].records == {}


@pytest.mark.fault(2)
@pytest.mark.req("INV-5")
def test_a_standby_that_cannot_be_asked_is_no_proof_of_death() -> None:
    """All lose the primary and nobody can ask the standby: unknown, so nothing is done but a hold."""
    world = watched(World())
    world.seen.dead = {"onprem-db", "cloud-db"}
    world.watch(60)

    assert world.decisions(*MOVES) == []
    assert [d.incident for d in world.decisions()] == ["pg-g1-hold-target-unknown-1"]


@pytest.mark.fault(3)
@pytest.mark.req("DEC-4")
def test_a_partition_that_heals_leaves_a_note() -> None:
    """A full partition of 43 s under a confirm time of 60 s: no promotion, and a record of what would have happened."""
    world = watched(World(service_policy=policy(confirm_for_s=60.0)))
    world.site_dies()
    world.watch(43)
    world.site_lives()
    world.watch(120)

    (hold,) = world.decisions()
    assert hold.decision_type is DecisionType.HOLD
    assert "43.0 s" in hold.rationale
    assert "at 20260131T120105Z, a failover would have been decided" in hold.rationale


@pytest.mark.fault(4)
@pytest.mark.req("DEC-4")
@pytest.mark.parametrize("seed", seeds(2))
def test_gray_failure_decides_at_most_once_per_cooldown(seed: int) -> None:
    """Half of all looks fail at random for minutes (a full run: an hour): never two moves within one cooldown."""
    world = watched(World(seed=seed, service_policy=policy(cooldown_s=20.0, decision_max_age_s=10.0)))
    for _ in range(3600 if FULL else 180):
        world.seen.primary = {v for v in VANTAGES if world.random.random() > 0.5}
        world.seen.wal_age_s = world.random.choice([0.1, 1.5])
        world.watch(1)

    at = [d.timestamp_utc for d in world.decisions(*MOVES)]
    assert len(at) > 1
    assert all((b - a).total_seconds() >= 20 for a, b in itertools.pairwise(at) if a and b)


@pytest.mark.fault(5, 6)
@pytest.mark.req("DEC-3", "INV-5")
def test_what_is_not_known_is_never_acted_on() -> None:
    """Every look ends in an error for two minutes: unknown, so not one move."""
    world = watched(World())
    world.seen.error = set(VANTAGES)
    world.watch(120)

    assert world.decisions() == []


@pytest.mark.req("INV-5")
def test_silence_of_all_vantage_points_is_not_proof() -> None:
    """No sample comes any more although time passes: nothing is decided."""
    world = watched(World())
    world.seen.silent = set(VANTAGES)
    world.site_dies()
    world.watch(120)

    assert world.decisions() == []


@pytest.mark.req("DEC-4")
def test_a_vantage_point_that_is_not_well_has_no_vote() -> None:
    """Two of three lose the primary but say that they are unwell themselves: no quorum, no move."""
    world = watched(World())
    world.seen.primary = {"cloud-runner"}
    world.seen.unwell = {"control", "witness"}
    world.watch(60)

    assert world.decisions(*MOVES) == []


@pytest.mark.fault(7)
@pytest.mark.req("DEC-3")
def test_gaps_break_the_confirm_window() -> None:
    """One bad sample, 90 s of errors, one bad sample: not confirmed."""
    world = watched(World())
    world.site_dies()
    world.watch(0.25)
    world.seen.error = set(VANTAGES)
    world.watch(90)
    world.seen.error = set()
    world.watch(0.25)

    assert world.decisions(*MOVES) == []


@pytest.mark.req("DEC-3")
def test_a_lost_connection_breaks_the_confirm_window() -> None:
    """Every vantage point is dialled anew in the middle of the window: what was seen before does not count."""
    world = watched(World())
    world.site_dies()
    world.watch(0.5)
    for vantage in VANTAGES:
        world.stages[0]["decision"].take(Lost(vantage, "reset"))
    world.watch(0.75)

    assert world.decisions(*MOVES) == []

    world.watch(0.5)

    assert len(world.decisions(*MOVES)) == 1


@pytest.mark.req("DEC-3", "INV-5")
def test_time_confirms_nothing_that_nobody_looks_at() -> None:
    """Two of three connections are lost just before the window is full: the moment in which it would be is no proof."""
    world = watched(World())
    world.site_dies()
    world.watch(1.0)
    assert world.decisions(*MOVES) == []
    for vantage in ("witness", "control"):
        world.stages[0]["decision"].take(Lost(vantage, "reset"))
    world.clock.advance(0.2)
    world.turn(0, "decision")

    assert world.decisions(*MOVES) == []


@pytest.mark.fault(8)
@pytest.mark.req("DEC-4")
def test_a_degraded_target_is_denied_by_name() -> None:
    """The site is lost but the standby lags too far: a decision `deny` that names the check; its request is denied."""
    world = watched(World())
    world.stand()
    world.seen.lag_bytes = 5e6
    world.site_dies()
    world.watch(3)
    world.settle()

    (denied,) = world.decisions(*MOVES)
    assert denied.dr_mode is DrMode.DENY
    assert "lag_bytes" in denied.rationale
    assert [b'"status":"denied"' in data for data in world.disk["requests"].records.values()] == [True]
    assert world.runs() == []


@pytest.mark.fault(8)
def test_a_target_that_recovers_is_used_after_the_cooldown() -> None:
    """Denied, then the lag is gone: one failover, not before the cooldown."""
    world = watched(World())
    world.seen.lag_bytes = 5e6
    world.site_dies()
    world.watch(3)
    world.seen.lag_bytes = 0.0
    world.watch(15)

    first, second = world.decisions(*MOVES)
    assert second.dr_mode is DrMode.WARM_PROMOTE
    assert first.timestamp_utc is not None
    assert second.timestamp_utc is not None
    assert (second.timestamp_utc - first.timestamp_utc).total_seconds() >= 10


@pytest.mark.req("DEC-4")
def test_a_lost_site_is_decided_within_a_second_and_a_half() -> None:
    """With looks each quarter second and a confirm time of 0.8 s, simulated time from loss to decision."""
    world = watched(World())
    lost_at = world.clock.now()
    world.site_dies()
    world.watch(3)

    (made,) = world.decisions()
    assert made.timestamp_utc is not None
    assert (made.timestamp_utc - lost_at).total_seconds() <= 1.5


@pytest.mark.req("DEC-5")
def test_a_decision_replays_byte_for_byte() -> None:
    """Each kind of decision, computed again from its recorded inputs alone, has the same bytes."""
    made: list[tuple[Decision, DecisionInputs]] = []
    for lag, wal in ((0.0, 5.0), (5e6, 5.0), (0.0, 0.1)):
        world = watched(World())
        world.seen.lag_bytes, world.seen.wal_age_s, world.seen.primary = lag, wal, set()
        world.watch(5)
        for decision in world.decisions():
            name = str(decision.inputs_digest).removeprefix("sha256:")
            made.append((decision, DecisionInputs.read(world.disk["inputs"].records[name])))

    assert {(d.decision_type, d.dr_mode) for d, _ in made} == {
        ("failover", "warm_promote"),
        ("failover", "deny"),
        ("hold", None),
    }
    for decision, inputs in made:
        again = evaluate(inputs)
        assert again is not None
        assert again.decision.unsigned() == decision.unsigned()


@pytest.mark.req("DEC-6")
def test_a_maintenance_hold_keeps_still_until_its_end() -> None:
    """A named owner holds the service: a loss is told of once and nothing is done until the hold ends, then it is."""
    world = watched(World())
    world.say_hold(until=world.clock.now() + timedelta(seconds=60))
    world.turn(0, "decision")
    world.site_dies()
    world.watch(50)

    (hold,) = world.decisions()
    assert (hold.decision_type, hold.incident) == (DecisionType.HOLD, "pg-g1-hold-maintenance-1")
    assert "by ada (kernel upgrade); without that a failover would have been decided: onprem-db lost" in hold.rationale

    world.watch(15)

    assert len(world.decisions(*MOVES)) == 1


@pytest.mark.req("LOOP-1", "DEC-4")
@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_a_jump_of_the_wall_clock_decides_nothing(jump_s: float) -> None:
    """The wall clock jumps by a day while all is well, and in the middle of an incident: arithmetic is monotonic."""
    world = watched(World())
    world.clock.jump_wall(jump_s)
    world.watch(30)

    assert world.decisions() == []


@pytest.mark.req("DEC-6")
def test_away_from_home_a_loss_is_a_failback_and_unplanned() -> None:
    """After a failover home comes back and the new primary dies: the way from there is the failback route."""
    world = watched(World())
    world.stand()
    world.site_dies()
    for _ in range(6):
        world.watch(0.5)
        world.settle()
    world.site_lives()
    world.watch(5)
    world.seen.dead = {"cloud-db"}
    world.watch(5)

    made = world.decisions(*MOVES)
    assert [(d.decision_type, d.occasion, d.generation) for d in made] == [
        ("failover", Occasion.UNPLANNED, 1),
        ("failback", Occasion.UNPLANNED, 2),
    ]


@pytest.mark.req("DEC-4", "VOC-4")
def test_a_stable_home_is_recommended_never_triggered() -> None:
    """Away from home with both sides stable: one failback, planned, level recommend, not before `stable_for_s`."""
    world = watched(World())
    world.stand(decision_types=[DecisionType.FAILOVER, DecisionType.FAILBACK], occasions=list(Occasion))
    world.site_dies()
    for _ in range(6):
        world.watch(0.5)
        world.settle()
    world.site_lives()
    world.watch(28)
    early = world.decisions(DecisionType.FAILBACK)
    world.watch(10)
    world.settle()

    (made,) = world.decisions(DecisionType.FAILBACK)
    assert early == []
    assert (made.level, made.occasion) == (Level.RECOMMEND, Occasion.PLANNED)
    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]


@pytest.mark.req("DEC-6", "VOC-5")
def test_an_open_run_keeps_the_service_from_deciding() -> None:
    """While an attempt is open nothing more is decided, however long the incident lasts."""
    world = watched(World())
    world.runners["cloud-runner"].cuts = ["attach"] * 500
    world.stand()
    world.site_dies()
    for _ in range(4):
        world.watch(0.5)
        for name in ("dispatch", "approval", "execution"):
            world.turn(0, name)
    world.watch(60)

    assert len(world.decisions(*MOVES)) == 1
