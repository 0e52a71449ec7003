"""One machine: an overlay on the shared image, systemd in nspawn, and a cgroup that holds all of it.

    <cgroup>/guard    the loop that starts nspawn again when the machine reboots itself
    <cgroup>/machine  nspawn and all processes of the machine
    <cgroup>/exec     what the lab runs in the machine from outside

Killing or freezing `<cgroup>` therefore reaches everything, the guard too: a killed machine stays off. The writable
layer is a tmpfs of limited size that outlives kill and reboot.
"""

import contextlib
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyops_lab.command import PATH, run
from hyops_lab.errors import CommandError, LabError, WaitError
from hyops_lab.hosts import Host, Names
from hyops_lab.network import NETNS
from hyops_lab.waiting import PATIENCE_S

NSPAWN_RUN = Path("/run/systemd/nspawn")

# 133 is nspawn's status for "the machine asked for a reboot" when it may not restart its own unit
GUARD = """
while :; do
  ( echo 0 > "$0/machine/cgroup.procs" && exec "$@" )
  [ $? = 133 ] || exit
done
"""
DETACH = 'echo 0 > "$0/guard/cgroup.procs" && exec setsid --fork sh -c "$GUARD" "$0" "$@"'
JOIN = 'echo 0 > "$0/cgroup.procs" && exec "$@"'
ENTER = 'echo 0 > "$0/exec/cgroup.procs" && exec "$@"'


@dataclass(frozen=True)
class Machine:
    """A host of one lab, on or off."""

    names: Names
    host: Host
    cgroup: Path

    @property
    def folder(self) -> Path:
        """The machine's folder in the lab's state."""
        return self.names.state / "hosts" / self.host.name

    @property
    def root(self) -> Path:
        """The machine's root file system as the host sees it."""
        return self.folder / "root"

    @property
    def disk(self) -> Path:
        """The tmpfs that takes all writes of the machine."""
        return self.folder / "disk"

    @property
    def log(self) -> Path:
        """What the machine's console and nspawn said."""
        return self.folder / "console.log"

    def mount(self, layers: Sequence[Path]) -> None:
        """Give the machine an empty writable layer above `layers`, topmost first."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.disk.mkdir(exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", f"size={self.host.disk_bytes},mode=755", "hyops-lab", str(self.disk)])
        (self.disk / "upper").mkdir()
        (self.disk / "work").mkdir()
        lower = ":".join(str(layer) for layer in layers)
        options = f"lowerdir={lower},upperdir={self.disk}/upper,workdir={self.disk}/work"
        run(["mount", "-t", "overlay", "-o", options, "hyops-lab", str(self.root)])

    def unmount(self) -> None:
        """Drop the machine's file system and what it wrote; it must be off."""
        for path in (self.root, self.disk):
            unmount(path)
        for leftover in self._nspawn_leftovers():
            shutil.rmtree(leftover, ignore_errors=True)

    def start(self) -> socket.socket:
        """Start the machine and return the socket on which it will say that it is up; see `wait_started`."""
        if self.is_on():
            raise LabError(f"{self.host.name} is already on")
        remove_cgroup(self.cgroup)
        for part in ("guard", "machine", "exec"):
            (self.cgroup / part).mkdir(parents=True)
        listener = self.listen()
        env = {
            "PATH": PATH,
            "LC_ALL": "C.UTF-8",
            "GUARD": GUARD,
            "NOTIFY_SOCKET": str(self._notify),
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "SYSTEMD_NSPAWN_LOCK": "0",
        }
        with self.log.open("ab") as log:
            try:
                subprocess.run(
                    ["sh", "-c", DETACH, str(self.cgroup), *self._nspawn()],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, check=True, timeout=PATIENCE_S,
                )  # fmt: skip
            except (subprocess.SubprocessError, OSError) as error:
                listener.close()
                raise LabError(f"{self.host.name} does not start: {error}; see {self.log}") from error
        return listener

    def listen(self) -> socket.socket:
        """Return a socket that hears of the machine's next boot; see `wait_started`."""
        self._notify.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(self._notify))
        return listener

    def wait_started(self, listener: socket.socket, timeout_s: float) -> None:
        """Return when the machine's systemd has finished booting; closes `listener`."""
        deadline = time.monotonic() + timeout_s
        with listener, (self.cgroup / "cgroup.events").open() as events:
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            poll.register(events, select.POLLPRI)
            while True:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise WaitError(f"{self.host.name} has not booted after {timeout_s:g} s; {self._log_end()}")
                for file, _ in poll.poll(left_s * 1000):
                    if file == listener.fileno() and b"READY=1" in listener.recv(4096).splitlines():
                        return
                if not self.is_on():
                    raise LabError(f"{self.host.name} ended while booting; {self._log_end()}")

    def is_on(self) -> bool:
        """Whether any process of the machine exists."""
        try:
            return "populated 1" in (self.cgroup / "cgroup.events").read_text()
        except FileNotFoundError:
            return False

    def kill(self) -> None:
        """End all processes of the machine at once; returns when the kernel says that none is left."""
        if not self.is_on():
            return
        (self.cgroup / "cgroup.kill").write_text("1")
        self._wait_event("populated 0")

    def freeze(self, *, frozen: bool) -> None:
        """Stop or continue all processes of the machine."""
        self._must_be_on()
        (self.cgroup / "cgroup.freeze").write_text("1" if frozen else "0")
        self._wait_event(f"frozen {int(frozen)}")

    def is_frozen(self) -> bool:
        """Whether the machine is stopped by `freeze`."""
        try:
            return (self.cgroup / "cgroup.freeze").read_text().strip() == "1"
        except FileNotFoundError:
            return False

    def leader(self) -> int:
        """Return the process id, outside, of the machine's PID 1."""
        for pid in processes(self.cgroup / "machine"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("NSpid:") and line.split()[2:] == ["1"]:
                        return pid
        self._must_be_on()
        raise LabError(f"{self.host.name} has no PID 1 yet; see {self.log}")

    def enter(self, argv: Sequence[str], user: str | None = None) -> list[str]:
        """Return the command that runs `argv` in all namespaces and the cgroup of the machine."""
        as_user = ["runuser", "-u", user, "--"] if user else []
        home = ["HOME=/root"] if user is None else []
        return [
            "sh", "-c", ENTER, str(self.cgroup),
            "nsenter", "-t", str(self.leader()), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--",
            "env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", *home, *as_user, *argv,
        ]  # fmt: skip

    def exec(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002  same name as subprocess.run
        timeout_s: float = PATIENCE_S,
        user: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the machine; on a timeout everything that it started in its session ends."""
        done = run(
            self.enter(argv, user),
            input=input,
            timeout_s=timeout_s,
            check=check,
            where=self.host.name,
            shown=argv,
        )
        return subprocess.CompletedProcess(list(argv), done.returncode, done.stdout, done.stderr)

    def chroot(self, argv: Sequence[str], *, input: str | None = None) -> subprocess.CompletedProcess[str]:  # noqa: A002
        """Run `argv` with the machine's files as root, while the machine is off: no namespace but that of mounts."""
        if self.is_on():
            raise LabError(f"{self.host.name} is on: run it inside")
        script = 'mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
        wrapped = ["unshare", "--mount", "sh", "-c", script, str(self.root), *argv]
        building = self.cgroup.parent / "build"  # `down` ends it even if this process is killed
        building.mkdir(parents=True, exist_ok=True)
        return run(["sh", "-c", JOIN, str(building), *wrapped], input=input, where=self.host.name, shown=argv)

    def fill_disk(self) -> None:
        """Shrink the writable layer to what is in it: the next write finds no space."""
        for _ in range(5):
            disk = os.statvfs(self.disk)
            used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
            try:
                self._resize(used)
            except CommandError:  # it grew meanwhile
                continue
            return
        raise LabError(f"{self.host.name} writes too fast to fill its disk")

    def restore_disk(self) -> None:
        """Give the writable layer its full size again."""
        if self.is_disk_filled():
            self._resize(self.host.disk_bytes)

    def is_disk_filled(self) -> bool:
        """Whether the writable layer is smaller than it should be."""
        disk = os.statvfs(self.disk)
        return disk.f_blocks * disk.f_frsize != self.host.disk_bytes

    def path(self, path: str) -> Path:
        """Return where `path` of the machine is on the host, links resolved as the machine would."""
        root = self.root
        if self.is_on():
            with contextlib.suppress(LabError):
                root = Path(f"/proc/{self.leader()}/root")
        return inside(root, path)

    def _wait_event(self, wanted: str) -> None:
        """Return when the kernel says `wanted` of the machine's cgroup; it announces every change."""
        deadline = time.monotonic() + PATIENCE_S
        with (self.cgroup / "cgroup.events").open() as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while wanted not in events.read():
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise WaitError(f"{self.host.name} is not {wanted!r} after {PATIENCE_S:g} s")
                poll.poll(left_s * 1000)
                events.seek(0)

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-10:]
        return f"the end of {self.log}:\n" + "\n".join(lines)

    @property
    def _notify(self) -> Path:
        return self.folder / "notify"

    def _resize(self, size: int) -> None:
        run(["mount", "-o", f"remount,size={size}", str(self.disk)])

    def _must_be_on(self) -> None:
        if not self.is_on():
            raise LabError(f"{self.host.name} is off")

    def _nspawn_name(self) -> str:
        return f"{self.names.prefix}{self.host.name}"

    def _nspawn(self) -> list[str]:
        return [
            "systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self._nspawn_name()}",
            f"--hostname={self.host.name}", "--register=no", "--keep-unit", "--notify-ready=yes",
            f"--network-namespace-path={NETNS / self.names.namespace(self.host.name)}",
            "--capability=CAP_NET_ADMIN", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
            "--console=pipe", "--kill-signal=SIGRTMIN+3", "--boot",
        ]  # fmt: skip

    def _nspawn_leftovers(self) -> list[Path]:
        """What a killed nspawn leaves under /run."""
        return [
            path for part in ("propagate", "unix-export") if (path := NSPAWN_RUN / part / self._nspawn_name()).exists()
        ]


def processes(cgroup: Path) -> Iterator[int]:
    """Yield the process ids in a cgroup and below it."""
    for folder, _, files in os.walk(cgroup):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                yield from map(int, Path(folder, "cgroup.procs").read_text().split())


def remove_cgroup(cgroup: Path) -> None:
    """Remove an empty cgroup and those below it."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        os.rmdir(folder)


def unmount(path: Path) -> None:
    """Unmount `path` if something is mounted there, however often."""
    deadline = time.monotonic() + PATIENCE_S
    while os.path.ismount(path):
        try:
            run(["umount", str(path)])
        except CommandError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # namespaces of killed processes are torn down after the processes are gone


def inside(root: Path, path: str) -> Path:
    """Resolve `path` below `root`, taking links as a process with that root would; never leaves `root`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if here.is_symlink():
            links += 1
            if links > 40:
                raise LabError(f"too many links in {path}")
            target = os.readlink(here)
            if target.startswith("/"):
                done = []
            parts = [item for item in target.split("/") if item not in ("", ".")] + parts
        else:
            done.append(part)
    return root.joinpath(*done)
