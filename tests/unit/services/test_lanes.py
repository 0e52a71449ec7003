"""Room on a runner: no more than it has, given in the order of the queue, and never lost (RUN-11, EXE-1)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fault_size import seeds
from hyops.control.queue import LOST, MOVED, Rank
from hyops.services.lanes import Lanes
from waiting import PATIENCE_S

LONG_S = 3600.0
START = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)


def rank(name: str, severity: int = LOST, age_s: float = 0.0) -> Rank:
    """A place in the queue."""
    return Rank(severity, START - timedelta(seconds=age_s), name)


class Holders:
    """Runs that hold room until they are told to end, and the order in which they got it."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes, self.order, self.most, self.now = lanes, list[str](), 0, 0
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def come(self, place: Rank, runner: str = "cloud-runner", wait_s: float = LONG_S) -> None:
        """One more wants room."""
        self.ends[place.name] = asyncio.Event()
        self.tasks[place.name] = asyncio.create_task(self._run(place, runner, wait_s))

    async def _run(self, place: Rank, runner: str, wait_s: float) -> None:
        async with self.lanes.room(runner, place, wait_s):
            self.order.append(place.name)
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await self.ends[place.name].wait()
            finally:
                self.now -= 1

    async def settled(self) -> None:
        """Everybody who can go on has gone on."""
        for _ in range(20):
            await asyncio.sleep(0)


def play(scene: Callable[[Holders], Coroutine[Any, Any, None]], at_once: int = 1) -> Holders:
    """Run a scene to its end."""

    async def played() -> Holders:
        holders = Holders(Lanes(lambda _runner: at_once))
        await scene(holders)
        for end in holders.ends.values():
            end.set()
        await asyncio.gather(*holders.tasks.values(), return_exceptions=True)
        return holders

    return asyncio.run(asyncio.wait_for(played(), PATIENCE_S))


@pytest.mark.req("EXE-1", "RUN-11")
def test_room_goes_to_the_most_severe_not_to_the_first() -> None:
    """Two wait when the only room is given back: the lost service gets it, though the moved one came first."""

    async def scene(holders: Holders) -> None:
        holders.come(rank("first", MOVED))
        await holders.settled()
        holders.come(rank("moved", MOVED, age_s=900))
        holders.come(rank("lost", LOST))
        await holders.settled()
        assert holders.order == ["first"]
        holders.ends["first"].set()
        await holders.settled()
        assert holders.order == ["first", "lost"]

    assert play(scene).order == ["first", "lost", "moved"]


@pytest.mark.req("EXE-1")
def test_those_that_come_together_are_ranked_together() -> None:
    """After a restart all are found in one pass: the first of them is not simply the one that was read first."""

    async def scene(holders: Holders) -> None:
        for place in (rank("planned", MOVED), rank("younger"), rank("older", age_s=60)):
            holders.come(place)
        await holders.settled()
        assert holders.order == ["older"]
        assert holders.lanes.ahead("cloud-runner", rank("z", MOVED)) == 3

    assert play(scene).order == ["older", "younger", "planned"]


@pytest.mark.req("RUN-11")
def test_a_runner_that_is_full_holds_up_no_other() -> None:
    """Each has room of its own."""

    async def scene(holders: Holders) -> None:
        holders.come(rank("a"))
        holders.come(rank("b"), runner="onprem-runner")
        await holders.settled()
        assert sorted(holders.order) == ["a", "b"]
        assert holders.lanes.is_full("cloud-runner")
        assert not holders.lanes.is_full("azure-runner")

    play(scene)


@pytest.mark.req("EXE-1", "INV-7")
def test_who_may_not_wait_any_longer_goes_on_without_room() -> None:
    """Its execution has expired: it asks and is closed, and it takes nothing away from those that wait."""

    async def scene(holders: Holders) -> None:
        holders.come(rank("holds"))
        await holders.settled()
        holders.come(rank("expired", MOVED), wait_s=0.0)
        holders.come(rank("waits", MOVED, age_s=1))
        while "expired" not in holders.order:
            await asyncio.sleep(0)
        holders.ends["expired"].set()
        await holders.tasks["expired"]
        await holders.settled()
        assert holders.order == ["holds", "expired"]

    assert play(scene).order == ["holds", "expired", "waits"]


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize("seed", seeds(10))
def test_room_is_neither_lost_nor_given_twice(seed: int) -> None:
    """Comings, ends and cancellations in any order: never more than two at once, and both rooms are free at the end."""
    chance = random.Random(seed)

    async def scene(holders: Holders) -> None:
        for number in range(60):
            holders.come(rank(f"r{number}", chance.choice([LOST, MOVED]), age_s=chance.random()))
            for name in chance.sample(sorted(holders.tasks), k=min(2, len(holders.tasks))):
                if chance.random() < 0.4:
                    holders.tasks[name].cancel()
                elif chance.random() < 0.5:
                    holders.ends[name].set()
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)

    holders = play(scene, at_once=2)

    assert holders.most == 2
    assert holders.now == 0
    assert not holders.lanes.is_full("cloud-runner")
    assert holders.lanes.ahead("cloud-runner", rank("z", 9)) == 0
