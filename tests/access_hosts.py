"""Real sshds on loopback for the access modes: a target that answers, and a bastion whose key can only forward."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hyops.ports.access import SshPlace
from loopback import free_ports, own_home, wait_for

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ.get("PATH", ""))
ANSWERS = """import sys; line = sys.stdin.readline(); print('{"ok": true, "result": {}}' if line else "")"""


@dataclass
class Host:
    """One sshd with its own host key; `line` is what its one key may do, `inside` the command that starts it."""

    folder: Path
    name: str
    line: str = ""
    port: int = 0
    address: str = "127.0.0.1"
    inside: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("host", "client", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True)
        self.port = self.port or free_ports(1)[0]
        self.pin("host")

    def pin(self, key: str) -> None:
        """Pin one of the keys, under the name and under the address."""
        public = (self.folder / f"{key}.pub").read_text()
        (self.folder / "known_hosts").write_text(f"{self.name},[{self.address}]:{self.port} {public}")

    def may(self, line: str) -> None:
        """What the client key may do from now on."""
        (self.folder / "authorized_keys").write_text(f"{line} {(self.folder / 'client.pub').read_text()}")

    def start(self) -> None:
        """Listen."""
        assert SSHD is not None
        self.may(self.line)
        config = self.folder / "config"
        config.write_text(
            f"Port {self.port}\nListenAddress {self.address}\nHostKey {self.folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
            f"PermitRootLogin yes\nLogLevel VERBOSE\n{own_home(self.folder)}"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        with (self.folder / "log").open("wb") as log:
            words = [*self.inside, SSHD, "-D", "-e", "-f", str(config)]
            self.process = subprocess.Popen(words, stderr=log, stdin=subprocess.DEVNULL)
        wait_for(lambda: "Server listening" in self.log, "sshd")

    def stop(self) -> None:
        """End it, and what it serves."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(5)

    @property
    def log(self) -> str:
        """What sshd wrote."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    @property
    def connections(self) -> int:
        """TCP connections that sshd has seen."""
        return self.log.count("Connection from ")

    @property
    def place(self) -> SshPlace:
        """How to enter it; pinned under its name."""
        return SshPlace(
            self.name, self.address, self.port, "root", str(self.folder / "client"), str(self.folder / "known_hosts"),
            pinned_as=self.name,
        )  # fmt: skip


def target(folder: Path, *, address: str = "127.0.0.1", port: int = 0, inside: tuple[str, ...] = ()) -> Host:
    """A host whose forced command answers in the agent's protocol; `inside` is what starts it elsewhere."""
    answers = folder / "answers.py"
    folder.mkdir(parents=True, exist_ok=True)
    answers.write_text(ANSWERS)
    return Host(folder, "cloud-db", f'restrict,command="{sys.executable} {answers}"', port, address, inside)


def forwards_only(port: int) -> str:
    """What the bastion's key may do: reach one port, and run nothing."""
    return f'restrict,port-forwarding,permitopen="127.0.0.1:{port}",command="/bin/false"'


def bastion(folder: Path, port: int) -> Host:
    """A jump host to one port."""
    return Host(folder, "jump", forwards_only(port))


def silent_listener() -> socket.socket:
    """A port that takes connections and says nothing: an sshd that is not there yet."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    return listener
