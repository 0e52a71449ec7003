"""A job that was stopped to be killed is killed, whatever its children do (RUN-5)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyops.runner import killing
from waiting import wait_for

JOB = """
import subprocess, sys, time
from pathlib import Path
from hyops.runner.folders import lock_alive
held = lock_alive(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "300"])
(Path(sys.argv[1]) / "child").write_text(str(child.pid) + " ")
child.wait()
"""


@pytest.mark.req("RUN-5")
def test_a_child_that_cannot_be_killed_keeps_no_job_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a child of another user: the job is dead, and the answer is that something of it lives."""
    job = subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path)], start_new_session=True)
    child = tmp_path / "child"
    wait_for(lambda: child.exists() and child.read_text().endswith(" "), "the job's child")
    pid, real = child.read_text().strip(), signal.pidfd_send_signal

    def send(fd: int, number: int) -> None:
        if f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{fd}").read_text():
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(fd, number)

    monkeypatch.setattr(signal, "pidfd_send_signal", send)
    try:
        assert killing.kill(tmp_path) is False
        assert job.wait(10) == -signal.SIGKILL
    finally:
        job.kill()
        os.kill(int(pid), signal.SIGKILL)
