"""Ends a job and everything it has started, with proof (RUN-5). Standard library only.

The job is stopped first: it sees nothing of what is done to its children, so it neither writes of it nor goes on to
something else. It has adopted what its children left behind (`adopt_orphans`), so while it lives each process that
comes from it can be found below it, also one in a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from hyops.runner.folders import job_pidfd, read_file

ROUNDS = 20  # a child may fork while it is being killed, so look again until nobody is left
END_LIMIT_MS = 100
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Called by the job, for its whole life: whoever of its descendants loses the parent becomes its own child."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")  # no kernel since 3.4 refuses it


def kill(folder: Path) -> bool:
    """SIGKILL to the job, its session and all its descendants; True when proved that none of them lives."""
    fd = job_pidfd(folder)
    if fd is None:
        return True
    found: set[int] = set()
    try:
        job = int(read_file(folder / "alive", 32))
        signal.pidfd_send_signal(fd, signal.SIGSTOP)
        for _ in range(ROUNDS):
            others = family(job) - {job}
            if not others:
                break
            found |= others
            for pid in others:
                _end(pid)
    except ProcessLookupError:  # the job ended by itself meanwhile
        pass
    finally:  # whatever went wrong with its children: it was stopped, and nobody else would wake it
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        _ended(fd)
        os.close(fd)
    return not (_living() & {*found, job}) and not family(job)


def family(job: int) -> set[int]:
    """The job, all its living descendants, and whoever else is in the session that it leads; zombies left out."""
    parents, sessions = _living_parents()
    found = {pid for pid, session in sessions.items() if session == job} | ({job} & parents.keys())
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _living_parents() -> tuple[dict[int, int], dict[int, int]]:
    """Parent, and session, of each living process."""
    parents, sessions = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] not in "ZX":
                parents[int(entry)], sessions[int(entry)] = int(fields[1]), int(fields[3])
    return parents, sessions


def _living() -> set[int]:
    return set(_living_parents()[0])


def _end(pid: int) -> None:
    """One that is not ours to kill, another user's through sudo, is found alive afterwards, and told."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            _ended(fd)
        finally:
            os.close(fd)


def _ended(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(END_LIMIT_MS)
