"""What this machine must offer to run a lab: probed, never assumed, and reported all at once."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hyops_lab.command import PATH, run
from hyops_lab.errors import CommandError, LabError, RequirementsError

# program on the host -> Debian and Ubuntu package that has it
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
FILES = {Path("/usr/share/keyrings/debian-archive-keyring.gpg"): "debian-archive-keyring"}
APT_TIMEOUT_S = 600.0


def ensure(say: Callable[[str], None]) -> None:
    """Install missing host packages by apt, then check everything; one error lists all that is missing."""
    if os.geteuid() != 0:
        raise RequirementsError(missing())
    packages = missing_packages()
    if packages and shutil.which("apt-get", path=PATH):
        say(f"installing host packages: {' '.join(packages)}")
        _install(packages)
    found = missing()
    if found:
        raise RequirementsError(found)


def missing_packages() -> list[str]:
    """Return the packages to install, sorted, for programs and files that this machine lacks."""
    packages = {package for program, package in PROGRAMS.items() if not shutil.which(program, path=PATH)}
    return sorted(packages | {package for file, package in FILES.items() if not file.exists()})


def missing(probes: Sequence[Callable[[], str | None]] | None = None) -> list[str]:
    """Return a sentence for each thing that is missing; empty when a lab can run."""
    return [problem for probe in (PROBES if probes is None else probes) if (problem := probe()) is not None]


def cgroup_root(mounts: str | None = None) -> Path:
    """Return where the version 2 hierarchy is mounted: alone, or beside version 1 ones."""
    text = Path("/proc/mounts").read_text() if mounts is None else mounts
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1])
    raise LabError("no cgroup version 2 hierarchy is mounted")


def _install(packages: list[str]) -> None:
    env = {**os.environ, "PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=5"]
    install = [*apt, "install", "-y", "--no-install-recommends", *packages]
    run([*apt, "update"], timeout_s=APT_TIMEOUT_S, env=env, check=False)  # a broken third-party source must not stop us
    run(install, timeout_s=APT_TIMEOUT_S, env=env)


def _probe_root() -> str | None:
    return None if os.geteuid() == 0 else "root: namespaces, mounts and cgroups are needed (run it with sudo)"


def _probe_programs() -> str | None:
    packages = missing_packages()
    return f"programs from these packages: {' '.join(packages)}" if packages else None


def _probe_cgroup() -> str | None:
    """Make a cgroup and look for the two files that kill and freeze machines."""
    try:
        root = cgroup_root()
    except LabError:
        return "cgroup version 2: mount -t cgroup2 none /sys/fs/cgroup/unified"
    try:
        probe = Path(tempfile.mkdtemp(prefix="hyops-lab-probe-", dir=root))
    except OSError as error:
        return f"a writable cgroup version 2 hierarchy: {root}: {error.strerror}"
    try:
        lacking = [name for name in ("cgroup.kill", "cgroup.freeze") if not (probe / name).exists()]
    finally:
        probe.rmdir()
    return f"Linux 5.14 or newer: {root} has no {' and no '.join(lacking)}" if lacking else None


def _probe_overlay() -> str | None:
    """Mount an overlay on tmpfs in a mount namespace of its own."""
    if os.geteuid() != 0 or not shutil.which("unshare", path=PATH):
        return None  # said by the other probes
    script = (
        'mount -t tmpfs none "$0" && mkdir "$0/l" "$0/u" "$0/w" "$0/m" && '
        'mount -t overlay none -o "lowerdir=$0/l,upperdir=$0/u,workdir=$0/w" "$0/m"'
    )
    with tempfile.TemporaryDirectory(prefix="hyops-lab-probe-") as folder:
        try:
            run(["unshare", "--mount", "sh", "-c", script, folder])
        except CommandError as error:
            return f"overlay mounts on tmpfs: {error.output.strip()}"
    return None


def _probe_loop() -> str | None:
    return None if Path("/dev/loop-control").exists() else "loop devices: /dev/loop-control (modprobe loop)"


def _probe_nft() -> str | None:
    """Load a bridge table with the set lookups that the faults use, in a network namespace of its own."""
    if os.geteuid() != 0 or not shutil.which("nft", path=PATH):
        return None  # said by the other probes
    rules = (
        "add table bridge probe\n"
        "add chain bridge probe c { type filter hook prerouting priority -300; }\n"
        "add rule bridge probe c iifname lo ip daddr 10.0.0.1 numgen random mod 100 < 30 drop\n"
    )
    try:
        run(["unshare", "--net", "nft", "-f", "-"], input=rules)
    except CommandError as error:
        return f"nftables for bridges in the kernel: {error.output.strip().splitlines()[0]}"
    return None


PROBES: tuple[Callable[[], str | None], ...] = (
    _probe_root,
    _probe_programs,
    _probe_cgroup,
    _probe_overlay,
    _probe_loop,
    _probe_nft,
)
