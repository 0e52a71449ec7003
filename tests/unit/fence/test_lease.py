"""The agent's decisions as pure code, and as a property over long random histories."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyops.fence import lease as rules
from hyops.fence.lease import LeaseTimes, Seen
from hyops.fence.state import AgentState
from hyops.model.fence import LeaseState
from hyops.ports.lease import Grant
from switch_pair import Pair

TIMES = LeaseTimes()
MINE = AgentState(service="pg", host="a", generation=3, primary="a")
THEIRS = MINE.model_copy(update={"primary": "b"})
FENCED = MINE.model_copy(update={"hold": "fenced", "hold_generation": 3, "hold_run": "run-1"})


def lease(generation: int = 3, primary: str = "a", holder: str | None = None) -> LeaseState:
    """What the quorum says."""
    return LeaseState(service="pg", generation=generation, primary=primary, holder=holder)


def seen(**words: object) -> Seen:
    """A healthy primary at 100 s, unless told otherwise."""
    usual = {"now": 100.0, "state": MINE, "role": "primary", "edge_open": True, "grant": Grant(1, 101.5)}
    return Seen(**(usual | {"renewed_at": 99.9} | words))  # type: ignore[arg-type]


@pytest.mark.req("FEN-2", "INV-1", "INV-5")
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (seen(), rules.Wait),
        (seen(renewed_at=99.0), rules.Renew),
        (seen(renewed_at=99.0, asked=True), rules.Wait),
        (seen(now=101.5), rules.Close),
        (seen(grant=None), rules.Close),
        (seen(state=THEIRS), rules.Close),
        (seen(state=FENCED), rules.Close),
        (seen(lease=lease(4, "b")), rules.Learn),
        (seen(edge_open=False, grant=None, state=THEIRS), rules.Stop),
        (seen(edge_open=False, grant=None, state=FENCED), rules.Stop),
        (seen(edge_open=False, grant=None, state=FENCED, busy=True), rules.Wait),
        (seen(edge_open=False, grant=None, lost_at=99.0), rules.Stop),
        (seen(edge_open=False, grant=None, lost_at=99.5), rules.Ask),
        (seen(edge_open=False, grant=None, asked=True), rules.Wait),
        (seen(edge_open=False, grant=None, asked=True, lease=lease()), rules.Acquire),
        (seen(edge_open=False, grant=None, asked=True, lease=lease(holder="b")), rules.Wait),
        (seen(edge_open=False, grant=None, asked=True, lease=lease(2)), rules.Wait),
        (seen(edge_open=False, grant=None, asked=True, lease=lease(), role="stopped"), rules.Wait),
        (seen(edge_open=False, grant=None, asked=True, lease=lease(), role="standby"), rules.LetRead),
        (seen(edge_open=False, role="standby", renewed_at=99.0), rules.Renew),
    ],
)
def test_one_thing_is_done_at_a_time(what: Seen, expected: type) -> None:
    """Each situation has its one next action."""
    assert isinstance(rules.next_action(what, TIMES), expected)


@pytest.mark.req("INV-1", "INV-3", "FEN-2")
@pytest.mark.parametrize(
    "changes",
    [
        {"state": MINE.model_copy(update={"generation": 4})},
        {"state": THEIRS},
        {"state": FENCED},
        {"state": FENCED.model_copy(update={"hold": "demoted"})},
        {"state": FENCED.model_copy(update={"hold": "forgotten", "hold_generation": 0})},
        {"role": "standby"},
        {"role": "stopped"},
        {"role": "unknown"},
        {"grant": None},
        {"now": 101.5},
    ],
)
def test_the_last_look_needs_everything(changes: dict[str, object]) -> None:
    """A healthy primary may open; with any one thing missing it may not, though all the others are there."""
    assert rules.may_open(seen(edge_open=False), 3) is True
    assert rules.may_open(seen(**({"edge_open": False} | changes)), 3) is False


@pytest.mark.req("FEN-2")
def test_a_database_that_was_stopped_for_its_lease_is_started_only_with_a_lease() -> None:
    """First the lease, then the start; one that an operator stopped stays stopped."""
    stopped = MINE.model_copy(update={"stopped_for_lease": True})
    words = {"role": "stopped", "edge_open": False, "asked": True, "lease": lease()}
    assert isinstance(rules.next_action(seen(state=stopped, grant=None, **words), TIMES), rules.Acquire)
    assert isinstance(rules.next_action(seen(state=stopped, **words), TIMES), rules.Start)
    assert isinstance(rules.next_action(seen(state=MINE, **words), TIMES), rules.Wait)


@pytest.mark.req("FEN-2")
def test_with_on_loss_stay_silence_keeps_the_edge_and_a_newer_generation_closes_it() -> None:
    """`stay` outlives the quorum, never a word of it."""
    stay = LeaseTimes(on_loss="stay")
    assert isinstance(rules.next_action(seen(grant=None, asked=True), stay), rules.Extend)
    assert isinstance(rules.next_action(seen(grant=None, asked=True, lease=lease(4, "b")), stay), rules.Learn)
    assert isinstance(rules.next_action(seen(grant=None, state=THEIRS), stay), rules.Close)


@pytest.mark.req("INV-1", "FEN-2")
@pytest.mark.fault(28)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["tick", "silent", "answers", "freeze a", "thaw", "restart a", "restart b", "start a", "switch"]
        ),
        max_size=25,
    )
)
def test_two_places_never_take_writes_whatever_happens(events: list[str]) -> None:
    """Freezes, restarts, silence of the quorum and switches in any order: at no moment are there two writers."""
    import asyncio

    from hyops.errors import HyopsError
    from hyops.ports.lease import QuorumLostError
    from switch_pair import run, switch

    pair, runs = Pair(), 0
    two: list[str] = []

    def look(where: str) -> None:
        if len(pair.writers()) > 1:
            two.append(where)

    pair.probe.before_write = look
    for event in events:
        look(event)
        if event == "tick":
            pair.tick(0.4)
        elif event in ("silent", "answers"):
            pair.store.silent = event == "silent"
        elif event == "freeze a":
            pair.frozen.add("onprem-db")
        elif event == "thaw":
            pair.frozen.clear()
        elif event.startswith("restart"):
            pair.restart("onprem-db" if event.endswith("a") else "cloud-db")
        elif event == "start a":
            asyncio.run(pair.hosts["onprem-db"].database.start(limit_s=1))
        else:
            runs += 1
            try:
                now = run(pair.store.state("pg"))
                source, target = now.primary, next(h for h in pair.hosts if h != now.primary)
                spec = pair.spec(generation=now.generation, run_id=f"run-{runs}")
                run(switch(pair, spec, pair.inputs(source=source, target=target)))
            except (HyopsError, QuorumLostError):
                pass
        pair.tick(0.1)
        look(event)
    assert two == []


@pytest.mark.req("FEN-2", "DEC-4")
def test_a_standby_whose_turn_it_is_still_answers_the_monitors() -> None:
    """Between the raised generation and the promotion it is watched like any standby; it does not take the lease."""
    standby = {"role": "standby", "edge_open": False, "grant": None, "asked": True, "lease": lease()}

    assert rules.next_action(seen(**standby), TIMES) == rules.LetRead()
    assert isinstance(rules.next_action(seen(**standby, busy=True), TIMES), rules.Wait)
