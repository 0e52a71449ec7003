"""Real servers of the signal tests: a PostgreSQL pair, an sshd with one forced command, scripted TCP peers."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hyops.adapters.ssh_pinned import SshTarget
from loopback import Cluster, free_ports, listens, missing, own_home, postgres_folder
from waiting import wait_for


@dataclass
class Pair:
    """A primary and its streaming standby."""

    primary: Cluster
    standby: Cluster


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two clusters on loopback; a role behind a password, one without rights, one that is turned away."""
    if missing("runuser") or not Path("/usr/lib/postgresql/15/bin/initdb").exists() or os.geteuid() != 0:
        pytest.skip("needs root and PostgreSQL 15")
    with postgres_folder() as folder:
        first, second = free_ports(2)
        primary, standby = Cluster(folder, first, "primary"), Cluster(folder, second, "standby")
        try:
            primary.create()
            primary.sql("create role hyops login; grant pg_monitor to hyops; create role plain login")
            primary.sql("create role locked login password 'right'; create role shut login")
            hba = primary.data / "pg_hba.conf"
            lines = "host all locked 127.0.0.1/32 scram-sha-256\nhost all shut 127.0.0.1/32 reject\n"
            hba.write_text(lines + hba.read_text())
            primary.sql("select pg_reload_conf()")
            standby.clone(primary, "standby")
            yield Pair(primary, standby)
        finally:
            standby.destroy()
            primary.destroy()


@dataclass
class Sshd:
    """An OpenSSH server on loopback whose one key runs one command."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    target: SshTarget = field(init=False)

    def __post_init__(self) -> None:
        for name in ("host_key", "client_key", "other_key"):
            path = str(self.folder / name)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        self.pin("host_key")
        self.target = SshTarget(
            host="witness",
            address="127.0.0.1",
            user="root",
            key_file=str(self.folder / "client_key"),
            known_hosts_file=str(self.folder / "known_hosts"),
            port=self.port,
        )
        public = (self.folder / "client_key.pub").read_text()
        (self.folder / "authorized_keys").write_text(f'restrict,command="{self.folder}/command" {public}')
        self.command("exit 0")

    def pin(self, key: str) -> None:
        """Make `key` the one that the client expects of this host."""
        kind, blob, *_ = (self.folder / f"{key}.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"witness {kind} {blob}\n")

    def command(self, script: str) -> None:
        """What the key runs from now on (sh)."""
        path = self.folder / "command"
        new = path.with_name("command.new")
        new.write_text(f"#!/bin/sh\n{script}\n")
        new.chmod(0o755)
        new.rename(path)

    def start(self) -> None:
        """And wait until it listens."""
        Path("/run/sshd").mkdir(exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nUsePAM no\nUseDNS no\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"{own_home(self.folder)}"
        )
        with (self.folder / "sshd.log").open("ab") as log:
            argv = ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)]
            self.process = subprocess.Popen(argv, stderr=log, start_new_session=True)
        wait_for(lambda: listens(self.port), "sshd")

    def kill(self) -> None:
        """kill -9 of the server and of every connection it serves."""
        if self.process is None:
            return
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.process = None


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(word) for task in tasks for word in task.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [*children, *(below for child in children for below in descendants(child))]


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A running server; ended with all its connections."""
    if missing("sshd", "ssh-keygen") or os.geteuid() != 0:
        pytest.skip("needs root and openssh-server")
    (free,) = free_ports(1)
    tmp_path.chmod(tmp_path.stat().st_mode | stat.S_IXOTH)
    server = Sshd(tmp_path, free)
    server.start()
    try:
        yield server
    finally:
        server.kill()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Listening = Callable[[Serve], AbstractAsyncContextManager[int]]


@pytest.fixture
def listening() -> Listening:
    """A scripted TCP server for the time of a `with`; gives its port."""

    @asynccontextmanager
    async def served(serve: Serve) -> AsyncIterator[int]:
        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                return
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(guarded, "127.0.0.1", 0)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()

    return served


@pytest.fixture
def hyops_program() -> tuple[str, ...]:
    """The argv of `hyops` of this tree."""
    return (sys.executable, "-m", "hyops")
