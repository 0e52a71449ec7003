"""Samples to stretches: what is repeated, late, lost or out of range never prolongs anything (DEC-3, DEC-4)."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.control.window import Window, current
from hyops.model.signal import Sample
from hyops.model.vocabulary import CheckStatus
from hyops.testing.clock import EPOCH
from simulation.world import policy

SIGNAL = policy().signals[0]


def look(sequence: int, at: float, value: float | None = 1.0, **more: Any) -> Sample:
    """One look of `control` at the primary, taken `at` seconds after the start."""
    body = {"vantage": "control", "signal": "answers", "sequence": sequence, "value": value}
    return Sample(**{**body, "taken_at": EPOCH + timedelta(seconds=at), **more})


def spans(window: Window) -> list[tuple[str, int]]:
    """Status and count of each stretch."""
    (series,) = window.series()
    return [(str(span.status), span.count) for span in series.spans]


def test_samples_of_one_status_are_one_stretch() -> None:
    """Three good looks, then two bad ones."""
    window = Window(policy())
    for n, value in enumerate([1.0, 1.0, 1.0, 0.0, 0.0]):
        assert window.add(look(n, n / 4, value), 100 + n / 4)

    assert spans(window) == [("ok", 3), ("bad", 2)]


@pytest.mark.req("DEC-3", "INV-5")
def test_what_was_bad_is_unknown_once_nobody_looks() -> None:
    """A lost connection ends the bad stretch at once, however often it is said; the next look begins anew."""
    window = Window(policy())
    for n in range(3):
        window.add(look(n, n / 4, 0.0), 100 + n / 4)

    for again in range(3):
        window.reset("control", 100.6 + again)
    window.reset("witness", 100.7)

    (series,) = window.series()
    assert [(s.status, s.since_s, s.last_s) for s in series.spans] == [
        (CheckStatus.BAD, 100.0, 100.5),
        (CheckStatus.UNKNOWN, 100.6, 100.6),
    ]
    assert series.spans[-1].reason == "the connection was lost"
    window.add(look(0, 3, 0.0), 103)
    assert spans(window) == [("bad", 3), ("unknown", 1), ("bad", 1)]


@pytest.mark.req("DEC-3", "DEC-4")
def test_what_was_good_or_of_the_target_stands_until_it_is_stale() -> None:
    """It speaks against a move: a lost connection takes nobody's word against one away."""
    given = policy()
    window = Window(given)
    window.add(look(0, 0, 1.0), 100)
    (lag,) = [s for s in given.signals if s.name == "lag_bytes"]
    window.add(look(0, 0, 5e6, signal="lag_bytes"), 100)

    window.reset("control", 100.1)

    assert lag.about == "target"
    assert [(s.signal, [str(span.status) for span in s.spans]) for s in window.series()] == [
        ("answers", ["ok"]),
        ("lag_bytes", ["bad"]),
    ]


@pytest.mark.fault(6)
@pytest.mark.req("DEC-3")
def test_repeated_and_older_samples_are_dropped() -> None:
    """The same line twice, or one from before: not taken."""
    window = Window(policy())
    window.add(look(5, 0), 100)

    assert not window.add(look(5, 0), 100.1)
    assert not window.add(look(4, 0), 100.2)
    assert spans(window) == [("ok", 1)]


@pytest.mark.req("DEC-3", "LOOP-1")
def test_a_clock_that_was_set_back_is_a_new_measure() -> None:
    """Evenly an hour late: nothing of it counts for ten seconds, then it is how this clock is; what piles up in a
    pipe that is blocked, and drains, never counts."""
    window = Window(policy())
    for n in range(4):
        window.add(look(n, n / 4), 100 + n / 4)
    for n in range(4, 100):
        window.add(look(n, n / 4 - 3600), 100 + n / 4)
    blocked = Window(policy())
    for n in range(4):
        blocked.add(look(n, n / 4), 100 + n / 4)
    for n in range(4, 100):
        blocked.add(look(n, n / 4), 200 + n / 1000)

    assert spans(window) == [("ok", 4), ("unknown", 40), ("ok", 56)]
    assert [status for status, _ in spans(blocked)] == ["ok", "unknown"]


@pytest.mark.req("DEC-3")
def test_a_lost_line_starts_a_new_stretch() -> None:
    """A jump of the sequence is a gap, even when the samples are close together."""
    window = Window(policy())
    window.add(look(0, 0, 0.0), 100)
    window.add(look(2, 0.5, 0.0), 100.5)

    assert spans(window) == [("bad", 1), ("bad", 1)]


@pytest.mark.req("DEC-3")
def test_a_pause_starts_a_new_stretch() -> None:
    """Nothing for longer than `max_age_s`."""
    window = Window(policy())
    window.add(look(0, 0, 0.0), 100)
    window.add(look(1, 2, 0.0), 102)

    assert spans(window) == [("bad", 1), ("bad", 1)]


@pytest.mark.req("INV-5")
def test_what_arrives_late_is_unknown() -> None:
    """A thawed vantage point empties its pipe: old looks are not about the present."""
    window = Window(policy())
    window.add(look(0, 0), 100)
    for n in range(1, 5):
        window.add(look(n, n / 4, 0.0), 130)

    assert spans(window) == [("ok", 1), ("unknown", 4)]


@pytest.mark.fault(6)
@pytest.mark.req("INV-5")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_no_number_is_unknown(value: float | None) -> None:
    """NaN, the infinities and nothing at all."""
    window = Window(policy())
    window.add(look(0, 0, value), 100)

    assert spans(window) == [("unknown", 1)]


@pytest.mark.req("INV-5")
def test_signals_and_vantage_points_nobody_named_are_dropped() -> None:
    """A sample for another signal, or from somebody who is not asked."""
    window = Window(policy())

    assert not window.add(look(0, 0, signal="other"), 100)
    assert not window.add(look(0, 0, vantage="mallory"), 100)
    assert window.series() == []


@pytest.mark.req("DEC-4")
def test_thresholds_to_enter_and_to_leave_differ() -> None:
    """Bad above 10, good again only at 5 or below: in between it stays what it was."""
    body = policy().body()
    body["signals"][0] |= {"comparator": "lte", "threshold": 10.0, "leave_threshold": 5.0}
    window = Window(policy(signals=body["signals"]))
    for n, value in enumerate([8.0, 11.0, 8.0, 6.0, 5.0, 8.0]):
        window.add(look(n, n / 4, value), 100 + n / 4)

    assert spans(window) == [("ok", 1), ("bad", 3), ("ok", 2)]


@pytest.mark.req("DEC-4")
def test_a_look_that_timed_out_speaks_for_its_whole_time() -> None:
    """A failed look of 0.6 s says that nothing answered since it began, but not since before the last good one."""
    window = Window(policy())
    window.add(look(0, 0), 100.0)
    window.add(look(1, 0.25, 0.0, elapsed_s=0.6), 100.85)
    (series,) = window.series()

    assert series.spans[-1].since_s == pytest.approx(100.25)

    window.add(look(2, 0.5), 100.9)
    window.add(look(3, 0.4, 0.0, elapsed_s=0.6), 101.0)
    (series,) = window.series()

    assert series.spans[-1].since_s == pytest.approx(100.9)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1.0, None, float("nan")]),
            st.floats(0.0, 3.0),
            st.integers(0, 3),
            st.floats(0.0, 1.0),
        ),
        max_size=40,
    )
)
@pytest.mark.req("DEC-3")
def test_a_stretch_never_claims_more_than_was_seen(looks: list[tuple[float | None, float, int, float]]) -> None:
    """Always: a stretch begins after the one before ended, and no gap longer than allowed hides in one."""
    window = Window(policy())
    at, sequence = 0.0, 0
    taken: list[float] = []
    for value, pause, skip, elapsed in looks:
        at, sequence = at + pause, sequence + skip
        if window.add(look(sequence, at, value, elapsed_s=elapsed), 100 + at + elapsed):
            taken.append(round(100 + at + elapsed, 6))
        for series in window.series():
            for before, after in itertools.pairwise(series.spans):
                assert before.last_s <= after.since_s <= after.last_s + 1e-6 or before.last_s > after.last_s
            last = series.spans[-1]
            mine = taken[-last.count :]
            longest = max((b - a for a, b in itertools.pairwise(mine)), default=0)
            assert last.count == 1 or longest <= SIGNAL.max_age_s + 1e-6
            assert current(series, SIGNAL, last.last_s + SIGNAL.max_age_s + 0.01) is None
            if last.status is CheckStatus.BAD:
                assert last.value == 0.0
