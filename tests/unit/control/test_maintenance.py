"""Weekly windows in a time zone's own time, over midnight and over changes of the clocks (DEC-6)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from hyops.control.maintenance import check_zones, window_now
from hyops.errors import ConfigError, RecordError
from hyops.model.policy import MaintenanceWindow


def window(**changes: Any) -> MaintenanceWindow:
    """Sundays at two in Berlin, for two hours."""
    body = {"name": "patch", "days": ["sun"], "at": "02:00", "for_s": 7200.0, "time_zone": "Europe/Berlin"}
    return MaintenanceWindow.of({**body, "owner": "dba", "reason": "patches", **changes})


def ends(at: str, *windows: MaintenanceWindow) -> str | None:
    """When the window that is open at `at` closes, in UTC."""
    found = window_now("pg", windows, datetime.fromisoformat(at))
    return f"{found.until:%m-%d %H:%M}" if found else None


@pytest.mark.req("DEC-6")
@pytest.mark.parametrize(
    ("at", "changes", "until"),
    [
        ("2026-01-18T00:59:59Z", {}, None),  # a Sunday; 02:00 in Berlin is 01:00 UTC in winter
        ("2026-01-18T01:00:00Z", {}, "01-18 03:00"),
        ("2026-01-18T02:59:59Z", {}, "01-18 03:00"),
        ("2026-01-18T03:00:00Z", {}, None),
        ("2026-07-19T00:00:00Z", {}, "07-19 02:00"),  # and 00:00 UTC in summer
        ("2026-01-17T01:30:00Z", {}, None),  # a Saturday
        ("2026-01-19T02:00:00Z", {"at": "23:00", "for_s": 21600.0}, "01-19 04:00"),  # begun yesterday
        ("2026-01-18T22:30:00Z", {"time_zone": "Pacific/Auckland", "days": ["mon"], "at": "11:00"}, "01-19 00:00"),
        ("2026-03-29T01:30:00Z", {"at": "02:30"}, "03-29 03:30"),  # 02:30 does not exist on that day
        ("2026-10-25T00:45:00Z", {"at": "02:30", "for_s": 1800.0}, "10-25 01:00"),  # and is there twice on this one
        ("2026-10-25T01:45:00Z", {"at": "02:30", "for_s": 1800.0}, None),
        ("2026-01-19T01:30:00Z", {"for_s": 86400.0, "at": "03:00"}, "01-19 02:00"),  # a whole day
    ],
)
def test_a_window_is_open_in_its_own_zone(at: str, changes: dict[str, Any], until: str | None) -> None:
    """At its first second and not at its last; the day is the zone's, and so are the changes of the clocks."""
    assert ends(at, window(**changes)) == until


@pytest.mark.req("DEC-6")
def test_of_several_windows_the_one_that_lasts_longest_counts() -> None:
    """Two open at once: the later end, whichever stands first."""
    short, long = window(), window(name="long", for_s=10800.0)

    assert ends("2026-01-18T02:00:00Z", short, long) == ends("2026-01-18T02:00:00Z", long, short) == "01-18 04:00"


@pytest.mark.req("DEC-6")
def test_a_zone_that_this_host_does_not_know_is_said_at_the_start() -> None:
    """By its key, before the service watches anything."""
    with pytest.raises(ConfigError, match=r"policy of pg: maintenance\.1\.time_zone: .*Europe/Berln"):
        check_zones([window(), window(time_zone="Europe/Berln")], source="policy of pg")


@pytest.mark.req("DEC-6", "UX-2")
@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"days": []}, "days"),
        ({"days": ["sunday"]}, "days.0"),
        ({"at": "24:00"}, "at"),
        ({"at": "2:00"}, "at"),
        ({"for_s": 59.0}, "for_s"),
        ({"for_s": 90000.0}, "for_s"),
        ({"time_zone": "../etc/passwd"}, "time_zone"),
        ({"owner": ""}, "owner"),
        ({"reason": ""}, "reason"),
        ({"until": "x"}, "until"),
    ],
)
def test_a_window_that_nobody_can_read_is_refused(changes: dict[str, Any], path: str) -> None:
    """With the path of the wrong key."""
    with pytest.raises(RecordError, match=f"(^|; |: ){path}: "):
        window(**changes)
