"""Turns at doors: a limit at each sshd, and none that one door takes from another (RUN-11)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from hyops.adapters.doors import AT_ONCE_MAX, Door, Doors
from waiting import PATIENCE_S

MAX_STARTUPS = 10  # a stock sshd's, from where it drops
ONE, OTHER = Door("10.0.0.1", 22), Door("10.0.0.1", 2222)
BEHIND = Door("10.0.0.1", 22, behind=Door("10.9.9.9", 22))


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit."""
    return asyncio.run(asyncio.wait_for(body, PATIENCE_S))


class Callers:
    """Whoever has a turn keeps it until told; `most` is how many had one at once, by door."""

    def __init__(self, doors: Doors) -> None:
        self.doors, self.let_go = doors, asyncio.Event()
        self.inside: Counter[Door] = Counter()
        self.most: Counter[Door] = Counter()

    async def call(self, door: Door) -> None:
        """One turn."""
        async with self.doors.turn(door):
            self.inside[door] += 1
            self.most[door] = max(self.most[door], self.inside[door])
            await self.let_go.wait()
            self.inside[door] -= 1

    def many(self, count: int, *doors: Door) -> list[asyncio.Task[None]]:
        """So many at each."""
        return [asyncio.create_task(self.call(door)) for door in doors for _ in range(count)]


async def settled() -> None:
    """Until every task has run as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.req("RUN-11")
def test_each_door_has_its_own_limit_and_all_get_their_turn() -> None:
    """Thirty at each of three doors: eight at once at each, not eight in all; a bastion's inside is another door."""

    async def body() -> Counter[Door]:
        callers = Callers(Doors())
        tasks = callers.many(30, ONE, OTHER, BEHIND)
        await settled()
        assert callers.inside == {ONE: AT_ONCE_MAX, OTHER: AT_ONCE_MAX, BEHIND: AT_ONCE_MAX}
        callers.let_go.set()
        await asyncio.gather(*tasks)
        return callers.most

    assert run(body()) == {ONE: AT_ONCE_MAX, OTHER: AT_ONCE_MAX, BEHIND: AT_ONCE_MAX}
    assert AT_ONCE_MAX < MAX_STARTUPS


@pytest.mark.req("RUN-11")
def test_a_door_where_nobody_answers_holds_up_no_other() -> None:
    """More callers at a dead door than there are turns in all: the door beside it is free."""

    async def body() -> None:
        doors = Doors(at_once=2, in_all=4)
        dead, well = Callers(doors), Callers(doors)
        tasks = dead.many(50, ONE)
        await settled()
        well.let_go.set()
        await well.call(OTHER)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(body())


@pytest.mark.req("RUN-11")
def test_all_doors_together_have_a_limit_too() -> None:
    """A hundred doors: no more handshakes at once than this host is to bear."""

    async def body() -> None:
        callers = Callers(Doors(in_all=5))
        tasks = callers.many(1, *(Door("10.0.0.2", port) for port in range(1, 101)))
        await settled()
        assert sum(callers.inside.values()) == 5
        callers.let_go.set()
        await asyncio.gather(*tasks)
        assert len(callers.most) == 100

    run(body())


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize("in_all", [1, 64])
def test_a_turn_that_is_given_up_is_free_again(in_all: int) -> None:
    """Cancelled while waiting, cancelled inside, failed inside: the next one gets in, and nothing is kept."""

    async def body() -> None:
        doors = Doors(at_once=1, in_all=in_all)
        callers = Callers(doors)
        inside, waiting = callers.many(2, ONE)
        await settled()
        for task in (waiting, inside):
            task.cancel()
        await asyncio.gather(inside, waiting, return_exceptions=True)
        with pytest.raises(ConnectionError):
            async with doors.turn(ONE):
                raise ConnectionError
        async with doors.turn(ONE):
            assert len(doors) == 1
        assert len(doors) == 0

    run(body())
