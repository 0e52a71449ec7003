"""What a loop is doing, for people: who serves, who dials, what waits in which queue, and why (LOOP-3, UX-2).

Records are read as they are, without their signatures: this looks, and nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from hyops.ports.starts import Hindrance
from hyops.services.queues import STAGES, StoreOf, Waits, queue_of


@dataclass(frozen=True)
class Waiting:
    """The record that has waited longest; `age_s` is None where it does not say when it was made."""

    record_id: str
    age_s: float | None
    why: str


@dataclass(frozen=True)
class Shown:
    """What waits for one stage (see `queues`); `oldest` is None where nothing does."""

    stage: str
    length: int
    oldest: Waiting | None


@dataclass(frozen=True)
class Member:
    """One member of the quorum; `why` it does not answer, or what it says it is."""

    endpoint: str
    answers: bool
    latency_ms: float
    why: str


@dataclass(frozen=True)
class ControlStatus:
    """A whole loop. Without a quorum, only its members are known."""

    place: str
    members: list[Member] = field(default_factory=list)
    lost: str | None = None
    latency_ms: float | None = None
    revision: int | None = None
    epoch: int | None = None
    foreign: bool = False
    serving: list[dict[str, Any]] | None = field(default_factory=list)
    """Each stage that serves, with its clock and mirror (see `serving`). None: not known."""
    dials: dict[str, dict[str, Any]] = field(default_factory=dict)
    queues: list[Shown] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """What people may look for here, and why it is not known."""
    warnings: list[str] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def queues_of(
    store: StoreOf,
    now: datetime,
    hindrance_of: Callable[[str], Hindrance | None],
    dials: Mapping[str, Any],
    surely: datetime | None = None,
) -> list[Shown]:
    """What waits for the dispatcher, for people, for the executor, and for runners; the oldest with its reason.

    `surely`: what has passed for certain, where that is not `now`; what is not over by it waits.
    """
    found = []
    for stage in STAGES:
        waiting = queue_of(stage, store).waiting(surely or now)
        oldest = None
        if waiting:
            first = waiting[0]
            why = _of_a_run(first, hindrance_of, dials) if stage == "runners" else first.why
            if stage == "execution" and (by := hindrance_of(first.record_id)) is not None:
                why += f"; {by.message}"
            age_s = first.age_s(now)
            oldest = Waiting(first.record_id, None if age_s is None else round(age_s, 1), why)
        found.append(Shown(stage, len(waiting), oldest))
    return found


def _of_a_run(run: Waits, hindrance_of: Callable[[str], Hindrance | None], dials: Mapping[str, Any]) -> str:
    if (by := hindrance_of(run.record_id)) is not None:
        return f"{by.word}: {by.message}"
    who = dials.get(run.record_id)
    return run.why + (f", followed by {who['host']}" if who else ", followed by nobody")
