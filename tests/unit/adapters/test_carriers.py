"""One connection to a bastion for all who go through it at the time (RUN-11, ACC-2)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from hyops.adapters.carriers import AGE_MAX_S, Carriers
from hyops.errors import HostKeyError, HyopsError
from waiting import PATIENCE_S


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """Run within a hard limit."""
    return asyncio.run(asyncio.wait_for(body, PATIENCE_S))


class Way:
    """A connection."""

    def __init__(self) -> None:
        self.gone, self.drops = False, 0

    async def drop(self) -> None:
        """Note it."""
        self.gone, self.drops = True, self.drops + 1


class Bastions:
    """Dialling waits for `answer`, then fails with what is in `fails`, if anything is."""

    def __init__(self) -> None:
        self.dialled: list[str] = []
        self.made: list[Way] = []
        self.fails: list[HyopsError] = []
        self.answer = asyncio.Event()
        self.given_up = 0
        self.at = 1000.0
        self.ways: Carriers[str, Way] = Carriers(self.dial, lambda: self.at)

    async def dial(self, name: str) -> Way:
        """One handshake."""
        self.dialled.append(name)
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.fails:
            raise self.fails.pop()
        self.made.append(Way())
        return self.made[-1]

    async def use(self, name: str, until: asyncio.Event) -> Way:
        """Go through it until told."""
        async with self.ways.to(name) as way:
            await until.wait()
            return way


async def settled() -> None:
    """Until every task has run as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.req("RUN-11")
def test_many_share_one_and_the_last_one_drops_it() -> None:
    """Fifty at once: one handshake; it stays while anybody is in it, and another bastion is another connection."""

    async def body() -> None:
        bastions, most, last = Bastions(), asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(bastions.use("jump", most)) for _ in range(49)]
        tasks.append(asyncio.create_task(bastions.use("jump", last)))
        elsewhere = asyncio.create_task(bastions.use("other", last))
        await settled()
        bastions.answer.set()
        most.set()
        await asyncio.gather(*tasks[:49])
        assert (sorted(bastions.dialled), [way.drops for way in bastions.made]) == (["jump", "other"], [0, 0])
        last.set()
        assert len({id(way) for way in await asyncio.gather(*tasks, elsewhere)}) == 2
        assert [way.drops for way in bastions.made] == [1, 1]
        await bastions.use("jump", last)
        assert bastions.dialled.count("jump") == 2

    run(body())


@pytest.mark.req("RUN-11")
def test_after_it_broke_the_next_one_dials_anew() -> None:
    """Those inside keep the broken one until they leave; nobody else gets it, and each is dropped once."""

    async def body() -> None:
        bastions, leave = Bastions(), asyncio.Event()
        bastions.answer.set()
        old = asyncio.create_task(bastions.use("jump", leave))
        await settled()
        bastions.made[0].gone = True
        new = asyncio.create_task(bastions.use("jump", leave))
        await settled()
        leave.set()
        first, second = await old, await new
        assert first is not second
        assert [way.drops for way in bastions.made] == [1, 1]

    run(body())


@pytest.mark.req("RUN-11", "ACC-2")
def test_nobody_new_is_let_into_an_old_one() -> None:
    """A bastion that takes a key away is asked again within five minutes, though one link stays open for hours; those
    inside keep what they have, and the young one is shared as ever."""

    async def body() -> None:
        bastions, leave = Bastions(), asyncio.Event()
        bastions.answer.set()
        inside = [asyncio.create_task(bastions.use("jump", leave))]
        for later_s in (AGE_MAX_S, 1.0, 1.0):
            await settled()
            bastions.at += later_s
            inside.append(asyncio.create_task(bastions.use("jump", leave)))
        await settled()
        assert [way.drops for way in bastions.made] == [0, 0]
        leave.set()
        first, second, third, fourth = await asyncio.gather(*inside)
        assert (first is second, third is fourth, first is third) == (True, True, False)
        assert [way.drops for way in bastions.made] == [1, 1]

    run(body())


@pytest.mark.req("RUN-11", "RUN-3")
def test_all_who_wait_for_one_try_hear_how_it_failed() -> None:
    """A wrong host key is told to each, as an error of its own; the next one to ask tries again."""

    async def body() -> None:
        bastions, leave = Bastions(), asyncio.Event()
        bastions.fails = [HostKeyError("jump: changed", hint="look")]
        tasks = [asyncio.create_task(bastions.use("jump", leave)) for _ in range(5)]
        await settled()
        bastions.answer.set()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [(type(exc), str(exc), exc.hint) for exc in told] == [(HostKeyError, "jump: changed", "look")] * 5
        assert len({id(exc) for exc in told}) == 5
        leave.set()
        assert (await bastions.use("jump", leave)).drops == 1
        assert bastions.dialled == ["jump", "jump"]

    run(body())


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize("others", [0, 3])
def test_one_who_gives_up_waiting_ends_it_for_nobody_else(others: int) -> None:
    """The first asker is cancelled: the handshake goes on for those behind it, and ends when there is nobody."""

    async def body() -> None:
        bastions, leave = Bastions(), asyncio.Event()
        leave.set()
        first = asyncio.create_task(bastions.use("jump", leave))
        await settled()
        rest = [asyncio.create_task(bastions.use("jump", leave)) for _ in range(others)]
        await settled()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert first.cancelled()
        assert bastions.given_up == (not others)
        bastions.answer.set()
        await asyncio.gather(*rest)
        assert (bastions.dialled, [way.drops for way in bastions.made]) == (["jump"], [1] * bool(others))

    run(body())
