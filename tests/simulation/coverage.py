"""What a search must have met to count: every declared event, every outcome and receipt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from simulation.events import EVENTS

KNOWN = (
    "outcome: succeeded 0",
    "outcome: refused 12",
    "outcome: refused 13",
    "outcome: refused 15",
    "outcome: failed 20",
    "outcome: unknown 41",
    "receipt: observed",
    "receipt: lease-expired",
    "receipt: break-glass",
    "execution: signed",
    "execution: standing",
    "execution: break-glass",
    "rest: one writer",
    "rest: a person is needed",
    "rows-lost-and-counted",
)


def wanted() -> list[str]:
    """All of it."""
    return [*(f"event: {name}" for name in sorted(EVENTS)), *KNOWN]


def unmet(met: Mapping[str, int]) -> list[str]:
    """What was not met."""
    return [name for name in wanted() if not met.get(name)]


def table(met: Counter[str]) -> str:
    """What was met how often, by kind."""
    kinds: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, times in sorted(met.items()):
        kind, _, what = name.partition(": ")
        kinds[kind].append((what, times))
    lines = []
    for kind, rows in sorted(kinds.items()):
        lines.append(kind)
        lines += [f"  {times:>9}  {what}" if what else f"  {times:>9}" for what, times in rows]
    return "\n".join(lines)
