"""A real sshd on loopback with a scripted peer behind its forced command, and a proxy that cuts or freezes the wire.

The peer speaks the runner's protocol (`python ssh_peer.py FOLDER`): what it does instead of answering, the file `mode`
in its folder says, word by word, at each new session.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyops.model.protocol import PROTOCOL_MAX, PROTOCOL_MIN
from waiting import wait_for

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ.get("PATH", ""))
NOISE = 4 * 1024 * 1024
EVENTS = 20_000


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
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        keys = self.folder / "authorized_keys"
        keys.write_text(f'restrict,command="{sys.executable} {__file__} {self.folder}" {self.public("user")}\n')
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {keys}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nLogLevel VERBOSE\n"
            f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n{self.options}"
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


def answer(folder: Path, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    """What a runner would say, without a runner."""
    verb = header["verb"]
    if verb == "hello":
        words = {"runner_ref": "cloud-runner", "site": "cloud", "hyops_version": "0", "open_runs": []}
        return {**words, "protocol_min": PROTOCOL_MIN, "protocol_max": PROTOCOL_MAX, "disk_free_bytes": 1}, b""
    if verb == "offer":
        return {"missing": [digest for digest, _ in json.loads(payload)["files"].values()]}, b""
    if verb == "ship":
        return shipped()
    if verb == "start":
        (folder / "handed").write_bytes(payload[header["spec_bytes"] :])
        return {"started": "started"}, b""
    if verb == "status":
        return {"status": {"run_id": header["run_id"], "state": "running", "epoch": 1}}, b""
    if verb == "collect":
        parts = [(folder / name).read_bytes() for name in ("result", "journal", "big")]
        return {"result_bytes": len(parts[0]), "journal_bytes": len(parts[1])}, b"".join(parts)
    return {"ok": False, "error": {"error": "UsageError", "message": f"no verb {verb}", "exit_code": 2}}, b""


def shipped() -> tuple[dict[str, Any], bytes]:
    """Read a stream away, and say whether every file in it has the bytes that its name says."""
    archive = io.BytesIO()
    while length := int.from_bytes(sys.stdin.buffer.read(4)):
        archive.write(sys.stdin.buffer.read(length))
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        fits = [m.name == hashlib.sha256(tar.extractfile(m).read()).hexdigest() for m in tar]  # type: ignore[union-attr]
    torn = {"ok": False, "error": {"error": "RecordError", "message": "torn"}}
    return ({"files": len(fits)} if fits and all(fits) else torn), b""


def serve(folder: Path) -> int:
    """Answer frames on standard input until it ends."""
    mode, source, sink = (folder / "mode").read_text().split(), sys.stdin.buffer, sys.stdout.buffer

    def send(header: dict[str, Any], payload: bytes = b"") -> None:
        head = {"ok": True, **header} | ({"bytes": len(payload)} if payload else {})
        sink.write(json.dumps(head).encode() + b"\n" + payload)
        sink.flush()

    with (folder / "pids").open("a") as pids:
        pids.write(f"{os.getpid()}\n")
    while line := source.readline():
        header = json.loads(line)
        payload = source.read(header.get("bytes", 0))
        on = not mode or header["verb"] in mode[1:]
        if "noise" in mode[:1]:
            sys.stderr.buffer.write(b"Host key verification failed.\n" * (NOISE // 30))
            sys.stderr.buffer.flush()
        if on and mode[:1] == ["exit"]:
            return int(mode[-1])
        if on and mode[:1] == ["hang"]:
            (folder / "hanging").touch()
            source.read()
            return 0
        if on and mode[:1] == ["line"]:
            sink.write(b"x" * (2 * 1024 * 1024) + b"\n")
            sink.flush()
        if header["verb"] == "attach":
            for number in range(EVENTS):
                send({"event": {"stream": "log", "offset": number, "body": {"line": "y" * 1000}}})
            send({"event": {"stream": "end", "offset": EVENTS, "body": {}}})
            continue
        send(*answer(folder, header, payload))
    return 0


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1])))
