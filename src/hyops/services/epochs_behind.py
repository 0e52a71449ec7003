"""Services whose next run a runner will refuse, because it has seen a higher epoch than is counted here (INV-3).

The number that a runner tells is signed by nobody, so it is never followed: one that lies could drive every count to
its end. People are told, who can see whether the other control host is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyops.errors import HyopsError
from hyops.ports.takeover import Epochs

Seen = dict[tuple[str, str], int]
"""Runner and service -> the highest epoch that the runner says it has seen of it."""


def note_seen(seen: Seen, runner_ref: str, facts: Mapping[str, Any], services: Mapping[str, object]) -> None:
    """Remember what one job tells of a service that is ours; another's is counted by another executor."""
    service, epoch = facts.get("service"), facts.get("epoch_seen")
    if isinstance(service, str) and service in services and type(epoch) is int:
        seen[runner_ref, service] = max(epoch, seen.get((runner_ref, service), 0))


def behind(seen: Seen, epochs: Epochs) -> dict[tuple[str, str], str]:
    """What people must know of each service that is behind. The count is read after all runners have told.

    A count that cannot be read is told in place of each: nobody knows then.
    """
    if not seen:
        return {}
    try:
        last = epochs.last_epoch()
    except HyopsError as exc:
        return {where: f"nobody knows whether {where[1]} is behind: {exc.message}" for where in seen}
    return {
        (runner_ref, service): (
            f"runs of {service} had epoch {epoch} there, and here {last} is the last: its next runs are refused (exit "
            "15). Nobody signed that number, so it is not followed: see that no other executor lives, then raise the "
            "count (how-to: read a refused run, a control host that was replaced)"
        )
        for (runner_ref, service), epoch in sorted(seen.items())
        if epoch > last + 1
    }
