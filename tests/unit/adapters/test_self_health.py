"""A vantage point judges itself: starved, paused, its clock moved, or cut off, it has no vote, and says why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hyops.adapters.sampling import Look, Samples
from hyops.adapters.self_health import LAG_CHECK_S, LAG_MAX_S, STEP_MAX_S, UNWELL_FOR_S, SelfHealth, answers
from hyops.model.policy import Signal
from hyops.ports.signals import Watched, Watchlist
from loopback import free_ports
from waiting import PATIENCE_S


class Clocks:
    """Two clocks that a test moves."""

    def __init__(self) -> None:
        self.monotonic_s, self.wall_s = 100.0, 1_700_000_000.0

    def health(self) -> SelfHealth:
        """Judged by them."""
        return SelfHealth(monotonic=lambda: self.monotonic_s, wall=lambda: self.wall_s)

    def go(self, seconds: float) -> None:
        """Time passes."""
        self.monotonic_s += seconds
        self.wall_s += seconds


@pytest.mark.fault(1)
@pytest.mark.req("DEC-4")
def test_a_starved_prober_says_for_how_long_it_got_no_turn() -> None:
    """Its loop is late: unwell with the reason, also for a while after its next turn, and then well again."""
    clocks = Clocks()
    health = clocks.health()
    clocks.go(LAG_CHECK_S + LAG_MAX_S - 0.01)
    assert health.unwell is None

    clocks.go(2.0)

    assert "no turn for 2." in (health.unwell or "")
    health._beat = clocks.monotonic_s
    clocks.go(LAG_MAX_S)
    assert "no turn" in (health.unwell or "")
    health._beat = clocks.monotonic_s + UNWELL_FOR_S
    clocks.go(UNWELL_FOR_S)
    assert health.unwell is None


@pytest.mark.req("DEC-4")
@pytest.mark.parametrize("step_s", [-3600.0, -0.6, 0.6, 3600.0])
def test_a_clock_that_was_moved_costs_the_vote_for_a_while(step_s: float) -> None:
    """Either way, and a machine that was paused looks the same; a slewed clock moves too little to matter."""
    clocks = Clocks()
    health = clocks.health()
    clocks.wall_s += STEP_MAX_S / 2
    assert health.unwell is None
    clocks.wall_s -= STEP_MAX_S / 2

    clocks.wall_s += step_s

    assert f"moved by {step_s:+.1f} s" in (health.unwell or "")
    health._beat = clocks.monotonic_s + UNWELL_FOR_S
    clocks.go(UNWELL_FOR_S)
    assert health.unwell is None


@pytest.mark.req("DEC-4", "INV-5")
def test_a_prober_that_reaches_no_witness_has_no_vote() -> None:
    """Before the first answer, and when answers stop: unwell, naming the witness; one that answers is enough."""
    (closed,) = free_ports(1)

    async def run() -> list[str | None]:
        gone, there = f"dns://127.0.0.1:{closed}", f"tcp://127.0.0.1:{closed}"  # a refusal is an answer
        found = []
        for witnesses in ((gone,), (gone, there)):
            health = SelfHealth(witnesses)
            found.append(health.unwell)
            watching = asyncio.create_task(health.watch())
            async with asyncio.timeout(PATIENCE_S):
                while health.unwell and len(witnesses) == 2:
                    await asyncio.sleep(0)
            found.append(health.unwell)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            assert len(asyncio.all_tasks()) == 1 or all(task.cancelling() for task in asyncio.all_tasks() - _me())
        return found

    first, still, second, well = asyncio.run(run())

    assert f"dns://127.0.0.1:{closed}" in (first or "")
    assert still
    assert second
    assert well is None


def _me() -> set[Any]:
    return {asyncio.current_task()}


@pytest.mark.req("DEC-4")
def test_an_answer_that_is_old_vouches_for_nothing() -> None:
    """The link went down after the last answer: what is seen then does not count."""
    clocks = Clocks()
    health = SelfHealth(["tcp://10.0.0.1:1"], monotonic=lambda: clocks.monotonic_s, wall=lambda: clocks.wall_s)
    health._answered = clocks.monotonic_s
    assert health.unwell is None

    health._beat = clocks.monotonic_s + 0.6
    clocks.go(0.6)

    assert "none of its witnesses" in (health.unwell or "")


@pytest.mark.parametrize("witness", ["tcp://127.0.0.1:99999", "tcp://[::1%nowhere]:1", "dns://127.0.0.1:99999"])
def test_a_witness_that_is_none_does_not_answer(witness: str) -> None:
    """And nothing is raised."""
    assert asyncio.run(answers(witness)) is False


@pytest.mark.parametrize("witness", ["gateway", "http://10.0.0.1:80", "tcp://gateway:80", "tcp://10.0.0.1"])
def test_a_misspelt_witness_is_refused_with_its_place(witness: str) -> None:
    """A name would have to be resolved, which is what a vantage point without a network cannot do."""
    with pytest.raises(ValueError, match="witnesses"):
        Watchlist(vantage="here", watched=[], witnesses=[witness])


@pytest.mark.req("DEC-4")
def test_the_sample_of_an_unwell_prober_says_why_and_does_not_count() -> None:
    """The mark and the reason travel with the value, which is not hidden."""
    clocks = Clocks()
    health = clocks.health()
    samples = Samples("here", health)
    signal = Signal(name="s", source="tcp", vantages=["here"])
    watched = Watched(signal=signal, host="db", address="10.0.0.1", port=1)
    begun = samples.begin()
    clocks.wall_s += 60.0

    sample = samples.end(watched, begun, Look(0.0, "refused"))

    assert sample is not None
    assert (sample.value, sample.healthy_vantage) == (0.0, False)
    assert "clock was moved by +60.0 s; refused" in (sample.detail or "")
