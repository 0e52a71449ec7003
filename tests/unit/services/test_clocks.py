"""Whether two hosts' clocks are near enough for what one of them signs (RUN-11)."""

from __future__ import annotations

import ctypes

import pytest

from hyops.adapters.runner_answers import hello
from hyops.control import dispatch, gate, hearing
from hyops.errors import RunnerUnreachableError
from hyops.evidence import gaps
from hyops.model.clocks import SKEW_MAX_S
from hyops.model.protocol import PROTOCOL_MAX, PROTOCOL_MIN
from hyops.ports.transport import ClockSeen
from hyops.runner import admission, kernel_clock
from hyops.services import clocks
from hyops.services.config_execution import Certificates

SAID = {
    "runner_ref": "r",
    "site": "cloud",
    "hyops_version": "0",
    "protocol_min": PROTOCOL_MIN,
    "protocol_max": PROTOCOL_MAX,
    "disk_free_bytes": 1,
    "open_runs": [],
}


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(
    ("seen", "fits"),
    [
        (None, True),
        (ClockSeen(0.0, 0.1), True),
        (ClockSeen(SKEW_MAX_S, 0.0), True),
        (ClockSeen(SKEW_MAX_S + 0.1, 0.0), False),
        (ClockSeen(-SKEW_MAX_S - 0.1, 0.0), False),
        (ClockSeen(SKEW_MAX_S + 5, 10.0), True),
        (ClockSeen(SKEW_MAX_S + 5, 4.0), False),
        (ClockSeen(0.0, 3600.0), True),
    ],
)
def test_only_a_clock_that_is_certainly_off_is_refused(seen: ClockSeen | None, fits: bool) -> None:
    """What the round trip may explain is no fault of the clock; a runner that tells none judges by itself."""
    assert (clocks.fault(seen, "r", lambda: None) is None) is fits


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(
    ("here", "there", "says"),
    [
        (True, False, "NTP keeps that of this host, so it is r's that is wrong"),
        (False, True, "NTP keeps that of r, so it is this host's that is wrong"),
        (True, None, "NTP keeps that of this host; of r's it is not known"),
        (True, True, "NTP keeps both"),
        (False, False, "NTP keeps neither"),
        (None, None, "NTP keeps neither"),
    ],
)
def test_the_refusal_says_by_how_much_and_whose_clock_is_wrong(
    here: bool | None, there: bool | None, says: str
) -> None:
    """Where NTP keeps one of the two and not the other, it is named; where it is not known, nothing is claimed."""
    fault = clocks.fault(ClockSeen(3600.0, 0.2, there), "r", lambda: here)

    assert fault is not None
    assert "3600.0 s ahead of this host's (\u00b1 0.2 s)" in fault.message
    assert says in fault.message
    assert (fault.exit_code, fault.effect) == (12, "none")


@pytest.mark.req("RUN-11", "APR-1")
def test_the_tolerance_fits_every_judge_of_signed_records() -> None:
    """It leaves most of what an approver's clock may be ahead, and most of the shortest usual certificate."""
    for judge in (admission, dispatch, gate, hearing, gaps):
        assert SKEW_MAX_S * 5 <= judge.FUTURE_MAX_S
    assert Certificates.model_fields["valid_s"].default >= SKEW_MAX_S * 5


@pytest.mark.req("RUN-11")
def test_the_greeting_shows_the_difference_less_half_of_the_round_trip() -> None:
    """Seconds since 1970; one that tells no time shows none."""
    assert hello({**SAID, "time_s": 1010.0, "ntp": False}, "r", 1000.0, 0.5).clock == ClockSeen(10.0, 0.5, False)
    assert hello({**SAID, "time_s": 990, "ntp": "yes"}, "r", 1000.0, 0.5).clock == ClockSeen(-10.0, 0.5, None)
    assert hello(SAID, "r", 1000.0, 0.5).clock is None


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize("time_s", ["1000", None, True, -1, float("nan"), float("inf"), 2**70])
def test_a_time_that_is_none_is_no_greeting(time_s: object) -> None:
    """Garbage is a peer that does not answer."""
    with pytest.raises(RunnerUnreachableError, match="time_s"):
        hello({**SAID, "time_s": time_s}, "r", 1000.0, 0.5)


@pytest.mark.req("RUN-11")
@pytest.mark.parametrize(("state", "says"), [(0, True), (4, True), (5, False), (-1, None)])
def test_the_kernel_says_whether_ntp_keeps_the_clock(
    monkeypatch: pytest.MonkeyPatch, state: int, says: bool | None
) -> None:
    """Its answer to `adjtimex`; one that is forbidden is not known."""

    class Library:
        """The C library of a kernel that says so."""

        def __init__(self, name: None) -> None: ...

        def adjtimex(self, timex: object) -> int:
            """It only asks."""
            return state

    assert kernel_clock.synced() in (True, False, None)
    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert kernel_clock.synced() is says
