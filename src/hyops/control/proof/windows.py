"""Whether the zones of maintenance are known and it ever ends: a week without a gap holds the loop for good (DEC-6)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from hyops.control.maintenance import check_zones, window_now
from hyops.control.proof.rules import Finding
from hyops.control.proof.situation import NOW
from hyops.errors import ConfigError
from hyops.model.policy import MaintenanceWindow, ServicePolicy

LOOKED_AT = timedelta(days=8)  # a week comes round, and a change of the clocks takes an hour of it


def windows(policy: ServicePolicy) -> Iterator[Finding]:
    """A finding for every zone that this host does not know, and one when one window or another is always open, by the
    same rule that opens them in earnest.
    """
    known = []
    for index, one in enumerate(policy.maintenance or []):
        if _known(one):
            known.append(one)
            continue
        text = f"{one.name} is in {one.time_zone}, which this host does not know"
        yield Finding("maintenance/zone", ("maintenance", index, "time_zone"), text, {one.name: "opens at no time"})
    at: datetime = NOW
    names: list[str] = []
    while (hold := window_now(policy.service, known, at)) is not None:
        names += [hold.window] if hold.window and hold.window not in names else []
        at = hold.until
        if at - NOW > LOOKED_AT:
            text = f"{', '.join(names)}: at every hour of the week one of them is open, so nothing is ever decided"
            yield Finding("maintenance/always", ("maintenance",), text, {policy.preferred: "lost, at any time"})
            return


def _known(window: MaintenanceWindow) -> bool:
    """Whether this host knows the zone; where it does not, no stage begins with such a policy."""
    try:
        check_zones([window], source="policy")
    except ConfigError:
        return False
    return True
