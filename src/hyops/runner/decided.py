"""Waits until a launched job has said whether its run goes on (RUN-5). Standard library only."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hyops.errors import RunnerUnreachableError
from hyops.model import wire
from hyops.runner import folders as disk
from hyops.runner import offer, reopen
from hyops.runner.folders import read_file


def admitted(folder: Path, known: int, limit_s: float) -> None:
    """Wait until the job has opened, resumed or refused its run; a refusal is raised as the job's own error.

    `known` is the journal's size before the job was launched: what stands there is not this job's word.
    """
    from hyops.runner.follow import wait_until

    def said() -> bool:
        if (folder / "result.json").exists():
            return True
        if size(folder / "journal.jsonl") <= known:
            return False
        line, complete, _ = read_file(folder / "journal.jsonl", offer.SPEC_MAX).partition(b"\n")
        return bool(complete) and json.loads(line)["body"].get("admitted") is not False

    if not wait_until(folder, said, limit_s):
        raise RunnerUnreachableError(f"the job did not open its run within {limit_s:g} s", job_said=_job_said(folder))
    whole, _, _ = read_file(folder / "journal.jsonl", disk.FILE_MAX).rpartition(b"\n")  # the job may be writing
    error = json.loads(whole.splitlines()[-1])["body"].get("error")
    if isinstance(error, dict):
        raise wire.error_of(error)


def reopened(folder: Path, known: int, limit_s: float) -> None:
    """Wait until the job has written that the ended run goes on, or why it may not, which is raised."""
    from hyops.runner.follow import wait_until

    def said() -> bool:
        return size(folder / "journal.jsonl") > known or not (folder / disk.REOPEN).exists()

    if not wait_until(folder, said, limit_s):
        raise RunnerUnreachableError(f"the job said nothing within {limit_s:g} s", job_said=_job_said(folder))
    if (error := reopen.refused(folder)) is not None:
        raise error


def size(path: Path) -> int:
    """Bytes of a file; 0 when it is not there."""
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def _job_said(folder: Path) -> str:
    said = read_file(folder / "job.err", 2000) if size(folder / "job.err") else b""
    return said.decode(errors="replace")[-600:]
