"""The last look before a start, killed, late, by several executors and without its records (APR-1, DEC-6, LOOP-1)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.starts_files import FileStarts
from hyops.errors import PrerequisiteError, RunnerBusyError, RunnerUnreachableError, StoreLostError
from hyops.model.approval import Approval
from hyops.model.execution import Attempt
from hyops.model.vocabulary import Outcome
from hyops.ports.transport import RunnerHello
from hyops.services.following import run
from loopback import Etcd, missing
from simulation.etcd_world import EtcdWorld
from simulation.test_last_look import (
    approved,
    back,
    cut_off,
    held,
    hindrances,
    reasons,
    stood_for,
    taken_back,
    turns,
)
from simulation.world import FakeSession, World, in_turn
from waiting import until

BUSY = RunnerBusyError("8 runs are open, of at most 8 at once: run-1 (running)")
REJECTED = "NotApprovedError: rejected by ada: no"


class OnFiles(World):
    """Its executor remembers in files, as on one control host."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self._folder = folder
        super().__init__(**how)

    def held_starts(self) -> FileStarts:
        """Anew for each process."""
        return FileStarts(self._folder)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One member for all loops."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


def refused(world: World) -> bool:
    """Closed once, by her word, and nothing began."""
    (why,) = reasons(world)
    said = why == REJECTED or "ada took back the standing approval" in str(why)
    return (said, len(world.outcomes()), world.runs()) == (True, 1, [])


def ran(world: World) -> bool:
    """Once, to its end."""
    return ([o.outcome for o in world.outcomes()], len(world.runs())) == ([Outcome.SUCCEEDED], 1)


def rejected(world: World) -> None:
    """Cut off, then a no, then the runner is back."""
    cut_off(approved(world))
    world.say_yes("ada", "reject", note="no")
    for _ in range(3):
        back(world)


def ended_standing(world: World) -> None:
    """Cut off, then what stands is taken back, then the runner is back."""
    cut_off(stood_for(world)[0])
    taken_back(world, world.records("approvals", Approval)[0])
    for _ in range(3):
        back(world)


def held_up(world: World) -> None:
    """Cut off, held while the runner is back, and let go."""
    cut_off(approved(world))
    held(world)
    for _ in range(3):
        back(world)
    assert world.runs() == []
    world.end_holds()
    world.settle()


@pytest.mark.req("APR-1", "DEC-6", "LOOP-1", "INV-7")
@pytest.mark.fault(9, 13)
@pytest.mark.parametrize(("scenario", "ended"), [(rejected, refused), (ended_standing, refused), (held_up, ran)])
def test_a_crash_after_any_effect_changes_nothing(
    scenario: Callable[[World], None], ended: Callable[[World], bool]
) -> None:
    """Killed after each durable effect from the attempt on, and begun anew: refused once, or run once."""
    known = World()
    scenario(known)
    for crash_after in range(known.meter.log.index("attempts") + 1, known.meter.done + 1):
        world = World(seed=crash_after)
        world.meter.crash_after = crash_after
        scenario(world)

        assert (world.crashes, ended(world)) == (1, True), crash_after


@pytest.mark.req("APR-1", "DEC-6", "LOOP-1")
@pytest.mark.parametrize(("scenario", "ended"), [(rejected, refused), (ended_standing, refused), (held_up, ran)])
def test_it_is_the_same_with_what_is_remembered_in_files(
    tmp_path: Path, scenario: Callable[[World], None], ended: Callable[[World], bool]
) -> None:
    """As on one control host, where the mark is a file."""
    world = OnFiles(tmp_path)
    scenario(world)

    assert ended(world)


@pytest.mark.req("APR-1", "DEC-6", "LOOP-3")
@pytest.mark.parametrize("seed", [1, 2])
def test_several_executors_hear_the_same(seed: int) -> None:
    """Whoever dials: nothing is sent under the hold, and after a no it is closed once."""
    world = World(seed=seed, instances=2)
    cut_off(approved(world))
    held(world)
    world.runners["cloud-runner"].cuts = []
    world.settle()
    under = world.runs()
    world.say_yes("ada", "reject", note="no")
    world.settle()

    assert (under, refused(world)) == ([], True)


@pytest.mark.req("APR-1", "DEC-6")
@pytest.mark.parametrize("what", ["no", "taken back", "hold"])
@pytest.mark.parametrize("how", ["goes on", "link dies", "busy"])
def test_the_last_look_is_right_before_the_start(what: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said while the executor talks to the runner already: nothing is started, whether the talk goes on, the link
    dies, or the runner turns out to have no room."""
    world = stood_for(World())[0] if what == "taken back" else approved(World())
    standing = world.records("approvals", Approval)[0]

    async def meanwhile(_session: FakeSession, *_args: object) -> RunnerHello:
        if what == "taken back":
            taken_back(world, standing)
        else:
            held(world) if what == "hold" else world.say_yes("ada", "reject", note="no")
        if how == "link dies":
            raise RunnerUnreachableError("link lost during hello")
        if how == "busy":
            raise BUSY
        return RunnerHello("cloud-runner", "cloud", "0", *world.runners["cloud-runner"].protocol, 10**9, clock=None)

    monkeypatch.setattr(FakeSession, "start" if how == "busy" else "hello", meanwhile)
    world.turn(0, "execution")
    monkeypatch.undo()
    world.turn(0, "execution")

    assert (world.starts.sent, world.runs()) == (set(), [])
    assert hindrances(world) == (["held"] if what == "hold" else [])
    assert reasons(world) == [] if what == "hold" else refused(world)


@pytest.mark.req("EXE-1", "DEC-6", "LOOP-3")
@pytest.mark.parametrize("lost", [StoreLostError("etcd has no quorum"), PrerequisiteError("holds: Permission denied")])
@pytest.mark.parametrize("recorded", [True, False])
def test_holds_that_cannot_be_read_close_nothing(
    lost: PrerequisiteError, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it is held: nothing is started or refused; with the records back it goes on."""
    world = approved(World())
    if recorded:
        cut_off(world)
    world.runners["cloud-runner"].cuts = []

    def unread(_since: int) -> tuple[int, list[str]]:
        raise lost

    monkeypatch.setattr(world.disk["holds"], "changed", unread)
    stage = world.stages[0]["execution"]
    if recorded:
        in_turn(not_closed(stage, world.records("attempts", Attempt)[0]))
    elif not isinstance(lost, StoreLostError):  # with that no stage does anything
        turns(world, "execution")
    kept = (world.outcomes(), world.runs(), set(world.starts.sent), len(world.records("attempts", Attempt)))
    monkeypatch.undo()
    turns(world, "execution")

    assert kept == ([], [], set(), int(recorded))
    assert ran(world)


async def not_closed(stage: Any, attempt: Attempt) -> None:
    """One try without a pass before it."""
    assert not await stage.dial(attempt)


@pytest.mark.req("APR-1", "RUN-11")
def test_a_no_closes_what_waits_for_room() -> None:
    """Its runner's lanes are full for as long as it may wait: closed all the same."""
    world = approved(World())
    asyncio.run(served_without_room(world))

    assert refused(world)


async def served_without_room(world: World) -> None:
    """Serve without room on any runner until it waits, say no, and serve until it is closed."""
    watched: list[Any] = [world.disk[kind] for kind in ("executions", "attempts", "outcomes", "approvals")]
    task = asyncio.create_task(run(world.stages[0]["execution"], watched, lambda _runner_ref: 0))
    try:
        await until(lambda: len(world.starts.hindered) == 1, "the attempt in the queue", 60.0)
        world.say_yes("ada", "reject", note="no")
        await until(lambda: len(world.outcomes()) == 1, "its end", 60.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.req("APR-1", "DEC-6", "LOOP-3")
@pytest.mark.fault(9, 13)
@pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
def test_noes_and_holds_are_heard_on_etcd(etcd: Etcd) -> None:
    """Two executors on a real etcd: held, then let go, and one is killed right after the mark: it runs once, whatever
    is said from then on. Rejected, and whoever closes it is killed: closed once, and nothing runs."""
    with closing(EtcdWorld(etcd.endpoints, f"held-{os.getpid()}", instances=2)) as world:
        cut_off(approved(world))
        held(world, until=world.clock.now() + timedelta(hours=1))
        world.runners["cloud-runner"].cuts = []
        turns(world, "execution")
        world.turn(1, "execution")
        under = world.runs()
        world.end_holds()
        world.meter.crash_after = world.meter.done + 2
        world.turn(1, "execution")
        noted = (world.meter.log[-1], world.runs())
        held(world, reason="too late")
        world.settle()

        assert (under, noted) == ([], ("start-noted", []))
        assert (world.crashes, ran(world)) == (1, True)
    with closing(EtcdWorld(etcd.endpoints, f"no-{os.getpid()}", instances=2)) as world:
        cut_off(approved(world))
        world.say_yes("ada", "reject", note="no")
        world.meter.crash_after = world.meter.done + 1
        world.runners["cloud-runner"].cuts = []
        world.turn(1, "execution")
        world.settle()

        assert (world.crashes, refused(world)) == (1, True)
