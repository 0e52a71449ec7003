"""A lab: eight real machines on one host, from `up` to `down`.

with Lab("demo") as lab:  # up, and down at the end
    lab.exec("control", ["hyops", "status"])
    lab.kill("onprem-db")
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hyops_lab import base, daemon, image, network, power, release, requirements
from hyops_lab.command import environment, run
from hyops_lab.errors import LabError, NotUpError, WaitError
from hyops_lab.faults import Faults
from hyops_lab.hosts import HOSTS, Names, host_named
from hyops_lab.inventory import Inventory, take
from hyops_lab.machine import Machine, unmount
from hyops_lab.roles import ROLES
from hyops_lab.waiting import PATIENCE_S

Wiring = Callable[["Lab"], None]


class Lab(Faults):
    """One lab, by id; making the object touches nothing."""

    def __init__(self, lab_id: str = "demo", *, say: Callable[[str], None] = lambda text: None) -> None:
        self.names = Names(lab_id)
        self._say = say

    def __enter__(self) -> Lab:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.down()

    # --- from nothing to eight machines and back

    def up(self, roles: Sequence[str] = tuple(ROLES), *, wire: Wiring | None = None) -> None:
        """Build what is not cached, then make, wire and boot all machines; returns when every role serves.

        A lab that is already up is left as it is.

        Args:
            roles: which of `ROLES` to prepare.
            wire: called with this lab when all file systems exist and no machine runs yet: it may `write` files and
                `enable` units.
        Raises:
            RequirementsError: this machine cannot run a lab.
            LabError: a part of this lab exists, or does not start; `down` cleans it.
        """
        unknown = [role for role in roles if role not in ROLES]
        if unknown:
            raise LabError(f"no role {', '.join(unknown)}; roles: {', '.join(ROLES)}")
        requirements.ensure(self._say)
        squashfs = image.ensure(self._say)
        site = release.dependencies(squashfs, self._say)
        with self._locked():
            if self.is_up():
                return
            state = str(self.names.state)
            leftovers = [item for item in self.inventory().items() if item != f"files: {state}"]
            leftovers += os.listdir(state)
            if leftovers:
                raise LabError(f"lab {self.names.lab_id} is there in part; run down first. Found: {leftovers[0]}")
            self._create(squashfs, site)
            self._prepare(list(HOSTS), roles)
            if wire is not None:
                wire(self)
            power.start(self)
            self._boot(list(HOSTS))
            for role in roles:
                ROLES[role].ready(self)
            (self.names.state / "up.json").write_text(json.dumps({"roles": list(roles)}))

    def down(self) -> None:
        """End every process and remove everything of this lab; also one that came up in part, or that is not there."""
        if not self.names.state.exists() and not self.inventory().items():
            return
        with self._locked():
            daemon.end(self.cgroup)
            for host in HOSTS:
                self.machine(host).unmount()
            unmount(self.names.state / "base")
            network.remove(self.names)
            run(["rm", "-rf", "--one-file-system", str(self.names.state)])
            for shared in (self.cgroup.parent, self.names.state.parent):
                with suppress(OSError):  # other labs are there
                    shared.rmdir()

    def is_up(self) -> bool:
        """Whether `up` has finished here; machines may have been switched off since."""
        return (self.names.state / "up.json").exists()

    def reset(self, *hosts: str, wire: Wiring | None = None) -> None:
        """Give hosts an empty disk again, prepare them as `up` did and boot them; `wire` is called as by `up`.

        Hosts that share state start over only together: both databases, or all three members of etcd.
        """
        roles = self.roles()
        for host in hosts:
            self.kill(host)
            self.machine(host).unmount()
        self._prepare(hosts, roles)
        if wire is not None:
            wire(self)
        self._boot(hosts)
        for role in roles:
            if set(ROLES[role].hosts) & set(hosts):
                ROLES[role].ready(self)

    def roles(self) -> list[str]:
        """The roles that `up` prepared."""
        if not self.is_up():
            raise NotUpError(f"lab {self.names.lab_id} is not up")
        roles: list[str] = json.loads((self.names.state / "up.json").read_text())["roles"]
        return roles

    # --- inside a machine

    def exec(
        self,
        host: str,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002  same name as subprocess.run
        timeout_s: float = PATIENCE_S,
        user: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a machine, as root or `user`, not by SSH.

        Raises:
            CommandError: it ended with another status than 0, and `check` is set.
            WaitError: it had not ended after `timeout_s`; it was killed.
            LabError: the machine is off.
        """
        return self._known(host).exec(argv, input=input, timeout_s=timeout_s, user=user, check=check)

    def chroot(self, host: str, argv: Sequence[str], *, input: str | None = None) -> subprocess.CompletedProcess[str]:  # noqa: A002
        """Run a command in the files of a machine that is off, for example `useradd` while wiring."""
        return self._known(host).chroot(argv, input=input)

    def popen(
        self, host: str, argv: Sequence[str], *, user: str | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command in a machine; `options` go to `subprocess.Popen`."""
        return subprocess.Popen(self._known(host).enter(argv, user), env=environment(), **options)

    def read(self, host: str, path: str) -> bytes:
        """Return a file of a machine, on or off."""
        return self._known(host).path(path).read_bytes()

    def write(self, host: str, path: str, content: bytes, mode: int = 0o644, owner: str = "root") -> None:
        """Write a file of a machine, on or off, in one step; `owner` is `user` or `user:group` of that machine."""
        machine = self._known(host)
        target = machine.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        uid, gid = base.ids(machine, owner)
        partial = target.with_name(f".{target.name}.lab-new")
        with partial.open("wb") as file:
            os.fchmod(file.fileno(), mode)
            os.fchown(file.fileno(), uid, gid)
            file.write(content)
        partial.rename(target)

    def enable(self, host: str, *units: str) -> None:
        """Have units start when the machine boots; one that runs starts them now, too."""
        machine = self._known(host)
        if machine.is_on():
            machine.exec(["systemctl", "enable", "--now", *units])
        else:
            base.enable(machine, units)

    def power_switch_mode(self, mode: str) -> None:
        """Make the power switch tell the `truth`, `fail`, `hang` or `lie`."""
        power.set_mode(self, mode)

    # --- facts

    def machine(self, host: str) -> Machine:
        """The machine of a host."""
        return Machine(self.names, host_named(host), self.cgroup / host)

    def address(self, host: str) -> str:
        """The host's address."""
        return host_named(host).address

    def log(self, host: str) -> str:
        """The file with the console of the host's machine."""
        return str(self.machine(host).log)

    def host_key(self, host: str) -> str:
        """The host's public SSH key, `ssh-ed25519 AAAA...`."""
        return base.public_key(self, host)

    def secret(self, name: str) -> str:
        """The secret of this lab called `name`, made at first use: 32 random bytes in base64."""
        path = self.names.state / "secrets" / name
        if not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(0o600)
            path.write_text(b64encode(secrets.token_bytes(32)).decode())
        return path.read_text()

    def status(self) -> dict[str, dict[str, str]]:
        """Host -> address, site and power: `on`, `off` or `paused`."""
        return {host.name: {"site": host.site, "address": host.address, "power": self._power(host.name)}
                for host in HOSTS.values()}  # fmt: skip

    def inventory(self) -> Inventory:
        """Everything on this machine that carries this lab's name."""
        return take(self.names)

    def wait_ssh(self, host: str, timeout_s: float = PATIENCE_S) -> None:
        """Return when the host's sshd answers on the network."""
        deadline = time.monotonic() + timeout_s
        said = "no answer"
        while time.monotonic() < deadline:
            try:
                with network.connect(self.names.switch, self.address(host), 22, 1.0) as connection:
                    if connection.recv(64).startswith(b"SSH-"):
                        return
            except OSError as error:
                said = str(error)
            time.sleep(0.02)  # a refused connection says nothing about when the next one will not be
        raise WaitError(f"no SSH on {host} after {timeout_s:g} s ({said}); see {self.log(host)}")

    # --- parts of up and down

    def _create(self, squashfs: Path, site: Path) -> None:
        """Make the network, the image mount and the layer of the current source, at the same time."""
        state = self.names.state
        (state / "layers").write_text(f"{state}/app\n{site}\n{state}/base\n")
        (state / "base").mkdir()
        with ThreadPoolExecutor() as pool:
            wired = pool.submit(network.create, self.names)
            compiled = pool.submit(release.application, state / "app", squashfs, self.cgroup / "build")
            run(["mount", "-o", "loop,ro", str(squashfs), str(state / "base")])
        wired.result()
        compiled.result()

    def _prepare(self, hosts: Sequence[str], roles: Sequence[str]) -> None:
        for host in hosts:
            self.machine(host).mount(self._layers())
            base.prepare(self, host)
            for role in roles:
                if host in ROLES[role].hosts:
                    ROLES[role].prepare(self, host)

    def _boot(self, hosts: Iterable[str]) -> None:
        started = []
        for machine in map(self._known, hosts):
            network.set_link(self.names, machine.host.name, up=True)
            if not machine.is_on():
                started.append((machine, machine.start()))
        deadline = time.monotonic() + PATIENCE_S
        for machine, listener in started:
            machine.wait_started(listener, max(0.1, deadline - time.monotonic()))

    def _layers(self) -> list[Path]:
        return [Path(line) for line in (self.names.state / "layers").read_text().split()]

    @property
    def cgroup(self) -> Path:
        """The cgroup of everything that this lab runs: machines, their guards, slow wires, the power switch."""
        return requirements.cgroup_root() / "hyops-lab" / self.names.lab_id

    def _known(self, host: str) -> Machine:
        machine = self.machine(host)
        if not machine.folder.exists():
            raise NotUpError(f"lab {self.names.lab_id} is not up")
        return machine

    def _power(self, host: str) -> str:
        machine = self.machine(host)
        if not machine.is_on():
            return "off"
        return "paused" if machine.is_frozen() else "on"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up` or `down` of this lab at a time; the lock is its state folder."""
        while True:
            try:
                self.names.state.mkdir(parents=True, exist_ok=True)
                folder = os.open(self.names.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # a `down` removed it meanwhile
                continue
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                if self._is_still(folder):
                    yield
                    return
            finally:
                os.close(folder)

    def _is_still(self, folder: int) -> bool:
        """Whether the folder was not removed by a `down` that held the lock before."""
        try:
            return os.fstat(folder).st_ino == self.names.state.stat().st_ino
        except FileNotFoundError:
            return False
