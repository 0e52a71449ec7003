"""How the stage of this process is doing: when it last passed over its records, and what it failed with (LOOP-4).

One process is one stage, as it is one watchdog; so there is one of these, which the loop marks and the health asks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

SAID_MAX = 500  # characters of an error on a page


@dataclass
class Pulse:
    """Marks of the loop, on the monotonic clock."""

    began: float = field(default_factory=time.monotonic)
    passed_at: float | None = None
    passes: int = 0
    failures: int = 0
    failing: str | None = None
    doubt: str | None = None
    """How far the wall clock stepped ahead, as long as nobody confirmed that."""
    doubted_s: float = 0.0
    """How much later it is than what has passed for certain, by the stage's own clock; also since a boot."""

    def passed(self, but: BaseException | None = None) -> None:
        """A pass ended well; `but`: for what it left open, which is a fault all the same."""
        self.passed_at, self.failing = time.monotonic(), None
        self.passes += 1
        if but is not None:
            self.failed(but)

    def failed(self, error: BaseException) -> None:
        """A pass, or a part of one, did not; what it said is kept in one line."""
        said = " ".join(str(error).split())[:SAID_MAX]
        self.failing = f"{type(error).__name__}: {said}" if said else type(error).__name__
        self.failures += 1

    def age_s(self) -> float:
        """Since the last good pass; since the beginning where there was none."""
        return time.monotonic() - (self.began if self.passed_at is None else self.passed_at)


PULSE = Pulse()
