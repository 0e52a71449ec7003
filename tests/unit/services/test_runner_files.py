"""What a runner's user may do as root: start the unit of a run (INV-8)."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hyops.model import ids
from hyops.runner import launch
from hyops.services.runner_files import RUN_NAME, STARTED, SUDOERS

pytestmark = pytest.mark.req("RUN-2", "INV-8")

SBIN = "/usr/sbin:/sbin:" + os.environ.get("PATH", "")
RUN = ids.run(datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC), "sha256:" + "0" * 64)


def test_the_runner_may_start_the_unit_of_a_run_and_nothing_else() -> None:
    """sudo matches all words as one text, and its `*` takes spaces: no wildcard may stand in the rule."""
    good = f"start --no-block hyops-run@{RUN}.service"
    assert f"hyops ALL=(root) NOPASSWD: /usr/bin/systemctl {STARTED}\n" == SUDOERS
    assert not set("*?!\\,:=") & set(STARTED)
    assert fnmatch.fnmatchcase(RUN, RUN_NAME)
    assert fnmatch.fnmatchcase(good, STARTED)
    for bad in (
        "start --no-block hyops-run@x poweroff.target hyops-run@x.service",
        f"start --no-block hyops-run@{RUN}.service poweroff.target",
        f"start --no-block hyops-run@{RUN}.service hyops-run@{RUN}.service",
        f"start --no-block hyops-run@{RUN} poweroff.target .service",
        f"start --no-block hyops-run@{RUN[:-1]}/.service",
        f"start hyops-run@{RUN}.service",
        f"stop --no-block hyops-run@{RUN}.service",
        "start --no-block hyops-run@.service",
    ):
        assert not fnmatch.fnmatchcase(bad, STARTED), bad


def test_what_the_launcher_asks_for_is_what_sudo_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words that start a job, as they are typed."""
    asked: list[list[str]] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    launch._systemd(RUN)

    (words,) = asked
    assert words[:3] == ["sudo", "-n", "systemctl"]
    assert fnmatch.fnmatchcase(" ".join(words[3:]), STARTED)


@pytest.mark.skipif(shutil.which("visudo", path=SBIN) is None, reason="sudo is not installed here")
def test_sudo_reads_its_rule(tmp_path: Path) -> None:
    """By its own parser."""
    rule = tmp_path / "hyops-runner"
    rule.write_text(SUDOERS)
    rule.chmod(0o440)
    done = subprocess.run(
        [str(shutil.which("visudo", path=SBIN)), "-c", "-s", "-f", str(rule)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
