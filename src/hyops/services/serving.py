"""What the stages that serve tell of themselves, as far as a reader may believe it: their clocks and their mirrors.

A telling says how old it may be: told at most so often, and standing so long after whoever told it. Its clock is
compared with the reader's, for people alone; nothing is ordered or judged by two clocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from hyops.control.holding import FUTURE_MAX_S
from hyops.ports.transport import ClockSeen

SPAN_MAX_S = 3600.0


@dataclass(frozen=True)
class MirrorSeen:
    """When a stage last knew that it has all that there is: so many seconds ago, between two bounds.

    `behind` is why it does not know that now; None where it does.
    """

    least_s: float
    most_s: float
    behind: str | None


def seen(serving: Sequence[Mapping[str, Any]], asked_at: datetime, heard_at: datetime) -> list[dict[str, Any]]:
    """Each stage with its `clock` against ours and its `mirror`; both None where it does not tell them.

    Args:
        serving: what each one says of itself, as it says it.
        asked_at, heard_at: our clock before and after that was read.
    """
    return [_seen(one, asked_at, heard_at) for one in serving]


def _seen(one: Mapping[str, Any], asked_at: datetime, heard_at: datetime) -> dict[str, Any]:
    shown = {name: one.get(name) for name in ("stage", "host", "pid", "version", "since")}
    told, every_s, lapse_s = _moment(one.get("clock")), _seconds(one.get("every_s")), _seconds(one.get("lapse_s"))
    confirmed_s, behind = _seconds(one.get("confirmed_s"), math.inf), one.get("behind")
    clock, mirror = None, None
    if told is not None and every_s is not None and lapse_s is not None:
        # it told that no earlier than `every_s + lapse_s` before we asked, and no later than when we heard
        least_s = (told - heard_at).total_seconds()
        most_s = (told - asked_at).total_seconds() + every_s + lapse_s
        clock = asdict(ClockSeen(round((least_s + most_s) / 2, 1), round((most_s - least_s) / 2, 1)))
        if confirmed_s is not None and behind is None:
            mirror = asdict(MirrorSeen(0.0, round(confirmed_s + lapse_s, 1), None))
        elif confirmed_s is not None:
            mirror = asdict(MirrorSeen(round(confirmed_s, 1), round(confirmed_s + every_s + lapse_s, 1), str(behind)))
    return {**shown, "clock": clock, "mirror": mirror}


def untold(serving: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of whom it is not known how far the mirror is behind and how far the clock is off, and why."""
    return [
        f"the clock and the mirror of {_name(one)}: its hyops ({one['version'] or 'of before'}) does not tell them"
        for one in serving
        if one["clock"] is None or one["mirror"] is None
    ]


def warnings(serving: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a person has to see to: clocks that are, or may be, further off than the rules allow; mirrors behind."""
    found = []
    for one in serving:
        if one["clock"] is not None:
            clock = ClockSeen(**one["clock"])
            if abs(clock.off_s) + clock.within_s > FUTURE_MAX_S:
                sure = "differs" if clock.least_off_s > FUTURE_MAX_S else "may differ"
                found.append(
                    f"the clock of {_name(one)} {sure} from this host's by more than {FUTURE_MAX_S:g} s, beyond which "
                    "what one signs is from the future to the other: set the one that is wrong (`chronyc makestep`, "
                    "`timedatectl`) and see that its host keeps NTP"
                )
        if one["mirror"] is not None and one["mirror"]["behind"] is not None:
            found.append(f"the mirror of {_name(one)} is not confirmed now: {one['mirror']['behind']}")
    return found


def told(one: Mapping[str, Any]) -> str:
    """One stage's clock and mirror in words; empty where it tells neither."""
    if one["clock"] is None or one["mirror"] is None:
        return ""
    clock, mirror = ClockSeen(**one["clock"]), MirrorSeen(**one["mirror"])
    way = "ahead of" if clock.off_s > 0 else "behind"
    least = f"{mirror.least_s:g} s to " if mirror.least_s else "at most "
    return (
        f"clock {abs(clock.off_s):g} s {way} this host's (\u00b1 {clock.within_s:g} s), "
        f"mirror confirmed {least}{mirror.most_s:g} s ago"
    )


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['stage']} on {one['host']} (pid {one['pid']})"


def _moment(said: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(said) if isinstance(said, str) else None
    except ValueError:
        return None
    return None if moment is None or moment.tzinfo is None else moment


def _seconds(said: object, most: float = SPAN_MAX_S) -> float | None:
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said) or not 0 <= said <= most:
        return None
    return float(said)
