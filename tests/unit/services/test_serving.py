"""What running stages tell of their clocks and mirrors, and what is made of it for people (LOOP-3, UX-2)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyops.control.holding import FUTURE_MAX_S
from hyops.services.serving import seen, told, untold, warnings

pytestmark = pytest.mark.req("LOOP-3", "UX-2")

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
EVERY_S, LAPSE_S = 60.0, 34.0
SPAN_S = EVERY_S + LAPSE_S


def telling(clock: datetime, **changes: Any) -> dict[str, Any]:
    """Of the executor of one host."""
    body = {"stage": "execution", "host": "h1", "pid": "7", "version": "1.2", "since": "2026-01-31T11:00:00+00:00"}
    more = {"confirmed_s": 0.0, "behind": None, "every_s": EVERY_S, "lapse_s": LAPSE_S}
    return {**body, "clock": clock.isoformat(), **more, **changes}


def read(took_s: float = 0.0, **changes: Any) -> dict[str, Any]:
    """Shown to somebody who asked at noon."""
    clock = changes.pop("clock", NOW - timedelta(seconds=SPAN_S / 2))
    told_now = telling(clock if isinstance(clock, datetime) else NOW, **changes)
    if not isinstance(clock, datetime):
        told_now["clock"] = clock
    (one,) = seen([told_now], NOW, NOW + timedelta(seconds=took_s))
    return one


@given(
    off_s=st.floats(-1e6, 1e6),
    told_ago_s=st.floats(0.0, SPAN_S),
    took_s=st.floats(0.0, 5.0),
)
def test_the_true_difference_is_within_what_is_shown(off_s: float, told_ago_s: float, took_s: float) -> None:
    """However old the telling was and however long the answer took."""
    read_at = NOW + timedelta(seconds=took_s)
    (one,) = seen([telling(NOW + timedelta(seconds=off_s - told_ago_s))], NOW, read_at)

    clock = one["clock"]
    assert abs(clock["off_s"] - off_s) <= clock["within_s"] + 0.11
    assert clock["within_s"] == pytest.approx((SPAN_S + took_s) / 2, abs=0.06)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("off_s", "word"),
    [
        (0.0, None),
        (FUTURE_MAX_S - SPAN_S / 2, None),
        (FUTURE_MAX_S - SPAN_S / 2 + 1, "may differ"),
        (FUTURE_MAX_S + SPAN_S / 2, "may differ"),
        (FUTURE_MAX_S + SPAN_S / 2 + 1, "differs"),
    ],
)
def test_a_clock_is_warned_of_from_where_it_may_be_too_far_off(sign: int, off_s: float, word: str | None) -> None:
    """Ahead or behind, by what the rules give; a difference that the age of the telling explains is none."""
    one = read(clock=NOW + timedelta(seconds=sign * off_s - SPAN_S / 2))

    assert one["clock"]["off_s"] == pytest.approx(sign * off_s)
    found = warnings([one])
    assert len(found) == (word is not None)
    if word is not None:
        assert f"the clock of execution on h1 (pid 7) {word} from this host's by more than 300 s" in found[0]
        assert "chronyc makestep" in found[0]


def test_a_clock_and_a_mirror_in_words() -> None:
    """Which way, how exactly, and for how long at most nothing was confirmed."""
    ahead = read(clock=NOW + timedelta(seconds=10))

    assert told(ahead) == "clock 57 s ahead of this host's (± 47 s), mirror confirmed at most 34 s ago"
    assert told(read()) == "clock 0 s behind this host's (± 47 s), mirror confirmed at most 34 s ago"


def test_a_mirror_that_is_not_confirmed_is_warned_of_with_its_age() -> None:
    """At the least what it said, at the most as much more as the telling may be old."""
    one = read(confirmed_s=20.0, behind="permission denied")

    assert one["mirror"] == {"least_s": 20.0, "most_s": 20.0 + SPAN_S, "behind": "permission denied"}
    assert told(one).endswith("mirror confirmed 20 s to 114 s ago")
    assert warnings([one]) == ["the mirror of execution on h1 (pid 7) is not confirmed now: permission denied"]
    assert warnings([read()]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"clock": None, "confirmed_s": None, "every_s": None, "lapse_s": None},
        {"clock": "2026-01-31T12:00:00"},
        {"clock": "noon"},
        {"clock": 5},
        {"every_s": "60"},
        {"every_s": True},
        {"every_s": -1},
        {"every_s": float("nan")},
        {"lapse_s": 1e9},
        {"confirmed_s": float("inf")},
    ],
    ids=lambda changes: str(changes),
)
def test_who_does_not_tell_is_shown_as_unknown(changes: dict[str, Any]) -> None:
    """An older hyops, or a value that somebody wrote by hand: nothing is claimed and nothing is warned of."""
    one = read(**changes)

    assert (one["stage"], one["host"], one["version"]) == ("execution", "h1", "1.2")
    assert None in (one["clock"], one["mirror"])
    assert untold([one]) == ["the clock and the mirror of execution on h1 (pid 7): its hyops (1.2) does not tell them"]
    assert (told(one), warnings([one])) == ("", [])
    assert untold([read()]) == []
