"""A process that holds secrets and crashes leaves no core: each is started, reads a secret, and is aborted."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyops.cores import CORE_MAX_BYTES
from hyops.services import runner_files

CANARY = b"c4naryCore" + b"77Zz19"
ABORTED = """
import json, os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # as a host that keeps cores would have it

def work(*_):
    secret = sys.stdin.buffer.read()
    child = "import resource; print(list(resource.getrlimit(resource.RLIMIT_CORE)), flush=True)"
    import subprocess
    subprocess.run([sys.executable, "-c", child], check=True)
    os.abort()

import hyops.cli.main, hyops.runner.pull, hyops.runner.serve, hyops.services.runner_job
for module in (hyops.cli.main, hyops.runner.pull, hyops.runner.serve, hyops.services.runner_job):
    module.main = work
from hyops.__main__ import main
sys.argv = ["hyops", *sys.argv[1:]]
main()
"""

pytestmark = [pytest.mark.req("SEC-2", "INV-10"), pytest.mark.fault(21)]


@pytest.mark.parametrize(
    "words", ["runner-job run-1", "runner-serve", "runner-pull", "runner blueprint deploy", "secrets exec"]
)
def test_a_crash_of_what_holds_secrets_leaves_no_core(tmp_path: Path, words: str) -> None:
    """Where the host allows cores of any size: no file has the secret, and its children are held to it too."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    done = subprocess.run(
        [sys.executable, "-c", ABORTED, *words.split()], input=CANARY, capture_output=True, cwd=tmp_path, check=False
    )

    assert done.returncode == -signal.SIGABRT, done.stderr
    assert json.loads(done.stdout) == [0 if hard == 0 else CORE_MAX_BYTES] * 2
    assert [path for path in tmp_path.iterdir() if CANARY in path.read_bytes()] == []


def test_the_limit_is_the_one_that_pipes_heed() -> None:
    """Of 0 the kernel says that a program which is handed cores need not care; 1 starts none, and fits no file."""
    assert CORE_MAX_BYTES == 1


@pytest.mark.parametrize("unit", [runner_files.JOB_UNIT, runner_files.RESUME_UNIT])
def test_the_units_of_a_runner_allow_no_core(unit: str) -> None:
    """From the first instruction on, before the process could say so itself."""
    text, _ = runner_files.system("/var/lib/hyops/runner")[f"/etc/systemd/system/{unit}"]

    assert f"\nLimitCORE={CORE_MAX_BYTES}\n" in text.partition("[Service]")[2]
