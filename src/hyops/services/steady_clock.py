"""A wall clock that may have stepped ahead: what nobody confirmed ends nothing (LOOP-1, LOOP-2).

Wall time less monotonic time (CLOCK_BOOTTIME: sleep counts) stays the same until somebody sets the wall clock, for NTP
slews both alike. When it grows by more than `STEP_MAX_S` there are two times that it may be: `now`, and `surely`, which
is what it would be without the step. What is over by `now` is not begun, and what is not over by `surely` is not
closed: between the two it waits. That ends when the step is undone; when the kernel says, `KEPT_S` or more after it,
that a time service keeps the clock, which each step makes it forget; or after `ALONE_S`, for a host that has none. A
step back is believed at once.

What was confirmed is kept in a file, with the boot it belongs to, so that a restart is no way round. After a boot
nothing tells how long the host was off: unless a time service keeps its clock, all that has passed for certain is what
the file says had passed before. A stage that never ran on a host, or whose file is lost, believes its clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Protocol

from pydantic import Field

from hyops.errors import PrerequisiteError, RecordError
from hyops.model import ids
from hyops.model.base import Part
from hyops.ports.clock import Clock
from hyops.services.loop import log
from hyops.services.pulse import Pulse

STEP_MAX_S = 30.0  # above a leap second and what a busy host takes between its two looks; half of what hosts may differ
KEPT_S = 60.0  # long enough for a mistake that is undone at once; the loop closes by then what a true step has ended
ALONE_S = 900.0  # the time of one page and somebody's look at it; a host without NTP is not to wait for ever
SLEWED_S = 1.0  # less than that is not worth a write
WRITTEN_S = 240.0  # of the last boot as much is known: what was said before it is not taken for the future's (300 s)
RETRY_S = 10.0  # between two tries to write it where the disk takes nothing: a stage looks all the time
ASKED_S = 1.0  # between two questions to the kernel

Seconds = Annotated[float, Field(ge=-1e9)]  # what a file may say: a date can be made of it


class Known(Part):
    """What a host was last sure of. `offset_s`: wall time (seconds since 1970) less monotonic time, as confirmed.

    `stepped_s` is the greater offset that it has instead, and `since_s` the monotonic time at which that was first
    seen; both None while nothing is in doubt. `booted`: the doubt is of a new boot.
    """

    boot_id: str
    offset_s: Seconds
    wall_s: Seconds
    stepped_s: float | None = None
    since_s: float | None = None
    booted: bool = False


@dataclass(frozen=True)
class Reading:
    """Both clocks of one moment: seconds since 1970, and since boot."""

    boot_id: str
    wall_s: float
    mono_s: float

    @property
    def offset_s(self) -> float:
        """What only somebody who sets the wall clock changes."""
        return self.wall_s - self.mono_s


class Memory(Protocol):
    """Where what is known outlives the process."""

    def load(self) -> Known | None:
        """None: there is none yet. PrerequisiteError, RecordError: it cannot be read."""

    def save(self, state: Known) -> None:
        """PrerequisiteError: it cannot be written now."""


def looked(known: Known | None, at: Reading, synced: Callable[[], bool | None]) -> Known:
    """What is known after one more look at both clocks. `synced`: asked only where there is a doubt."""
    sure = Known(boot_id=at.boot_id, offset_s=at.offset_s, wall_s=at.wall_s)
    if known is None:
        return sure  # there is nothing to doubt it by
    if known.boot_id != at.boot_id:
        if at.offset_s - known.wall_s <= STEP_MAX_S or synced():
            return sure
        return Known(
            boot_id=at.boot_id,
            offset_s=known.wall_s,  # it was that before this boot began
            wall_s=known.wall_s,
            stepped_s=at.offset_s,
            since_s=at.mono_s,
            booted=True,
        )
    if at.offset_s - known.offset_s <= STEP_MAX_S:
        return sure
    begun = known.since_s is not None and known.since_s <= at.mono_s  # later: of another past, or by hand
    if known.stepped_s is None or not begun or abs(at.offset_s - known.stepped_s) > STEP_MAX_S:
        return known.model_copy(update={"stepped_s": at.offset_s, "since_s": at.mono_s})
    stood_s = at.mono_s - (known.since_s or 0.0)
    return sure if stood_s >= ALONE_S or (stood_s >= KEPT_S and synced()) else known


def passed(known: Known, at: Reading, now: datetime) -> datetime:
    """What has passed for certain at this reading, which is `now` by the wall clock."""
    if known.stepped_s is None:
        return now
    return min(now, datetime.fromtimestamp(known.offset_s + at.mono_s, UTC))


class SteadyClock:
    """The clock of one stage. `pulse` is told of a doubt, for /healthz and /metrics."""

    def __init__(
        self, clock: Clock, memory: Memory, *, boot_id: str, synced: Callable[[], bool | None], pulse: Pulse
    ) -> None:
        self._clock, self._memory, self._boot_id, self._synced, self._pulse = clock, memory, boot_id, synced, pulse
        self._known = self._written = self._read()
        self._refused_s: float | None = None
        self._asked: tuple[float, bool | None] | None = None
        pulse.doubt, pulse.doubted_s = None, 0.0
        self.surely()

    def now(self) -> datetime:
        """Aware UTC time, as the host has it."""
        return self._clock.now()

    def monotonic(self) -> float:
        """Seconds since boot, sleep included."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._clock.sleep(seconds)

    def surely(self) -> datetime:
        """What has passed for certain; each call is a look at both clocks."""
        now = self._clock.now()
        at = Reading(self._boot_id, now.timestamp(), self._clock.monotonic())
        if (known := self._written) is self._known and known is not None and _same(known, at):
            return now
        before, self._known = self._known, looked(self._known, at, lambda: self._ask(at.mono_s))
        if self._refused_s is None or at.mono_s - self._refused_s >= RETRY_S:
            self._keep(self._known, at.mono_s)
        self._tell(before, self._known)
        sure = passed(self._known, at, now)
        self._pulse.doubted_s = (now - sure).total_seconds()
        return sure

    def _read(self) -> Known | None:
        try:
            return self._memory.load()
        except (PrerequisiteError, RecordError) as exc:
            log("what was known of the clock is lost", message=exc.message)
            return None

    def _ask(self, now_s: float) -> bool | None:
        if self._asked is None or now_s - self._asked[0] >= ASKED_S:
            self._asked = now_s, self._synced()
        return self._asked[1]

    def _keep(self, known: Known, now_s: float) -> None:
        last = self._written
        same = last is not None and (last.boot_id, last.stepped_s, last.since_s) == (
            known.boot_id,
            known.stepped_s,
            known.since_s,
        )
        near = last is not None and (
            abs(known.offset_s - last.offset_s) < SLEWED_S and known.wall_s - last.wall_s < WRITTEN_S
        )
        if same and near:
            return
        try:
            self._memory.save(known)
        except PrerequisiteError as exc:
            if self._refused_s is None:
                log("what is known of the clock is not kept", message=exc.message)
            self._refused_s = now_s
            return
        self._written, self._refused_s = known, None

    def _tell(self, before: Known | None, known: Known) -> None:
        self._pulse.doubt = doubt_of(known)
        if known.stepped_s is not None and (before is None or before.stepped_s != known.stepped_s):
            log(
                "clock in doubt",
                message=doubt_of(known) or "nobody has confirmed it since this host booted",
            )
        elif known.stepped_s is None and before is not None and before.stepped_s is not None:
            log("clock believed again", now=ids.stamp(self._clock.now()))


def _same(known: Known, at: Reading) -> bool:
    """Whether a look brings nothing new, as nearly all of them."""
    sure = known.stepped_s is None and known.boot_id == at.boot_id
    return sure and abs(at.offset_s - known.offset_s) < SLEWED_S and at.wall_s - known.wall_s < WRITTEN_S


def doubt_of(known: Known) -> str | None:
    """What people have to see to; None where there is nothing, or where a boot is the only reason."""
    if known.stepped_s is None or known.booted:
        return None
    return (
        f"the clock of this host stepped {known.stepped_s - known.offset_s:.0f} s ahead: what may have expired by that "
        f"waits, neither run nor closed, until it is set back, or NTP has kept it for {KEPT_S:g} s, or {ALONE_S:g} s "
        "are over"
    )
