"""Looks become samples: numbered without a gap, stamped, cut to size, marked when this process was not well."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hyops.adapters.self_health import LAG_MAX_S, SelfHealth
from hyops.model.signal import Sample
from hyops.ports.signals import Watched

SAID_CHARS_MAX = 500  # a server's own words; the whole line stays below the receiver's limit


@dataclass(frozen=True)
class Look:
    """What a probe found. `value` None: nothing can be said (unknown); `said` why, or a detail."""

    value: float | None
    said: str | None = None


@dataclass(frozen=True)
class Begun:
    """When a look began, on the monotonic clock, and why it could not count even then."""

    at_s: float
    unwell: str | None


class Samples:
    """One stream's samples, in order per signal."""

    def __init__(self, vantage: str, health: SelfHealth) -> None:
        self._vantage, self._health = vantage, health
        self._sequence: dict[tuple[str, str], int] = {}
        self._newest: dict[tuple[str, str], float] = {}
        # Wall time moves with the monotonic clock here, so a step of the wall clock looks like nothing.
        self._wall0, self._monotonic0 = datetime.now(UTC), time.monotonic()

    def begin(self) -> Begun:
        """A look begins now."""
        return Begun(time.monotonic(), self._health.unwell)

    def end(self, watched: Watched, begun: Begun, look: Look) -> Sample | None:
        """The sample of a look that ends now; None when a later look has ended before it."""
        key, ended_s = watched.key, time.monotonic()
        if self._newest.get(key, 0.0) > begun.at_s:
            return None
        self._newest[key] = begun.at_s
        self._sequence[key] = sequence = self._sequence.get(key, -1) + 1
        elapsed_s = ended_s - begun.at_s
        unwell = begun.unwell or self._health.unwell
        if unwell is None and elapsed_s >= watched.signal.timeout_s + LAG_MAX_S:
            unwell = f"a look with a limit of {watched.signal.timeout_s:g} s took {elapsed_s:.2f} s"
        said = look.said
        if unwell is not None:
            said = f"the vantage point is not well itself: {unwell}" + (f"; {said}" if said else "")
        if said is not None:
            said = said[:SAID_CHARS_MAX].encode(errors="replace").decode() or None
        return Sample(
            vantage=self._vantage,
            signal=watched.signal.name,
            sequence=sequence,
            taken_at=self._wall0 + timedelta(seconds=begun.at_s - self._monotonic0),
            value=look.value,
            error=said if look.value is None else None,
            detail=said if look.value is not None else None,
            elapsed_s=round(elapsed_s, 6),
            healthy_vantage=unwell is None,
            service=watched.service,
            host=watched.host if watched.service is not None else None,
        )
