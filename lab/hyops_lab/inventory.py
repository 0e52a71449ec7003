"""What on this machine carries a lab's name: taken before and after, it proves that `down` leaves nothing."""

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

from hyops_lab.errors import LabError
from hyops_lab.hosts import Names
from hyops_lab.machine import NSPAWN_RUN, processes
from hyops_lab.network import NETNS
from hyops_lab.requirements import cgroup_root


@dataclass(frozen=True)
class Inventory:
    """Findings by kind; each is a short text that a person can look up."""

    processes: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    loop_devices: tuple[str, ...] = ()
    nft_tables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def items(self) -> list[str]:
        """Return all findings, `kind: text`."""
        return [f"{field.name}: {text}" for field in fields(self) for text in getattr(self, field.name)]


def take(names: Names) -> Inventory:
    """Look everywhere a lab leaves something."""
    return Inventory(
        processes=tuple(_processes(names)),
        cgroups=tuple(_cgroups(names)),
        namespaces=tuple(sorted(path.name for path in NETNS.glob(f"{names.prefix}*"))),
        mounts=tuple(_mounts(names)),
        loop_devices=tuple(_loops(names)),
        nft_tables=tuple(_nft_tables(names)),
        files=tuple(_files(names)),
    )


def _cgroup(names: Names) -> Path | None:
    with contextlib.suppress(LabError):
        return cgroup_root() / "hyops-lab" / names.lab_id
    return None


def _processes(names: Names) -> list[str]:
    """Processes in the lab's cgroups, in its network namespaces, or named after it; not this process or its parents."""
    cgroup = _cgroup(names)
    inodes = {os.stat(path).st_ino for path in NETNS.glob(f"{names.prefix}*")}
    found = set(processes(cgroup)) if cgroup is not None else set()
    pattern = re.compile(re.escape(f"{names.prefix}") + "|" + re.escape(f"{names.state}/"))
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "ns/net").stat().st_ino in inodes or pattern.search((path / "cmdline").read_text()):
                found.add(int(path.name))
    return [f"{pid} {_command_line(pid)}" for pid in sorted(found - _own_ancestry())]


def _own_ancestry() -> set[int]:
    """This process and its ancestors: their arguments may well name the lab."""
    pids, pid = set(), os.getpid()
    while pid > 0:
        pids.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return pids


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()[:120]
    return ""


def _cgroups(names: Names) -> list[str]:
    cgroup = _cgroup(names)
    return [] if cgroup is None else sorted(folder for folder, _, _ in os.walk(cgroup))


def _mounts(names: Names) -> list[str]:
    points = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
    return sorted(point for point in points if f"{point}/".startswith(f"{names.state}/") or names.prefix in point)


def _loops(names: Names) -> list[str]:
    """Loop devices mounted below the lab's state."""
    mounted = (line.split()[:2] for line in Path("/proc/mounts").read_text().splitlines())
    ours = (device for device, point in mounted if point.startswith(f"{names.state}/"))
    return [device for device in ours if device.startswith("/dev/loop")]


def _nft_tables(names: Names) -> list[str]:
    """Fault tables live in the lab's namespaces only; one in the host's own would be a defect."""
    with contextlib.suppress(OSError):
        listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
        return [line for line in listed.splitlines() if names.prefix in line or "hyops_lab" in line]
    return []


def _files(names: Names) -> list[str]:
    found = [names.state] if names.state.exists() else []
    for part in ("propagate", "unix-export", "locks"):
        found += NSPAWN_RUN.glob(f"{part}/{names.prefix}*")
    return sorted(str(path) for path in found)
