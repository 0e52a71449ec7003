"""How long a start waits for its job: as long as the job may look at its way to the targets, if it lives."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from hyops.errors import HyopsError, RunnerUnreachableError
from hyops.model import canonical
from hyops.model.access import AccessOptions
from hyops.runner import decided
from hyops.runner.folders import lock_alive, write_file
from waiting import stand_still

LONG_S = 120.0
OPENED = canonical.encode({"kind": "run-opened", "body": {"admitted": True}}) + b"\n"


class Start:
    """One that waits in a thread."""

    def __init__(self, folder: Path, limit_s: float, probes_s: float) -> None:
        self.errors: list[HyopsError] = []
        self._thread = threading.Thread(target=self._wait, args=(folder, limit_s, probes_s), daemon=True)
        self._thread.start()

    def _wait(self, folder: Path, limit_s: float, probes_s: float) -> None:
        try:
            decided.admitted(folder, 0, limit_s, probes_s)
        except HyopsError as exc:
            self.errors.append(exc)

    def ended(self) -> list[HyopsError]:
        """What it said in the end."""
        self._thread.join(LONG_S / 2)
        assert not self._thread.is_alive()
        return self.errors


@pytest.mark.req("RUN-5", "GATE-1")
def test_a_job_that_probes_for_long_is_waited_for(tmp_path: Path) -> None:
    """The start wait passes, the job lives and opens its run later: no error, and the caller waited for it."""
    alive = lock_alive(tmp_path)
    assert alive is not None
    start = Start(tmp_path, 0.05, LONG_S)
    stand_still(0.3, "the start's own wait has to run out")
    write_file(tmp_path / "journal.jsonl", OPENED)

    assert start.ended() == []
    os.close(alive)


@pytest.mark.req("RUN-5")
def test_a_job_that_lives_beyond_every_wait_was_started(tmp_path: Path) -> None:
    """Its journal will tell: whoever started it follows it instead of calling the runner unreachable."""
    alive = lock_alive(tmp_path)
    assert alive is not None

    assert Start(tmp_path, 0.01, 0.01).ended() == []
    os.close(alive)


@pytest.mark.req("RUN-5", "VOC-5")
def test_a_job_that_does_not_live_is_not_waited_for(tmp_path: Path) -> None:
    """It never came up: after the start wait alone, nobody knows."""
    (error,) = Start(tmp_path, 0.05, 10 * LONG_S).ended()

    assert isinstance(error, RunnerUnreachableError)


@pytest.mark.req("RUN-5")
@pytest.mark.parametrize(
    ("options", "wait_s"),
    [
        ({}, 35.0),
        ({"access": {"ready_wait_s": 1.0}}, 23.0),
        ({"access": {"ready_wait_s": 60}}, decided.PROBING_S_MAX),
        ({"access": {"ready_wait_s": "soon"}}, 35.0),
        ({"access": None}, 35.0),
    ],
)
def test_the_probes_own_limits_are_covered(options: dict[str, Any], wait_s: float) -> None:
    """By what the runner's configuration says of them; what is wrong there is refused by the job, not here."""
    assert decided.probing_s(options) == wait_s
    assert AccessOptions().ready_wait_s == decided.READY_WAIT_S
