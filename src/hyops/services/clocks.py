"""Whether a runner's clock and this host's are near enough for signed records, before anything is staged (RUN-11).

A record that is fresh here may be expired there, or from the future; the runner would refuse it after all was staged,
and would call it the record's fault.
"""

from __future__ import annotations

from collections.abc import Callable

from hyops.errors import PrerequisiteError
from hyops.model.clocks import SKEW_MAX_S
from hyops.ports.transport import ClockSeen
from hyops.runner.kernel_clock import synced

Synced = Callable[[], bool | None]
UNTOLD = "its hyops is of before, and does not tell its time"


def fault(seen: ClockSeen | None, runner_ref: str, here: Synced = synced) -> PrerequisiteError | None:
    """The refusal of a runner whose clock is certainly off; what a long round trip may explain is none.

    Args:
        seen: what its greeting showed; None shows nothing, and the runner judges every record by itself.
        runner_ref: whose clock it is.
        here: whether NTP keeps this host's clock; asked only where the two differ.
    """
    if seen is None or seen.least_off_s <= SKEW_MAX_S:
        return None
    return PrerequisiteError(
        f"{runner_ref}: {told(seen)}, and at most {SKEW_MAX_S:g} s let signed records be judged alike on both; "
        f"{_by_ntp(runner_ref, here(), seen.synced)}",
        hint="set the clock that is wrong (`chronyc makestep`, `timedatectl`) and see that its host keeps NTP; nothing "
        "was staged",
    )


def told(seen: ClockSeen) -> str:
    """By how much, which way, and how exactly."""
    way = "ahead of" if seen.off_s > 0 else "behind"
    return f"its clock is {abs(seen.off_s):.1f} s {way} this host's (\u00b1 {seen.within_s:.1f} s)"


def _by_ntp(runner_ref: str, here: bool | None, there: bool | None) -> str:
    sides = {"this host": here, runner_ref: there}
    kept = [who for who, says in sides.items() if says]
    if len(kept) == 2:
        return "NTP keeps both, so their sources differ"
    if not kept:
        return "NTP keeps neither, as far as their kernels say"
    (other,) = sides.keys() - set(kept)
    if sides[other] is False:
        return f"NTP keeps that of {kept[0]}, so it is {other}'s that is wrong"
    return f"NTP keeps that of {kept[0]}; of {other}'s it is not known"
