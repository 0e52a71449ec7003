"""A burst that was recorded, and of which nothing was ever sent, gives way all the same (EXE-3, INV-7).

Recorded is not begun: its runner may have died with the site, be cut off, or have no room. Where a start may have been
sent only its end is an end, whatever it keeps waiting.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fault_size import FULL, SEED
from hyops.adapters.starts_files import FileStarts
from hyops.errors import RunnerBusyError, RunnerUnreachableError, StoreLostError
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt
from hyops.model.routes import Routes
from hyops.model.vocabulary import DecisionType, Outcome
from hyops.ports.transport import RunnerHello, RunStatus
from hyops.services.following import run
from loopback import Etcd, missing
from simulation.etcd_world import EtcdWorld
from simulation.test_burst import Loaded, bursting, bursts
from simulation.test_giving_way import requests
from simulation.world import FakeSession, World, in_turn, routes
from waiting import until

CUT_OFF = ["connect"] * 1000
BUSY = RunnerBusyError("8 runs are open, of at most 8 at once: run-1 (running)")
YIELDED = [("burst", Outcome.REFUSED), ("failover", Outcome.SUCCEEDED)]


class Bursting(Loaded):
    """A service whose bursts one runner makes."""

    def __init__(self, *args: Any, runner_ref: str = "cloud-runner", **more: Any) -> None:
        lane = {"target_env": "lab", "execution_plane": "runner-local", "runner_ref": runner_ref}
        ways = [{**lane, "target_ref": f"dr/scale-{way}@v1", "when": {"direction": way}} for way in ("out", "in")]
        known = {
            kind: route.body() for kind, route in routes().dispatcher_routes.items() if not isinstance(route, list)
        }
        service_routes = Routes.of({"env": "lab", "dispatcher_routes": {**known, "burst": ways}})
        given = {"service_policy": bursting(rule={"runner_ref": runner_ref}), "service_routes": service_routes}
        super().__init__(*args, **given, **more)


class OnFiles(Bursting):
    """Its executor remembers in files, as on one control host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__()

    def held_starts(self) -> FileStarts:
        """Anew for each process."""
        return FileStarts(self._folder)


class OnEtcd(EtcdWorld, Bursting):
    """All of it on a cluster."""


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One member for all loops."""
    with Etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


def turns(world: World, *names: str) -> None:
    """One pass of each of these."""
    for name in names:
        world.turn(0, name)


def approved(world: Bursting) -> None:
    """Full load, and a burst that somebody has approved."""
    world.watch(5)
    world.values["load"] = 0.95
    world.watch(4)
    turns(world, "dispatch", "approval")
    world.say_yes()
    world.turn(0, "approval")


def tried(world: Bursting, cuts: list[str], runner_ref: str = "cloud-runner") -> Attempt:
    """Its attempt is recorded, and was tried once on such a link."""
    approved(world)
    world.runners[runner_ref].cuts = list(cuts)
    world.turn(0, "execution")
    (attempt,) = world.records("attempts", Attempt)
    return attempt


def lost(world: World) -> DispatchRequest:
    """The site is gone; the failover is decided, asked for and approved; twice, since one of them may be killed."""
    world.site_dies()
    world.watch(4)
    turns(world, "dispatch", "dispatch", "approval")
    (move,) = requests(world, DecisionType.FAILOVER)
    world.say_yes_to(move.dispatch_id)
    turns(world, "approval", "approval")
    return move


def ends(world: World) -> list[tuple[str, Outcome]]:
    """What ended how, in order."""
    return [(outcome.attempt_id.split("-")[2], outcome.outcome) for outcome in world.outcomes()]


def gave_way(world: World) -> bool:
    """Whether the burst says that it is for the failover that it was not begun."""
    (move,) = requests(world, DecisionType.FAILOVER)
    reason = f"GivesWayError: it gives way to {move.dispatch_id}: an unplanned failover of pg"
    return [o.reason for o in world.outcomes() if o.outcome is Outcome.REFUSED] == [reason]


@pytest.mark.req("EXE-3", "INV-7", "LOOP-1")
@pytest.mark.fault(14)
@pytest.mark.parametrize("runner_ref", ["cloud-runner", "onprem-runner"])
def test_a_burst_whose_runner_is_not_reached_gives_way(runner_ref: str) -> None:
    """Its runner is cut off, or died with the site: closed as refused by the next try, which does not even call there,
    so that the failover runs at once; when the runner is back nothing of the burst begins there."""
    world = Bursting(runner_ref=runner_ref)
    burst = tried(world, CUT_OFF, runner_ref)
    lost(world)
    calls = len(world.runners[runner_ref].cuts)
    world.turn(0, "execution")

    assert ends(world) == YIELDED[:1]
    assert gave_way(world)
    assert (len(world.runners[runner_ref].cuts), world.starts.hindered) == (calls, {})

    world.runners["cloud-runner"].cuts = []
    world.settle()
    world.runners[runner_ref].cuts = []
    world.settle()
    world.turn(0, "decision")

    assert ends(world) == YIELDED
    assert burst.run_id not in world.runs()
    assert (world.stages[0]["decision"].mode.primary, len(bursts(world))) == ("cloud-db", 1)


@pytest.mark.req("EXE-3", "RUN-11")
def test_a_burst_for_which_its_runner_has_no_room_gives_way() -> None:
    """A runner that is busy has answered each start, so none was sent: the burst goes before the failover no more."""
    world = Bursting()
    world.runners["cloud-runner"].refuses = BUSY
    burst = tried(world, [])
    told = [hindrance.error for hindrance in world.starts.hindered.values()]
    lost(world)
    world.runners["cloud-runner"].refuses = None
    world.settle()

    assert told == ["RunnerBusyError"]
    assert (ends(world), gave_way(world)) == (YIELDED, True)
    assert burst.run_id not in world.runs()


@pytest.mark.req("EXE-1", "EXE-3", "VOC-5")
@pytest.mark.fault(14)
@pytest.mark.parametrize("arrives", [True, False])
def test_a_burst_of_which_a_start_may_have_been_sent_does_not_give_way(arrives: bool) -> None:
    """The link died after the start had left, and nobody is reached: open, also past its approval, and nothing is begun
    beside it. What is found when the link is back decides: the run that arrived, or that nobody knows."""
    world = Bursting()
    burst = tried(world, ["start-in-flight", *CUT_OFF])
    lost(world)
    turns(world, "execution", "execution")

    assert (ends(world), len(world.records("attempts", Attempt))) == ([], 1)
    assert not world.stages[0]["execution"].gives_way(burst)

    if arrives:
        world.runners["cloud-runner"].arrive()
    else:
        world.clock.advance(3600)
        turns(world, "execution")
        assert ends(world) == []
    world.runners["cloud-runner"].cuts = []
    world.settle()

    assert ends(world) == ([("burst", Outcome.SUCCEEDED), YIELDED[1]] if arrives else [("burst", Outcome.UNKNOWN)])


@pytest.mark.req("EXE-1", "EXE-3", "VOC-5")
@pytest.mark.fault(14)
@pytest.mark.parametrize("arrives", ["before the runner is asked", "when it has said absent", "after the failover"])
def test_a_runner_that_knows_no_such_run_does_not_make_a_sent_burst_give_way(
    arrives: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner comes back and knows nothing of it: its start may still come in, so it goes first, by the same id, and
    the failover after it. Whenever the first start does come in, each has run once, and never beside the other."""
    world = Bursting()
    burst = tried(world, ["start-in-flight", *CUT_OFF])
    lost(world)
    runner = world.runners["cloud-runner"]
    runner.cuts, status, asked = [], FakeSession.status, []

    async def looked(session: FakeSession, run_id: str) -> RunStatus:
        found = await status(session, run_id)
        asked.append(found.state)
        if arrives == "when it has said absent":
            runner.arrive()
        return found

    monkeypatch.setattr(FakeSession, "status", looked)
    if arrives == "before the runner is asked":
        runner.arrive()
    world.settle()
    if arrives == "after the failover":
        runner.arrive()
        world.settle()
    known = asked[0] != "absent"

    assert known == (arrives == "before the runner is asked")
    assert ends(world) == [("burst", Outcome.SUCCEEDED), YIELDED[1]]
    assert [*runner.started][:1] == [burst.run_id]
    assert (len(runner.started), len(set(runner.started)), runner.in_flight) == (2, 2, [])


@pytest.mark.req("EXE-3")
@pytest.mark.parametrize("how", ["goes on", "link dies", "busy"])
def test_the_last_look_is_right_before_the_start(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failover is asked for while the burst's executor talks to the runner already: nothing is started, whether the
    talk goes on, the link dies, or the runner turns out to have no room."""
    world = Bursting()
    approved(world)
    world.site_dies()
    world.watch(4)
    verb, before = ("start" if how == "busy" else "hello"), []

    async def asked_for(_session: FakeSession, *_args: object) -> RunnerHello:
        before.extend(requests(world, DecisionType.FAILOVER))
        await world.stages[0]["dispatch"].step(True)
        if how == "link dies":
            raise RunnerUnreachableError("link lost during hello")
        if how == "busy":
            raise BUSY
        return RunnerHello("cloud-runner", "cloud", "0", *world.runners["cloud-runner"].protocol, 10**9, clock=None)

    monkeypatch.setattr(FakeSession, verb, asked_for)
    world.turn(0, "execution")

    assert before == []
    assert (ends(world), gave_way(world)) == (YIELDED[:1], True)
    assert (world.starts.sent, world.runs()) == (set(), [])


@pytest.mark.req("EXE-1", "EXE-3", "LOOP-3")
@pytest.mark.parametrize("lost_at", ["first look", "last look", "look after the link"])
def test_what_cannot_be_looked_at_closes_nothing(lost_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests cannot be read now (a lost quorum): nothing is started or refused, and it is tried again."""
    world = Bursting()
    burst = tried(world, ["connect"])
    stage, cut, hello = world.stages[0]["execution"], [], FakeSession.hello

    def unread(_since: int) -> tuple[int, list[str]]:
        cut.append(lost_at)
        raise StoreLostError("etcd has no quorum")

    async def greeted(session: FakeSession) -> RunnerHello:
        monkeypatch.setattr(world.disk["requests"], "changed", unread)
        if lost_at == "look after the link":
            raise RunnerUnreachableError("link lost during hello")
        return await hello(session)

    monkeypatch.setattr(FakeSession, "hello", greeted)
    if lost_at == "first look":
        monkeypatch.setattr(world.disk["requests"], "changed", unread)
    in_turn(dialled(stage, burst))
    kept = (world.outcomes(), world.runs(), set(world.starts.sent))
    monkeypatch.undo()
    world.settle()

    assert cut
    assert kept == ([], [], set())
    assert ends(world) == [("burst", Outcome.SUCCEEDED)]


async def dialled(stage: Any, attempt: Attempt) -> None:
    """One try without a pass before it."""
    assert not await stage.dial(attempt)


@pytest.mark.req("EXE-3", "RUN-11")
def test_a_burst_that_waits_for_room_gives_way_without_any() -> None:
    """Its runner's lanes are full for as long as it may wait: closed as soon as the failover is there, by the executor
    that has it in its queue and by one that begins then; and the failover has its place in the queue."""
    for begun_anew in (False, True):
        world = Bursting()
        approved(world)
        asyncio.run(served(world, begun_anew=begun_anew))

        assert (ends(world), gave_way(world)) == (YIELDED[:1], True)
        assert [a.attempt_id.split("-")[2] for a in world.records("attempts", Attempt)] == ["burst", "failover"]
        assert world.runs() == []


async def served(world: Bursting, *, begun_anew: bool) -> None:
    """Serve without room on any runner until the burst waits, lose the site, and serve until the failover waits."""
    watched: list[Any] = [world.disk[kind] for kind in ("executions", "attempts", "outcomes")]

    def serve() -> asyncio.Task[None]:
        return asyncio.create_task(run(world.stages[0]["execution"], watched, lambda _runner_ref: 0))

    task = serve()
    try:
        await until(lambda: len(world.starts.hindered) == 1, "the burst in the queue", 60.0)
        if begun_anew:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(lost, world)
        if begun_anew:
            world.boot(0, "execution")
            task = serve()
        await until(lambda: len(world.records("attempts", Attempt)) == 2, "the failover's attempt", 60.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.req("EXE-3")
@pytest.mark.parametrize("sent", [False, True])
def test_it_is_the_same_with_what_is_remembered_in_files(tmp_path: Path, sent: bool) -> None:
    """Without a mark it gives way, also to an executor begun anew; with one it does not."""
    world = OnFiles(tmp_path)
    tried(world, ["start-in-flight", *CUT_OFF] if sent else CUT_OFF)
    lost(world)
    world.boot(0, "execution")
    world.turn(0, "execution")

    assert ends(world) == ([] if sent else YIELDED[:1])

    world.runners["cloud-runner"].arrive()
    world.runners["cloud-runner"].cuts = []
    world.settle()

    assert ends(world) == ([("burst", Outcome.SUCCEEDED), YIELDED[1]] if sent else YIELDED)


def through(world: Bursting) -> None:
    """A burst that is cut off, the loss of the site, and the failover."""
    tried(world, CUT_OFF)
    lost(world)
    world.runners["cloud-runner"].cuts = []
    world.settle()


def effects() -> range:
    """The effects from the burst's attempt on."""
    world = Bursting()
    through(world)
    return range(world.meter.log.index("attempts") + 1, world.meter.done + 1)


@pytest.mark.req("EXE-3", "LOOP-1", "INV-7")
@pytest.mark.fault(9, 13)
def test_a_crash_after_any_effect_changes_nothing() -> None:
    """Killed after each durable effect and begun anew: the burst is refused once, the failover runs once."""
    for crash_after in effects():
        world = Bursting(seed=crash_after)
        world.meter.crash_after = crash_after
        through(world)

        assert (world.crashes, ends(world), gave_way(world)) == (1, YIELDED, True)
        assert sorted(world.hook.given) == sorted(outcome.outcome_id for outcome in world.outcomes())


@pytest.mark.req("EXE-3", "LOOP-1", "INV-7")
@pytest.mark.fault(9, 13)
@pytest.mark.skipif(missing("etcd") is not None, reason=str(missing("etcd")))
def test_a_crash_changes_nothing_on_etcd(etcd: Etcd) -> None:
    """The same with records, right and marks on a real etcd; right after the refusal, and after one other effect."""
    every = [*effects()]
    for crash_after in every if FULL else random.Random(SEED).sample(every, 2):
        with closing(OnEtcd(etcd.endpoints, f"yields-{os.getpid()}-{crash_after}", seed=crash_after)) as world:
            world.meter.crash_after = crash_after
            through(world)

            assert (world.crashes, ends(world), gave_way(world)) == (1, YIELDED, True)
            assert len(world.runs()) == 1
