"""The simulation's own parts: time that jumps, processes that freeze and die, shrinking, and a search that goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from simulation.schedule import Schedule, drawn, play, shrunk
from simulation.search import Kept
from simulation.virtual import DeadError, Process, StuckError, VirtualClock, the_loop


def test_a_frozen_process_finds_its_time_limit_passed_when_it_thaws() -> None:
    """It sees nothing while it stands still, and goes on in the middle of what it waited for."""
    loop = the_loop().fresh()
    clock = VirtualClock(loop)
    seen: list[float] = []

    async def work() -> None:
        while True:
            try:
                async with asyncio.timeout(1.0):
                    await clock.sleep(5.0)
            except TimeoutError:
                seen.append(clock.monotonic())

    process = Process("test", loop)
    process.task(work())
    clock.advance(1.5)
    process.freeze()
    clock.advance(5.0)
    assert seen == [1001.0]
    process.thaw()
    clock.advance(1.2)
    assert seen == [1001.0, 1006.5, 1007.5]
    loop.fresh()


def test_a_killed_process_and_the_tasks_it_made_touch_nothing_more() -> None:
    """Whatever stands in its `finally`, and in that of a task of its own."""
    loop = the_loop().fresh()
    process, touched, clock = Process("test", loop), list[str](), VirtualClock(loop)

    async def inner() -> None:
        try:
            await clock.sleep(10.0)
        finally:
            process.alive()
            touched.append("inner")

    async def work() -> None:
        asyncio.create_task(inner())  # noqa: RUF006  # it dies with the process
        try:
            await clock.sleep(10.0)
        finally:
            process.alive()
            touched.append("outer")

    process.task(work())
    loop.let_pass(1.0)
    process.kill()
    loop.let_pass(20.0)
    assert touched == []
    with pytest.raises(DeadError):
        process.alive()
    loop.fresh()


def test_a_world_in_which_everybody_waits_says_so() -> None:
    """Nothing would ever happen: that is told, not waited for."""
    loop = the_loop().fresh()
    with pytest.raises(StuckError):
        loop.run_until_complete(asyncio.Event().wait())
    loop.fresh()


def test_a_schedule_is_shrunk_to_what_makes_it_fail() -> None:
    """Two events of twenty matter, in this order."""
    events = tuple(("e", n) for n in range(20))

    def fails(schedule: Schedule) -> bool:
        return ("e", 3) in schedule.events and ("e", 17) in schedule.events

    small = shrunk(Schedule(1, 1, 1, events), fails)
    assert small.events == (("e", 3), ("e", 17))
    assert Schedule.of_json(small.as_json()).events == small.events


def test_a_seed_plays_the_same_twice() -> None:
    """What was met, how often, and how far it came."""
    first, second = play(drawn(12)), play(drawn(12))
    assert (first.met, first.steps, first.fault) == (second.met, second.steps, second.fault)


def test_a_search_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """What was played is kept; another seed is another search."""
    state = tmp_path / "state.json"
    Kept(state, 7).add({"first": 7, "met": Counter(a=2), "faults": {"9": "why"}, "steps": 5}, 1.0)
    again = Kept(state, 7)
    assert (again.done, again.met, again.faults, again.steps) == ({7}, Counter(a=2), {"9": "why"}, 5)
    assert Kept(state, 8).done == set()
