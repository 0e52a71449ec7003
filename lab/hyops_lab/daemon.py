"""Processes that a lab keeps on the host: each detached, in a cgroup of the lab, found and ended by it."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from hyops_lab.command import environment
from hyops_lab.machine import JOIN, remove_cgroup
from hyops_lab.waiting import PATIENCE_S, until

START = 'echo 0 > "$0/cgroup.procs" && exec setsid --fork "$@"'


def joined(cgroup: Path, argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` in `cgroup`, so that `down` ends it even if its caller was killed."""
    cgroup.mkdir(parents=True, exist_ok=True)
    return ["sh", "-c", JOIN, str(cgroup), *argv]


def start(cgroup: Path, argv: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> None:
    """Start `argv` in `cgroup`, with this package importable and its output in `log`."""
    cgroup.mkdir(parents=True, exist_ok=True)
    env = environment({"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"})
    with log.open("ab") as file:
        subprocess.run(
            ["sh", "-c", START, str(cgroup), *argv],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=env,
            check=True,
            pass_fds=pass_fds,
        )


def end(cgroup: Path) -> None:
    """End everything in `cgroup` and below, and remove it; no such cgroup is fine."""
    if not cgroup.exists():
        return
    (cgroup / "cgroup.kill").write_text("1")

    def empty() -> bool:
        return "populated 0" in (cgroup / "cgroup.events").read_text()

    until(empty, what=f"all of {cgroup.name} to end", where=str(cgroup), timeout_s=PATIENCE_S, pause_s=0.005)
    remove_cgroup(cgroup)
