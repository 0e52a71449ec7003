"""A program whose wall clock is moved: a real process, which sees another time than this host's."""

from __future__ import annotations

from pathlib import Path

MOVED = """
import datetime
import time

_time, _real = time.time, datetime.datetime
time.time = lambda: _time() + {off_s!r}


class Moved(_real):
    @classmethod
    def now(cls, tz=None):
        return _real.now(tz) + datetime.timedelta(seconds={off_s!r})


datetime.datetime = Moved
"""


def words(folder: Path, off_s: float) -> str:
    """What stands before a Python program's command, so that its clock is that many seconds ahead."""
    place = folder / f"clock{off_s:g}"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(MOVED.format(off_s=off_s))
    return f"/usr/bin/env PYTHONPATH={place}"
