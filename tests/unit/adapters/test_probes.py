"""The stream of one vantage point: its own health, its lines, and what a probe may do to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hyops.adapters.probes_stream import LAG_CHECK_S, LAG_MAX_S, Look, SelfHealth, Stream
from hyops.adapters.signals_ssh import LINE_BYTES_MAX
from hyops.errors import ConfigError
from hyops.model.policy import Signal
from hyops.model.signal import Sample
from hyops.ports.signals import Watched, Watchlist
from waiting import PATIENCE_S, stand_still

SIGNAL = Signal(name="s", source="tcp", vantages=["here"], interval_s=0.01, timeout_s=0.2)
WATCHLIST = Watchlist(vantage="here", watched=[Watched(signal=SIGNAL, host="db", address="10.0.0.1", port=5432)])


def samples(probe: Any, count: int = 1, watchlist: Watchlist = WATCHLIST) -> list[Sample]:
    """The first samples that a stream emits; it is closed after them."""

    async def run() -> list[Sample]:
        found: list[Sample] = []
        enough = asyncio.Event()

        def emit(sample: Sample) -> None:
            found.append(sample)
            if len(found) == count:
                enough.set()

        task = asyncio.create_task(Stream(watchlist, {"tcp": probe}, emit).run())
        async with asyncio.timeout(PATIENCE_S):
            await enough.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return found[:count]

    return asyncio.run(run())


def stall(seconds: float) -> None:
    """Block the event loop, as a starved or stopped process does."""
    stand_still(seconds, "the vantage's own clock sees that it got no turn")


@pytest.mark.req("DEC-4")
def test_a_vantage_that_was_stalled_has_no_vote() -> None:
    """A time-out during which the whole process stood still is marked, and so are the looks of the next second."""

    async def probe(watched: Watched, watchlist: Watchlist) -> Look:
        stall(0.3)
        await asyncio.Event().wait()
        raise AssertionError

    first, second = samples(probe, 2)

    assert first.value == 0.0
    assert [first.healthy_vantage, second.healthy_vantage] == [False, False]


@pytest.mark.req("DEC-4")
def test_health_is_judged_by_whoever_asks_first() -> None:
    """After a stall the answer is no, although the heartbeat has not had its turn yet."""

    async def run() -> tuple[bool, bool]:
        health = SelfHealth()
        task = asyncio.create_task(health.watch())
        await asyncio.sleep(0)
        before = health.well
        stall(LAG_CHECK_S + LAG_MAX_S + 0.05)
        after = health.well
        task.cancel()
        return before, after

    assert asyncio.run(run()) == (True, False)


@pytest.mark.req("INV-5")
@pytest.mark.parametrize("error", [ConfigError("no such measure"), RuntimeError("bug"), KeyError("x")])
def test_a_probe_that_breaks_is_unknown_and_says_why(error: Exception) -> None:
    """What cannot be measured has no value, is never silent, and does not end the stream."""

    async def probe(watched: Watched, watchlist: Watchlist) -> Look:
        raise error

    first, second = samples(probe, 2)

    assert (first.value, second.value) == (None, None)
    assert type(error).__name__ in (first.error or "")


@pytest.mark.parametrize("words", ["\0" * 100_000, "\N{GRINNING FACE}" * 100_000, "\udc80" * 100_000])
@pytest.mark.parametrize("value", [0.0, None])
def test_a_target_cannot_make_a_line_that_the_receiver_refuses(words: str, value: float | None) -> None:
    """A server's own words are cut, so that no target can silence the vantage points."""

    async def probe(watched: Watched, watchlist: Watchlist) -> Look:
        return Look(value, words)

    (sample,) = samples(probe)

    assert len(sample.encoded_line()) < LINE_BYTES_MAX
    assert Sample.read(sample.encoded_line()) == sample


def test_samples_are_numbered_without_a_gap() -> None:
    """Each signal counts from 0 by one, so that a lost line shows."""

    async def probe(watched: Watched, watchlist: Watchlist) -> Look:
        return Look(1.0)

    assert [sample.sequence for sample in samples(probe, 5)] == [0, 1, 2, 3, 4]


def test_an_older_look_never_follows_a_newer_one() -> None:
    """A slow look that ends after a later one is dropped: time does not run backwards for the receiver."""
    calls, newer = 0, asyncio.Event()

    async def probe(watched: Watched, watchlist: Watchlist) -> Look:
        nonlocal calls
        calls += 1
        if calls == 1:
            await newer.wait()
            return Look(0.0, "slow")
        newer.set()
        return Look(1.0)

    found = samples(probe, 8)

    assert {sample.value for sample in found} == {1.0}
    assert [a.taken_at for a in found] == sorted(a.taken_at for a in found)


def test_an_output_that_broke_ends_the_stream() -> None:
    """What `emit` raises is not swallowed: a vantage that nobody hears does not go on looking."""

    async def probe(watched: Watched, watchlist: Watchlist) -> Look:
        return Look(1.0)

    def emit(sample: Sample) -> None:
        raise BrokenPipeError

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await Stream(WATCHLIST, {"tcp": probe}, emit).run()

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(run())
    assert caught.group_contains(BrokenPipeError)


def test_closing_the_stream_ends_every_look() -> None:
    """No look outlives its stream, or a vantage that changes its list would pile them up."""
    running: set[int] = set()
    started = asyncio.Event()

    async def probe(watched: Watched, watchlist: Watchlist) -> Look:
        mine = len(running)
        running.add(mine)
        started.set()
        try:
            await asyncio.Event().wait()
            raise AssertionError
        finally:
            running.discard(mine)

    async def run() -> int:
        task = asyncio.create_task(Stream(WATCHLIST, {"tcp": probe}, lambda sample: None).run())
        async with asyncio.timeout(PATIENCE_S):
            await started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(running)

    assert asyncio.run(run()) == 0
