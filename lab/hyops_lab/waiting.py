"""Wait for what announces itself by no event: ask again until a deadline, then say what was waited for."""

import time
from collections.abc import Callable
from typing import TypeVar

from hyops_lab.errors import WaitError

T = TypeVar("T")

PATIENCE_S = 180.0
"""For anything that must come, on however slow or busy a machine: only what never comes is a fault."""


def until(done: Callable[[], bool], *, what: str, where: str, timeout_s: float, pause_s: float = 0.05) -> None:
    """Return when `done()` is true; `where` tells a person which log to read if it never is."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise WaitError(f"waited {timeout_s:g} s for {what}; see {where}")
        time.sleep(pause_s)


def first_seen(look: Callable[[], T | None], *, what: str, where: str, timeout_s: float) -> T:
    """What `look()` saw as soon as it saw something: it is not looked for again, for the next look may see less."""
    seen: list[T] = []

    def done() -> bool:
        if (one := look()) is not None:
            seen.append(one)
        return bool(seen)

    until(done, what=what, where=where, timeout_s=timeout_s)
    return seen[0]
