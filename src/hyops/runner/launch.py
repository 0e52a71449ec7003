"""Starts the job of a run so that it outlives the connection, and asks it to end (RUN-5). Standard library only.

On systemd a template unit owns the job (limits, journal, restart after a kill); elsewhere it is a process of its own
session. In both cases the files of the run folder are the truth, never the launcher's word.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hyops.errors import DiskFullError, PrerequisiteError, RunnerUnreachableError
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import NO_ROOM, Folders, job_pidfd

_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "XDG_RUNTIME_DIR")


def launch(config: RunnerConfig, folders: Folders, run_id: str) -> None:
    """Start the job; returns at once. Starting a running one is harmless: the second process finds the lock taken.

    Raises:
        PrerequisiteError: it was certainly not started. RunnerUnreachableError: nobody knows.
    """
    if config.launcher == "systemd":
        _systemd(run_id)
    else:
        _detached(config, folders.run(run_id), run_id)


def _systemd(run_id: str) -> None:
    import subprocess

    command = ["sudo", "-n", "systemctl", "start", "--no-block", f"hyops-run@{run_id}.service"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired as exc:
        raise RunnerUnreachableError("systemctl gave no answer: the job may have been started") from exc
    except OSError as exc:
        raise PrerequisiteError(f"the job could not be started: {exc}") from exc
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[:400]
        raise PrerequisiteError(f"systemctl start ended {done.returncode}: {said}")


def _detached(config: RunnerConfig, folder: Path, run_id: str) -> None:
    command = [*config.job_command, "--config", str(config.source), run_id]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        os.posix_spawn(
            command[0],
            command,
            {key: os.environ[key] for key in _KEPT if key in os.environ},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(folder / "job.err"), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )
    except OSError as exc:
        if exc.errno in NO_ROOM:
            raise DiskFullError(f"{folder}: {exc.strerror}: the job could not be started", folder=folder) from exc
        raise PrerequisiteError(f"{command[0]}: {exc.strerror}: the job could not be started") from exc


def ask_to_stop(folder: Path) -> None:
    """SIGTERM to the job, if one lives: it lets the effect under way end, then closes the run."""
    if (fd := job_pidfd(folder)) is not None:
        try:
            signal.pidfd_send_signal(fd, signal.SIGTERM)
        except ProcessLookupError:
            return
        finally:
            os.close(fd)
