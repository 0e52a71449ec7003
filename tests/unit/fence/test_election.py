"""A quorum that elects another leader in the middle of a switch delays it and does not end it (FEN-2, INV-7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from hyops.errors import DeadlineError, PrerequisiteError
from hyops.fence.again import RESERVE_S
from hyops.fence.quorum import ELECTION_S
from hyops.ports.driver import Unanswered
from switch_pair import STEPS, Pair, run, switch

ELECTION = 1.5
"""Seconds; shorter than the lease, so that the primary of the pair stays one."""
CALLS = 12
"""More than a switch asks of the quorum, so that every moment of it is met."""


@dataclass
class LastWords:
    """The old primary's agent; the quorum falls silent for good when it has handed over."""

    pair: Pair

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[Any]]:
        async def ask(**words: Any) -> Any:
            answer = await getattr(self.pair.hosts["onprem-db"].verbs, verb)(**words)
            self.pair.store.silent = verb == "demote"
            return answer

        return ask


def serving() -> Pair:
    """A pair with a few rows."""
    pair = Pair()
    for number in range(5):
        pair.write("onprem-db", f"row-{number}")
    return pair


@pytest.mark.req("FEN-2", "INV-1", "INV-7")
@pytest.mark.fault(13)
@pytest.mark.parametrize("after", range(CALLS))
@pytest.mark.parametrize("planned", [True, False])
def test_a_switch_outlives_an_election_at_any_moment(planned: bool, after: int) -> None:
    """Whichever request meets it, the runner's or an agent's: one host writes, no row is lost."""
    pair = serving()
    pair.store.elect(after=after, for_s=ELECTION)

    results = run(switch(pair, pair.spec(planned=planned)))

    assert results["promote"].outputs["generation_after"] == 2
    assert pair.writers() == ["cloud-db"]
    assert pair.lost() == []


@pytest.mark.req("FEN-2", "GATE-1")
def test_a_preflight_outlives_an_election() -> None:
    """A look that meets it finds nothing wrong."""
    pair = serving()
    step, module, names = STEPS[0]
    context = pair.context(pair.spec(), step, {name: pair.inputs()[name] for name in names})
    pair.store.elect(after=0, for_s=ELECTION)

    assert run(pair.drivers()[module].preflight(context)) == []

    pair.store.silent = True
    (fault,) = run(pair.drivers()[module].preflight(context))
    assert isinstance(fault, Unanswered)


@pytest.mark.req("FEN-2", "UX-1")
def test_a_quorum_that_stays_silent_is_given_up_before_anything_is_touched() -> None:
    """Many times an election, but not the whole step: the old primary serves on."""
    pair = serving()
    step, module, names = STEPS[0]
    context = pair.context(pair.spec(planned=True), step, {name: pair.inputs()[name] for name in names}, for_s=60.0)
    began, pair.store.silent = pair.clock.monotonic(), True

    with pytest.raises(PrerequisiteError, match="does not answer"):
        run(pair.drivers()[module].apply(context))

    assert pair.clock.monotonic() - began == pytest.approx(ELECTION_S, abs=0.1)
    assert pair.hosts["onprem-db"].agent.state.hold == "none"


@pytest.mark.req("FEN-2", "BP-4")
def test_after_a_demotion_the_quorum_is_waited_for_as_long_as_the_step_lasts() -> None:
    """Nobody serves by then. What is left of the step is for saying so; the same run, resumed, goes on."""
    pair = serving()
    spec = pair.spec(planned=True)
    step, module, names = STEPS[0]
    inputs = {name: pair.inputs()[name] for name in names}
    began = pair.clock.monotonic()
    context = pair.context(spec, step, inputs, for_s=60.0)
    pair.agents["onprem-db"] = LastWords(pair)
    with pytest.raises(DeadlineError, match="while raising the generation"):
        run(pair.drivers()[module].apply(context))
    assert 60.0 - 2 * RESERVE_S < pair.clock.monotonic() - began <= 60.0 - RESERVE_S

    del pair.agents["onprem-db"]
    pair.store.silent = False
    run(switch(pair, spec))
    assert pair.writers() == ["cloud-db"]
    assert pair.lost() == []
