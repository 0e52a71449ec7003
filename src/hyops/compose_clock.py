"""The clock of a stage, which knows when it stepped, and what its host's stages know of theirs (see `compose`)."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyops.ports.clock import Clock
    from hyops.services.config import Homes
    from hyops.services.steady_clock import Known, Reading

CLOCK_FILE = "clock"  # no .json: where only this is left, a stage that is destroyed has no records to keep
STAGES = ("decision", "dispatch", "approval", "execution")


def steady_clock(home: str) -> Clock:
    """This host's clock, as the stage of this home is to judge by it; what it knew before is in the stage's state."""
    from hyops.adapters.clock_kept import KeptFile
    from hyops.adapters.clock_system import SystemClock
    from hyops.runner.kernel_clock import synced
    from hyops.services.job_facts import boot_id
    from hyops.services.pulse import PULSE
    from hyops.services.steady_clock import Known, SteadyClock

    memory = KeptFile(Path(home) / "state" / CLOCK_FILE, Known)
    return SteadyClock(SystemClock(), memory, boot_id=boot_id(), synced=synced, pulse=PULSE)


def surely(homes: Homes) -> datetime | None:
    """What has passed for certain for every stage of this host; None: as far as they and this user know, it is now."""
    from hyops.services.steady_clock import passed

    doubted = [passed(known, at, now) for _, known, at, now in _known(homes) if known.stepped_s is not None]
    return min(doubted, default=None)


def doubts(homes: Homes) -> list[str]:
    """What people have to see to: stages of this host whose clock stepped."""
    from hyops.services.steady_clock import doubt_of

    return [f"{stage}: {why}" for stage, known, _, _ in _known(homes) if (why := doubt_of(known)) is not None]


def _known(homes: Homes) -> Iterator[tuple[str, Known, Reading, datetime]]:
    """Of each stage that has run here and whose state may be read, what it knows, looked at as it would."""
    from hyops.adapters.clock_kept import KeptFile
    from hyops.adapters.clock_system import SystemClock
    from hyops.errors import RecordError
    from hyops.runner.kernel_clock import synced
    from hyops.services.job_facts import boot_id
    from hyops.services.steady_clock import Known, Reading, looked

    clock = SystemClock()
    for stage in STAGES:
        try:
            known = KeptFile(Path(getattr(homes, stage)) / "state" / CLOCK_FILE, Known).load()
        except RecordError:
            continue
        if known is not None:
            now = clock.now()
            at = Reading(boot_id(), now.timestamp(), clock.monotonic())
            yield stage, looked(known, at, synced), at, now
