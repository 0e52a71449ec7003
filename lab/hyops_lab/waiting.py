"""Wait for what announces itself by no event: ask again until a deadline, then say what was waited for."""

import time
from collections.abc import Callable

from hyops_lab.errors import WaitError


def until(done: Callable[[], bool], *, what: str, where: str, timeout_s: float, pause_s: float = 0.05) -> None:
    """Return when `done()` is true; `where` tells a person which log to read if it never is."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise WaitError(f"waited {timeout_s:g} s for {what}; see {where}")
        time.sleep(pause_s)
