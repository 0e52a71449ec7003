"""A real sshd on loopback with a scripted peer behind its forced command, and a proxy that cuts or freezes the wire.

The peer is `ssh_peer_serve`: what it does instead of answering, the file `mode` in its folder says.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from hyops.model.protocol import PROTOCOL_MAX, PROTOCOL_MIN
from loopback import free_ports, own_home
from waiting import wait_for

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ.get("PATH", ""))
SERVED = Path(__file__).with_name("ssh_peer_serve.py")
SERVE = [sys.executable, "-S", str(SERVED), str(PROTOCOL_MIN), str(PROTOCOL_MAX)]
"""The peer's program; the folder comes after it."""


@dataclass
class SshPeer:
    """One sshd: host key `host`, client key `user`, pins in `known_hosts`."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    options: str = ""
    principals: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("host", "user", "other", "ca"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True)
        self.says("")

    def says(self, mode: str) -> None:
        """What the peer does from the next session on."""
        (self.folder / "mode").write_text(mode)

    @property
    def known_hosts(self) -> Path:
        """The pins."""
        return self.folder / "known_hosts"

    @property
    def log(self) -> str:
        """What sshd wrote."""
        return (self.folder / "sshd.log").read_text()

    @property
    def connections(self) -> int:
        """TCP connections that sshd has seen."""
        return self.log.count("Connection from ")

    def public(self, name: str) -> str:
        """Kind and key."""
        return " ".join((self.folder / f"{name}.pub").read_text().split()[:2])

    def pin(self, line: str) -> None:
        """Write the pins."""
        self.known_hosts.write_text(line + "\n")

    def certify(self, principal: str) -> None:
        """Have the CA sign the host key; sshd shows the certificate from its next start on."""
        words = ["ssh-keygen", "-q", "-s", str(self.folder / "ca"), "-I", "host", "-h", "-n", principal]
        subprocess.run([*words, str(self.folder / "host.pub")], check=True)
        self.options += f"HostCertificate {self.folder / 'host-cert.pub'}\n"

    def start(self) -> None:
        """Listen on a free port of loopback."""
        assert SSHD is not None
        (self.port,) = free_ports(1)
        keys = self.folder / "authorized_keys"
        keys.write_text(f'restrict,command="{" ".join(SERVE)} {self.folder}" {self.public("user")}\n')
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {keys}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nLogLevel VERBOSE\n"
            f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n{own_home(self.folder)}{self.options}"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self.folder / "sshd.log").open("wb") as log:
            words = [SSHD, "-D", "-e", "-f", str(config)]
            self.process = subprocess.Popen(words, stderr=log, stdin=subprocess.DEVNULL)
        wait_for(lambda: "Server listening" in self.log, "sshd")  # a look at the port would count as a connection
        if not self.known_hosts.exists():
            self.pin(f"[127.0.0.1]:{self.port} {self.public('host')}")

    def sessions(self) -> list[int]:
        """Process ids of sshd's connections."""
        if self.process is None:
            return []
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def end(self) -> None:
        """End sshd and its connections."""
        if self.process is not None:
            for pid in self.sessions():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Wire:
    """A TCP proxy to a port of loopback: after `cut_after` bytes it hangs up; `freeze` stops it."""

    port: int
    cut_after: int | None = None
    own_port: int = 0
    passed: int = 0
    connections: int = 0
    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    frozen: asyncio.Event = field(default_factory=asyncio.Event)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Wire]:
        """Forward while the block runs."""
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.own_port = int(server.sockets[0].getsockname()[1])
        try:
            yield self
        finally:
            server.close()
            self.cut()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    def cut(self) -> None:
        """Hang up on both sides, with a reset."""
        for writer in self.writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Keep both connections, pass nothing on."""
        self.frozen.set()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.accepted.set()
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers += [writer, back]
        self.tasks += [
            asyncio.create_task(self._pass(reader, back)),
            asyncio.create_task(self._pass(there, writer)),
        ]

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.frozen.is_set():
                    await asyncio.Event().wait()
                self.passed += len(data)
                if self.cut_after is not None and self.passed > self.cut_after:
                    self.cut()
                    return
                writer.write(data)
                await writer.drain()
            writer.close()


def user() -> str:
    """Who logs in."""
    return getpass.getuser()
