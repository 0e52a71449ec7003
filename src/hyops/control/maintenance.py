"""Planned maintenance: which of a policy's weekly windows is open now (DEC-6).

Resolved by the service and not by `evaluate`: a decision replays on a machine whose time zone data is another (DEC-5).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hyops.errors import ConfigError
from hyops.model.observed import Hold
from hyops.model.policy import WEEKDAYS, MaintenanceWindow


def check_zones(windows: Iterable[MaintenanceWindow], *, source: str) -> None:
    """Return when this host knows the time zone of every window; ConfigError names the key of one that it does not."""
    for number, window in enumerate(windows):
        try:
            ZoneInfo(window.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ConfigError(
                f"{source}: maintenance.{number}.time_zone: this host knows no {window.time_zone!r}",
                hint="write a name of the IANA database, as Europe/Berlin or UTC; on Debian it is in tzdata",
            ) from exc


def window_now(service: str, windows: Iterable[MaintenanceWindow], at: datetime) -> Hold | None:
    """The hold that the open window makes, the one with the latest end when several are open; None when none is.

    A start that a change of the clocks leaves out, or has twice, counts once, by the offset before the change.
    """
    found = [hold for window in windows if (hold := _open(service, window, at)) is not None]
    return max(found, key=lambda hold: hold.until, default=None)


def _open(service: str, window: MaintenanceWindow, at: datetime) -> Hold | None:
    zone = ZoneInfo(window.time_zone)
    today, hour, minute = at.astimezone(zone).date(), *map(int, window.at.split(":"))
    for days_ago in range(3):  # it may have begun yesterday, and a day of the zone is up to 25 hours long
        day = today - timedelta(days=days_ago)
        if WEEKDAYS[day.weekday()] not in window.days:
            continue
        begins = datetime.combine(day, time(hour, minute), tzinfo=zone).astimezone(UTC)
        ends = begins + timedelta(seconds=window.for_s)
        if begins <= at < ends:
            return Hold(service=service, owner=window.owner, reason=window.reason, until=ends, window=window.name)
    return None
