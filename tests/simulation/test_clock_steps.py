"""Times of the policy are on the monotonic clock: the wall clock may step as it likes (DEC-4, fault 4)."""

from __future__ import annotations

import itertools

import pytest

from fault_size import FULL, seeds
from hyops.model.vocabulary import DecisionType
from simulation.world import VANTAGES, World, policy

MOVES = (DecisionType.FAILOVER, DecisionType.FAILBACK)
COOLDOWN_S = 20.0


@pytest.mark.fault(4)
@pytest.mark.req("DEC-4", "LOOP-1")
@pytest.mark.parametrize("seed", seeds(2))
def test_gray_failure_under_steps_of_the_clock_decides_at_most_once_per_cooldown(seed: int) -> None:
    """Half of all looks fail for minutes (a full run: an hour) while the clock steps an hour or a day to and fro: two
    moves are never closer than the cooldown, by the clock that does not step."""
    world = World(seed=seed, service_policy=policy(cooldown_s=COOLDOWN_S, decision_max_age_s=10.0))
    world.watch(5)
    made_s: dict[str, float] = {}
    for second in range(3600 if FULL else 180):
        world.seen.primary = {v for v in VANTAGES if world.random.random() > 0.7}
        world.seen.wal_age_s = world.random.choice([0.1, 1.5, 1.5])
        if second % 30 == 15:
            world.clock.jump_wall(world.random.choice([-86400.0, -3600.0, 3600.0, 86400.0]))
        world.watch(1)
        for decision in world.decisions(*MOVES):
            made_s.setdefault(decision.decision_id, world.clock.monotonic())

    assert len(made_s) > 1
    assert all(b - a >= COOLDOWN_S - 1 for a, b in itertools.pairwise(sorted(made_s.values())))


@pytest.mark.req("DEC-4", "LOOP-1")
@pytest.mark.parametrize("jump_s", [-86400.0, -3600.0, 3600.0, 86400.0])
def test_a_loss_is_decided_after_a_step_of_the_clock(jump_s: float) -> None:
    """The clocks step, and half a minute later the site dies: decided as ever, not blind for the rest of the day."""
    world = World()
    world.watch(5)
    world.clock.jump_wall(jump_s)
    world.watch(30)
    world.site_dies()
    world.watch(3)

    assert len(world.decisions(*MOVES)) == 1


@pytest.mark.req("DEC-4", "LOOP-1")
@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_a_step_of_the_clock_shortens_no_confirm_time(jump_s: float) -> None:
    """In the middle of a confirm window of a minute: nothing before the minute is over."""
    world = World(service_policy=policy(confirm_for_s=60.0))
    world.watch(5)
    world.site_dies()
    world.watch(20)
    world.clock.jump_wall(jump_s)
    world.watch(38)

    assert world.decisions(*MOVES) == []


@pytest.mark.req("DEC-4", "LOOP-1")
@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_a_step_of_the_clock_shortens_no_stable_time(jump_s: float) -> None:
    """Away, home has been stable for ten of thirty seconds: no failback before the thirty are over."""
    world = World()
    world.watch(5)
    world.stand()
    world.site_dies()
    for _ in range(6):
        world.watch(0.5)
        world.settle()
    world.site_lives()
    world.watch(10)
    world.clock.jump_wall(jump_s)
    world.watch(18)

    assert world.decisions(DecisionType.FAILBACK) == []
    world.watch(60)
    assert len(world.decisions(DecisionType.FAILBACK)) == 1


@pytest.mark.req("DEC-4", "LOOP-1")
def test_a_record_from_a_clock_that_was_set_back_lengthens_no_cooldown() -> None:
    """Denied; the clock goes back a day and the service starts anew, so its own record is from tomorrow: it counts as
    made now, and the failover is decided a cooldown later, not a day."""
    world = World()
    world.watch(5)
    world.seen.lag_bytes = 5e6
    world.site_dies()
    world.watch(3)
    world.clock.jump_wall(-86400.0)
    world.boot(0, "decision")
    world.turn(0, "decision")
    world.seen.lag_bytes = 0.0
    world.watch(30)

    assert [d.dr_mode for d in world.decisions(*MOVES)] == ["warm_promote", "deny"]
