"""A deployment onto a runner whose disk fills between the spec and the first record: its live lines say so (RUN-11)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_site import HYOPS, DeploySite
from waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounting a file system of its own")
FILLS_FIRST = """
import os, sys
root, filled = sys.argv[1], sys.argv[2]
if not os.path.exists(filled):
    open(filled, "w").close()
    free = os.statvfs(root)
    with open(root + "/filler", "wb") as out:
        os.posix_fallocate(out.fileno(), 0, (free.f_bavail - 10) * free.f_frsize)
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DeploySite]:
    """A runner on a file system of 4 MiB; its first job finds it full."""
    root = tmp_path / "runner"
    root.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(root)], check=True)
    job = [sys.executable, "-c", FILLS_FIRST, str(root), str(tmp_path / "filled"), str(HYOPS), "runner-job"]
    try:
        with DeploySite(tmp_path, job=job).up() as up:
            yield up
    finally:
        command = ["umount", str(root)]
        wait_for(lambda: subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0, "the end of the last job")


def run_shows(site: DeploySite, word: str) -> bool:
    """Whether `run show` says of the one run that its disk is full; while a job lives it is only running."""
    (run_id,) = site.folders.run_ids()
    words = [str(HYOPS), "run", "show", run_id, "--config", str(site.config("execution"))]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stderr
    return told.startswith(f"{word}{site.folders.run(run_id)}: disk full")


@pytest.mark.req("RUN-11", "UX-1", "UX-2", "EXE-1")
@pytest.mark.fault(17)
def test_a_disk_that_fills_is_told_while_it_is_waited_for(site: DeploySite) -> None:
    """Once, with runner, folder and mend, not as a runner that is away; with room again the run ends well, once."""
    argv = [str(HYOPS), *site.words("deploy", "--yes")]
    lines: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as deploying:
        assert deploying.stdout is not None
        for line in deploying.stdout:
            lines.append(line)
            if line.startswith("  approve: "):
                command = line.removeprefix("  approve: ").replace("YOUR_SSH_KEY", str(site.ring.folder / "approver"))
                words = [str(HYOPS), *command.split()[1:], "--yes"]
                subprocess.run(words, check=True, capture_output=True)
            if line.startswith("not going on: "):
                status = [str(HYOPS), "status", "--config", str(site.config("execution"))]
                shown = subprocess.run(status, check=True, capture_output=True, text=True).stdout
                (run_id,) = site.folders.run_ids()
                wait_for(lambda: run_shows(site, "not going on: "), "run show, between two tries")
                (site.folders.root / "filler").unlink()
        code = deploying.wait()

    (told,) = [line for line in lines if line.startswith("not going on: ")]
    folder = site.folders.run(run_id)
    assert told.startswith(f"not going on: cloud-runner: {folder}: disk full: ")
    assert "hyops runner gc" in told
    assert f"cloud-runner: {folder}: disk full" in shown
    assert ("NOT GOING ON" in shown, "run open: " in shown) == (True, True)
    before, after = lines[: lines.index(told)], lines[lines.index(told) :]
    assert [line for line in before if "runner not reached" in line] == []
    away = [line for line in after if "runner not reached" in line]
    assert [line for line in away if "did not open its run" not in line] == []  # its job met room just being made
    assert (code, len(site.store("execution", "outcomes").ids())) == (0, 1)
    done = subprocess.run(status, check=True, capture_output=True, text=True).stdout
    assert "NOT GOING ON" not in done
