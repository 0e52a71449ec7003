"""Where a link can die around a start, and what the attempt may then be called (EXE-1, VOC-5, fault 14).

Until a start may have left, the attempt can be closed as refused. From then on only the runner's own answer, with no
run there, is a refusal: an attempt that can never be started again ends unknown, and the service waits.
"""

from __future__ import annotations

import pytest

from hyops.errors import DiskFullError, Effect, PrerequisiteError
from hyops.model import wire
from hyops.model.protocol import PROTOCOL_MAX, PROTOCOL_MIN
from hyops.model.vocabulary import Outcome
from hyops.ports.transport import ClockSeen
from simulation.world import FakeRunner, World

PAST_EXPIRY_S = 200.0  # the world's decisions, and so its executions, are valid for 120 s


def approved(*cuts: str) -> tuple[World, FakeRunner]:
    """An approved execution that the executor has not seen yet, on a link that will be cut at these verbs."""
    world = World()
    world.stand()
    world.watch(3)
    world.site_dies()
    world.watch(2)
    for name in ("dispatch", "approval"):
        world.turn(0, name)
    runner = world.runners["cloud-runner"]
    runner.cuts = list(cuts)
    return world, runner


def verdicts(world: World) -> list[Outcome]:
    """How the attempts ended, in order."""
    return [outcome.outcome for outcome in world.outcomes()]


@pytest.mark.fault(14)
@pytest.mark.req("EXE-1", "INV-7")
@pytest.mark.parametrize("verb", ["connect", "hello"])
def test_before_a_start_could_leave_an_expired_attempt_is_refused(verb: str) -> None:
    """The runner is not reached, or drops the link before the start: open while it is valid, then refused."""
    world, runner = approved(*[verb] * 3)
    world.turn(0, "execution")

    assert verdicts(world) == []

    world.clock.advance(PAST_EXPIRY_S)
    world.turn(0, "execution")

    assert (verdicts(world), world.starts.hindered) == ([Outcome.REFUSED], {})
    assert runner.started == []


@pytest.mark.fault(33)
@pytest.mark.req("RUN-11")
def test_a_runner_that_refuses_to_talk_before_the_start_closes_the_attempt() -> None:
    """Another protocol, said before anything was sent: refused at once, with the reason."""
    world, runner = approved()
    runner.protocol = (7, 9)
    world.turn(0, "execution")

    assert verdicts(world) == [Outcome.REFUSED]
    assert "protocol" in str(world.outcomes()[0].reason)


@pytest.mark.fault(14)
@pytest.mark.req("VOC-5", "INV-7")
@pytest.mark.parametrize("then", ["expired", "protocol", "refused"])
def test_a_start_that_left_without_an_answer_never_becomes_refused(then: str) -> None:
    """The start left, its answer did not come, and the runner shows no run yet: unknown, for it may still arrive."""
    world, runner = approved("start-in-flight")
    world.turn(0, "execution")
    if then == "expired":
        world.clock.advance(PAST_EXPIRY_S)
    elif then == "protocol":
        runner.protocol = (7, 9)
    else:
        runner.refuses = PrerequisiteError("no disk")
    world.turn(0, "execution")
    runner.arrive()
    world.check()
    world.turn(0, "decision")

    assert verdicts(world) == [Outcome.UNKNOWN]
    assert len(runner.started) == 1
    assert world.stages[0]["decision"].mode.uncertain


@pytest.mark.fault(14)
def test_a_start_that_arrives_late_is_followed() -> None:
    """The start comes in before the executor is back: the runner has the run, so its result closes the attempt."""
    world, runner = approved("start-in-flight")
    world.turn(0, "execution")
    runner.arrive()
    world.clock.advance(PAST_EXPIRY_S)
    world.turn(0, "execution")

    assert verdicts(world) == [Outcome.SUCCEEDED]


@pytest.mark.fault(33)
@pytest.mark.req("RUN-11", "VOC-5")
def test_a_run_under_way_is_brought_home_from_a_runner_that_was_upgraded_past_us() -> None:
    """The link dies while it is followed, and the runner comes back without a protocol in common: it is collected."""
    world, runner = approved("attach")
    world.turn(0, "execution")
    assert verdicts(world) == []

    runner.protocol = (7, 9)
    world.turn(0, "execution")

    assert verdicts(world) == [Outcome.SUCCEEDED]
    assert len(runner.started) == 1


@pytest.mark.fault(33)
@pytest.mark.req("RUN-11", "VOC-5")
def test_an_interrupted_run_on_a_runner_upgraded_past_us_stays_open() -> None:
    """It may have made effects: nothing closes it from here, and nothing is started until the versions fit again."""
    world, runner = approved("start-in-flight")
    world.turn(0, "execution")
    runner.keeps_refused = True  # it lies there, not running
    runner.protocol = (7, 9)
    world.turn(0, "execution")
    assert (verdicts(world), runner.started) == ([], [])

    runner.protocol = (PROTOCOL_MIN, PROTOCOL_MAX)
    world.turn(0, "execution")

    assert len(runner.started) == 1


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize("off_s", [3600.0, -3600.0])
def test_a_runner_with_a_wrong_clock_is_refused_before_anything_is_staged(off_s: float) -> None:
    """It could not judge what is signed: refused at once by how much, and nothing is asked of it."""
    world, runner = approved()
    runner.clock = ClockSeen(off_s, 0.01)
    world.turn(0, "execution")

    assert verdicts(world) == [Outcome.REFUSED]
    assert "3600.0 s" in str(world.outcomes()[0].reason)
    assert runner.started == []


@pytest.mark.req("RUN-11", "VOC-5")
@pytest.mark.parametrize("then", ["set", "expired"])
def test_a_start_that_left_for_a_runner_with_a_wrong_clock_stays_open(then: str) -> None:
    """It may still arrive: open until the clock is set or the time is over, and then started once, or unknown."""
    world, runner = approved("start-in-flight")
    world.turn(0, "execution")
    runner.clock = ClockSeen(3600.0, 0.01)
    world.turn(0, "execution")
    assert verdicts(world) == []

    if then == "set":
        runner.clock = ClockSeen(0.0, 0.01)
    else:
        world.clock.advance(PAST_EXPIRY_S)
    world.turn(0, "execution")

    assert verdicts(world) == [Outcome.SUCCEEDED if then == "set" else Outcome.UNKNOWN]
    assert len(runner.started) == (then == "set")


@pytest.mark.req("RUN-11", "VOC-5")
def test_a_run_under_way_is_brought_home_from_a_runner_whose_clock_went_wrong() -> None:
    """A wrong clock keeps nobody from following and collecting."""
    world, runner = approved("attach")
    world.turn(0, "execution")
    assert verdicts(world) == []

    runner.clock = ClockSeen(-3600.0, 0.01)
    world.turn(0, "execution")

    assert verdicts(world) == [Outcome.SUCCEEDED]


@pytest.mark.req("VOC-5")
def test_a_refused_run_that_lies_staged_on_the_runner_stays_open() -> None:
    """The runner says no but keeps the spec: a reboot would start it, so nobody may call it refused."""
    world, runner = approved()
    runner.refuses = PrerequisiteError("no disk")
    runner.keeps_refused = True
    world.turn(0, "execution")

    assert verdicts(world) == []
    assert len(world.disk["attempts"].records) == 1


@pytest.mark.fault(14)
@pytest.mark.req("VOC-5", "RUN-6")
@pytest.mark.parametrize(
    "torn", [{"error": "PrerequisiteError"}, {"exit_code": 12}, {"exit_code": 12, "effect": "nix"}]
)
def test_a_torn_refusal_is_no_refusal(torn: dict[str, object]) -> None:
    """An answer that does not say that nothing was touched closes the attempt as unknown, not as refused."""
    world, runner = approved()
    runner.refuses = wire.error_of(torn)
    world.turn(0, "execution")

    assert verdicts(world) == [Outcome.UNKNOWN]


@pytest.mark.req("RUN-6")
def test_a_whole_refusal_keeps_its_word() -> None:
    """The runner's own error comes over the wire with its class, exit code and effect."""
    found = wire.error_of(PrerequisiteError("no disk").as_json())

    assert type(found) is PrerequisiteError
    assert found.effect is Effect.NONE


@pytest.mark.fault(17)
@pytest.mark.req("EXE-1", "RUN-11", "UX-1")
def test_a_run_that_lies_on_a_full_disk_stays_open_and_people_are_told() -> None:
    """The runner has it and cannot begin: no refusal, no silence, and with room one start."""
    world, runner = approved()
    runner.refuses, runner.keeps_refused = DiskFullError("cloud-runner: /srv/runs/run-1: disk full"), True
    for _ in range(3):
        world.turn(0, "execution")
        (told,) = world.starts.hindered.values()
        assert (told.error, told.message) == ("DiskFullError", "cloud-runner: /srv/runs/run-1: disk full")
    assert (verdicts(world), runner.started) == ([], [])

    runner.refuses = None
    world.turn(0, "execution")

    assert (verdicts(world), len(runner.started), world.starts.hindered) == ([Outcome.SUCCEEDED], 1, {})


@pytest.mark.fault(17)
@pytest.mark.req("EXE-1", "RUN-11")
def test_a_full_disk_that_left_nothing_there_is_a_refusal() -> None:
    """The runner's own answer, with no run there: closed, with the reason; nothing is started later."""
    world, runner = approved()
    runner.refuses = DiskFullError("cloud-runner: cannot write /srv/runs/run-1/spec.json: No space left on device")
    world.turn(0, "execution")
    runner.refuses = None
    world.turn(0, "execution")

    assert verdicts(world) == [Outcome.REFUSED]
    assert "cloud-runner: cannot write /srv/runs/run-1/spec.json" in str(world.outcomes()[0].reason)
    assert runner.started == []
