"""The wall clock of a host steps hours ahead: nothing that waits is closed, and nothing doubtful runs (LOOP-1)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hyops.model.approval import ApprovalPolicy
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, Execution
from hyops.model.vocabulary import Outcome
from hyops.ports.clock import Clock
from hyops.ports.transport import ClockSeen
from hyops.services.pulse import Pulse
from hyops.services.steady_clock import ALONE_S, KEPT_S, Known, SteadyClock
from simulation.test_last_look import approved, back, cut_off, held, hindrances, reasons, turns
from simulation.world import World, policy

HOURS_S = 3 * 3600.0
WAITS = ("decided", "asked", "approved", "recorded")
"""What waits for the dispatcher, for people, for the executor, and for a runner."""
FOLLOWING = ("dispatch", "approval", "execution")


class Memory:
    """Outlives a process."""

    def __init__(self) -> None:
        self.known: Known | None = None

    def load(self) -> Known | None:
        """What was saved last."""
        return self.known

    def save(self, state: Known) -> None:
        """Keep it."""
        self.known = state


class Stepping(World):
    """Each stage judges by a clock that knows when it stepped. `kept`: the kernel says that NTP keeps it."""

    def __init__(self, **how: Any) -> None:
        self.kept = False
        self.memories: dict[tuple[int, str], Memory] = {}
        super().__init__(**how)

    def clock_of(self, index: int, name: str) -> Clock:
        """Anew for each process, with what the last one knew."""
        memory = self.memories.setdefault((index, name), Memory())
        return SteadyClock(self.clock, memory, boot_id="b", synced=lambda: self.kept, pulse=Pulse())


def waiting(what: str, **how: Any) -> Stepping:
    """A loop in which something waits."""
    world = Stepping(service_policy=policy(decision_max_age_s=1800.0), **how)
    world.watch(3)
    world.site_dies()
    world.watch(2)
    assert len(world.records("decisions", Decision)) == 1
    if what == "decided":
        return world
    turns(world, "dispatch", "approval")
    if what == "asked":
        return world
    world.say_yes("ada")
    turns(world, "approval")
    if what == "recorded":
        cut_off(world)
    return world


def passed(world: World, rounds: int = 3) -> World:
    """Every stage but the deciding one has its turns."""
    for _ in range(rounds):
        turns(world, *FOLLOWING)
    return world


def closed(world: World) -> int:
    """How much was ended for good."""
    return sum(len(world.refusals(stage)) for stage in FOLLOWING) + len(world.outcomes())


def ran(world: World) -> bool:
    """Once, to its end."""
    return ([o.outcome for o in world.outcomes()], len(world.runs())) == ([Outcome.SUCCEEDED], 1)


def goes_on(world: World, what: str) -> World:
    """Approved where it was not, with its runner reached."""
    passed(world, 1)
    if what in ("decided", "asked"):
        world.say_yes("ada")
    return passed(back(world))


@pytest.mark.req("LOOP-1", "LOOP-2", "INV-7")
@pytest.mark.fault(4, 13)
@pytest.mark.parametrize("restarted", [False, True], ids=["runs on", "restarted"])
@pytest.mark.parametrize("what", WAITS)
def test_a_step_that_is_undone_has_ended_nothing(what: str, restarted: bool) -> None:
    """Three hours ahead for some minutes, with every stage begun anew in the middle of it or not: nothing is closed and
    nothing begins; the clock is set right, and it runs."""
    world = waiting(what)
    world.clock.jump_wall(HOURS_S)
    for _ in range(3):
        world.clock.advance(60)
        world.runners["cloud-runner"].cuts = []
        if restarted:
            world.boot(0)
        passed(world)
        assert (closed(world), world.runs()) == (0, [])
    world.clock.jump_wall(-HOURS_S)

    assert ran(goes_on(world, what))


@pytest.mark.req("LOOP-1", "LOOP-2")
@pytest.mark.fault(4)
@pytest.mark.parametrize("kept", [True, False], ids=["NTP", "alone"])
@pytest.mark.parametrize("what", WAITS)
def test_a_step_that_stands_ends_what_is_over(what: str, kept: bool) -> None:
    """The machine was paused for three hours: what is over is closed once that is confirmed, and never runs."""
    world = waiting(what)
    world.clock.jump_wall(HOURS_S)
    passed(world)
    world.kept = kept
    world.clock.advance(KEPT_S if kept else ALONE_S)
    world.runners["cloud-runner"].cuts = []
    passed(world)

    assert (closed(world), world.runs()) == (1, [])
    world.clock.jump_wall(-HOURS_S)
    assert (closed(passed(world)), world.runs()) == (1, [])


@pytest.mark.req("LOOP-1")
@pytest.mark.parametrize("what", WAITS)
def test_what_is_not_over_by_either_time_runs(what: str) -> None:
    """A step of two minutes, and ten to live: nothing waits for anything."""
    world = waiting(what)
    world.clock.jump_wall(120)

    assert ran(goes_on(world, what))


@pytest.mark.req("LOOP-1", "LOOP-2")
@pytest.mark.parametrize("what", WAITS)
def test_what_is_over_by_both_times_is_closed(what: str) -> None:
    """The step is in doubt; that the hour before it has passed is not."""
    world = waiting(what)
    world.clock.advance(3600)
    world.clock.jump_wall(HOURS_S)
    passed(world)

    assert (closed(world), world.runs()) == (1, [])


@pytest.mark.req("LOOP-1", "APR-1")
def test_a_no_is_heard_in_the_doubt() -> None:
    """It needs no time: closed, by whom and why."""
    for what in ("asked", "recorded"):
        world = waiting(what)
        world.clock.jump_wall(HOURS_S)
        world.say_yes("ada", "reject", note="no")
        passed(world)
        said = reasons(world) + [refusal.reason for refusal in world.refusals("approval")]

        assert ["rejected by ada" in str(why) for why in said] == [True], what


@pytest.mark.req("LOOP-1", "APR-1")
def test_a_yes_is_not_called_too_old_in_the_doubt() -> None:
    """One of two was given before the step, which makes it older than it may be; the second comes when it is undone."""
    world = Stepping(approval_policy=ApprovalPolicy(required=2), service_policy=policy(decision_max_age_s=1e5))
    world.watch(3)
    world.site_dies()
    world.watch(2)
    turns(world, "dispatch", "approval")
    world.say_yes("ada")
    world.clock.jump_wall(HOURS_S)
    turns(world, "approval")
    assert world.refusals("approval") == []
    world.clock.jump_wall(-HOURS_S)
    world.say_yes("bob")
    turns(world, "approval")

    assert len(world.records("executions", Execution)) == 1


@pytest.mark.req("LOOP-1", "DEC-6")
@pytest.mark.parametrize("restarted", [False, True], ids=["runs on", "restarted"])
def test_a_hold_does_not_end_by_a_step(restarted: bool) -> None:
    """Held for four hours, and the clock goes five ahead, by a decision that lives longer: nothing is sent before the
    step is confirmed."""
    world = Stepping(service_policy=policy(decision_max_age_s=40000.0))
    approved_for_long(world)
    held(world)
    world.clock.jump_wall(5 * 3600.0)
    if restarted:
        world.boot(0)
    turns(world, "execution", "execution")
    assert (world.runs(), world.records("attempts", Attempt)) == ([], [])
    world.clock.advance(ALONE_S)
    turns(world, "execution")

    assert len(world.runs()) == 1


@pytest.mark.req("LOOP-1", "DEC-6")
def test_what_sets_free_later_does_not_set_free_by_a_step() -> None:
    """An end of the hold that is dated two hours ahead, laid there by hand: three hours ahead it has no effect, nor
    when the clock is right again, nor on its date."""
    world = Stepping(service_policy=policy(decision_max_age_s=40000.0))
    approved_for_long(world)
    hold = world.say_hold(until=world.clock.now() + timedelta(hours=9))
    world.say_hold("end", until=None, ends=hold.hold_id, signed_at=world.clock.now() + timedelta(hours=2))
    for moved in (world.clock.jump_wall, lambda _: world.clock.jump_wall(-HOURS_S), world.clock.advance):
        moved(HOURS_S)
        turns(world, "execution")

        assert world.runs() == []


@pytest.mark.req("LOOP-1", "DEC-6")
def test_a_hold_that_is_made_in_the_doubt_binds() -> None:
    """It is from the future to a clock that is right, and who made it has the other one."""
    world = Stepping(service_policy=policy(decision_max_age_s=40000.0))
    approved_for_long(world)
    world.clock.jump_wall(HOURS_S)
    held(world)
    turns(world, "execution")

    assert world.runs() == []


def approved_for_long(world: World) -> None:
    """Asked for with half a day to live, and approved so."""
    world.stages[0]["dispatch"]._max_age_s = 40000.0
    world.watch(3)
    world.site_dies()
    world.watch(2)
    turns(world, "dispatch", "approval")
    (request,) = world.records("requests", DispatchRequest)
    world.say_yes("ada", expires_at=request.expires_at)
    turns(world, "approval")
    assert len(world.records("executions", Execution)) == 1


@pytest.mark.req("LOOP-1", "EXE-1")
@pytest.mark.fault(4, 14)
def test_what_may_have_been_sent_is_followed_in_the_doubt() -> None:
    """Its start was sent and the link was lost; three hours ahead it is followed to its end all the same."""
    world = approved(Stepping())
    world.runners["cloud-runner"].cuts = ["start"]
    turns(world, "execution")
    world.clock.jump_wall(HOURS_S)
    turns(world, "execution", "execution")

    assert [o.outcome for o in world.outcomes()] == [Outcome.SUCCEEDED]


@pytest.mark.req("LOOP-1", "LOOP-3")
def test_a_host_that_steps_leaves_the_others_alone() -> None:
    """Two instances by one clock, where the first one saw it step: the second, which did not, closes what is over."""
    world = waiting("approved", instances=2)
    world.clock.jump_wall(HOURS_S)
    turns(world, "execution")
    assert closed(world) == 0
    world.memories[1, "execution"].known = None
    world.boot(1, "execution")
    world.turn(1, "execution")

    assert ["expired" in refusal.reason for refusal in world.refusals("execution")] == [True]
    assert hindrances(world) == []


@pytest.mark.req("LOOP-1")
@pytest.mark.fault(4, 13)
def test_a_step_back_closes_no_decision() -> None:
    """An hour back (a host that begins before its NTP): what waits for the dispatcher is dated ahead then, and waits;
    the clock is set right, and it runs."""
    world = waiting("decided")
    world.clock.jump_wall(-3600.0)
    passed(world)
    assert closed(world) == 0
    world.clock.advance(60)
    world.clock.jump_wall(3600.0)

    assert ran(goes_on(world, "decided"))


@pytest.mark.req("LOOP-1", "LOOP-2")
@pytest.mark.fault(4)
@pytest.mark.parametrize("ahead_s", [HOURS_S, 600.0])
def test_a_decision_of_a_clock_that_was_ahead_never_runs_by_its_date(ahead_s: float) -> None:
    """It was made by a wrong clock, which is right before the dispatcher looks: it is closed when a quarter of an hour
    has shown that, also where its date has come meanwhile."""
    world = ahead_of_its_time(ahead_s)
    world.clock.advance(ALONE_S - 60)
    passed(world)
    assert (closed(world), world.records("requests", DispatchRequest)) == (0, [])
    world.clock.advance(61)
    passed(world)

    assert [refusal.reason.partition(":")[0] for refusal in world.refusals("dispatch")] == ["from-the-future"]


@pytest.mark.req("LOOP-1", "LOOP-2")
@pytest.mark.fault(4)
def test_a_loss_is_decided_anew_when_the_decision_of_a_wrong_clock_has_had_its_time() -> None:
    """The primary was lost while the clock was three hours ahead: its decision is over after the time that it was
    given, not after three hours more."""
    world = ahead_of_its_time(HOURS_S)
    (first,) = world.records("decisions", Decision)
    assert first.timestamp_utc is not None
    assert first.expires_at is not None
    world.clock.advance((first.expires_at - first.timestamp_utc).total_seconds())
    world.watch(15)

    assert len(world.records("decisions", Decision)) == 2
    assert ran(goes_on(world, "decided"))


def ahead_of_its_time(ahead_s: float) -> Stepping:
    """The primary is lost while the clock is ahead, which is set right before the dispatcher has a turn."""
    world = Stepping(service_policy=policy(decision_max_age_s=600.0))
    world.watch(3)
    world.clock.jump_wall(ahead_s)
    world.site_dies()
    world.watch(2)
    assert len(world.records("decisions", Decision)) == 1
    world.clock.jump_wall(-ahead_s)
    return passed(world)


@pytest.mark.req("LOOP-1", "RUN-11")
@pytest.mark.fault(4)
def test_a_runner_is_not_refused_by_a_clock_that_may_be_wrong_here() -> None:
    """Two minutes ahead: the runner's clock differs by that, and it is this host's that nobody has confirmed. What
    waits for the runner is closed no more than the rest, and runs when the clock is right again."""
    world = waiting("recorded")
    world.clock.jump_wall(120.0)
    turns(world, "execution")
    world.runners["cloud-runner"].clock = ClockSeen(-120.0, 0.01)
    back(world)
    assert (closed(world), world.runs()) == (0, [])
    world.clock.jump_wall(-120.0)
    world.runners["cloud-runner"].clock = ClockSeen(0.0, 0.01)

    assert ran(goes_on(world, "recorded"))
