"""The log of one job, for people: what counts stands in the journal."""

from __future__ import annotations

import os
from pathlib import Path

from hyops.model.base import iso_utc
from hyops.ports.clock import Clock

LOG_MAX = 64 * 1024 * 1024


class JobLog:
    """The human log: one stamped line each, up to a limit that is marked when reached."""

    def __init__(self, path: Path, clock: Clock) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd, self._clock = os.open(path, flags, 0o600), clock

    def __enter__(self) -> JobLog:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def write(self, line: str) -> None:
        """One line; a full disk costs log lines, never the run: the journal has what counts."""
        size = os.fstat(self._fd).st_size
        if size >= LOG_MAX - 8192:
            return
        text = f"{iso_utc(self._clock.now())} " + line.replace("\n", "\\n")[:4000]
        try:
            os.write(self._fd, text.encode(errors="replace") + b"\n")
        except OSError:
            return
