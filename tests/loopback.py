"""Real servers on loopback for the integration tests: each in a folder of its own, ended by its own process id."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from waiting import wait_for

CLONE_NEWNET = 0x40000000


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, and that no connection gets either: the kernel gives those from 32768 on."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


def own_home(folder: Path) -> str:
    """A line for sshd: a login reads no shell files of whoever runs the tests, which may do and cost anything."""
    return f"SetEnv HOME={folder}\n"


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a TCP connection is accepted."""
    with socket.socket() as link:
        link.settimeout(0.3)
        return link.connect_ex((address, port)) == 0


@contextmanager
def own_network() -> Iterator[None]:
    """This thread in a network namespace of its own, with loopback up; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        libc.setns(before, CLONE_NEWNET)
        os.close(before)


@contextmanager
def in_network(namespace: str) -> Iterator[None]:
    """This thread in a named network namespace; sockets that are made there stay there. Needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        yield
    finally:
        libc.setns(before, CLONE_NEWNET)
        os.close(there)
        os.close(before)


@contextmanager
def without_net_admin() -> Iterator[None]:
    """This thread without CAP_NET_ADMIN, as an agent whose unit was hardened too far: the kernel says EPERM."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    words = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low words first

    def call(name: str, value: ctypes.Array[ctypes.c_uint32]) -> None:
        if getattr(libc, name)(header, value) != 0:
            raise OSError(ctypes.get_errno(), name)

    call("capget", words)
    less = (ctypes.c_uint32 * 6)(*words)
    less[0] &= ~(1 << 12)  # CAP_NET_ADMIN
    call("capset", less)
    try:
        yield
    finally:
        call("capset", words)


@dataclass
class Etcd:
    """A cluster of `count` members; heartbeat 50 ms, election 500 ms, as in the lab, or as etcd itself `defaults`."""

    folder: Path
    count: int = 1
    snapshot: Path | None = None
    defaults: bool = False
    more: list[str] = field(default_factory=list)
    endpoints: list[str] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Etcd:
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(2 * self.count)
        clients, peers = ports[: self.count], ports[self.count :]
        cluster = ",".join(f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(peers))
        for number in range(self.count):
            client, peer = f"http://127.0.0.1:{clients[number]}", f"http://127.0.0.1:{peers[number]}"
            self.endpoints.append(client)
            words = ["--name", f"m{number}", "--data-dir", str(self.folder / f"m{number}")]
            words += ["--listen-client-urls", client, "--advertise-client-urls", client]
            words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            if self.snapshot is not None:
                restored = ["--name", f"m{number}", "--data-dir", str(self.folder / f"m{number}")]
                restored += ["--initial-cluster", cluster, "--initial-advertise-peer-urls", peer]
                restore = ["etcdctl", "snapshot", "restore", str(self.snapshot), *restored]
                told = {**os.environ, "ETCDCTL_API": "3"}
                subprocess.run([*restore, "--initial-cluster-token", "a new one"], check=True, env=told)
            words += ["--initial-cluster", cluster]
            words += [] if self.defaults else ["--heartbeat-interval", "50", "--election-timeout", "500"]
            words += self.more
            log = (self.folder / f"m{number}.log").open("wb")
            self.processes.append(subprocess.Popen(["etcd", *words], stdout=log, stderr=log))
            log.close()
        for endpoint in self.endpoints:
            wait_for(lambda url=endpoint: _healthy(url), f"etcd {endpoint}")  # type: ignore[misc]
        return self

    def leader(self) -> int:
        """Which member leads now."""
        import httpx

        for number, url in enumerate(self.endpoints):
            status = httpx.post(url + "/v3/maintenance/status", json={}, trust_env=False).json()
            if status["leader"] == status["header"]["member_id"]:
                return number
        raise TimeoutError("no leader")

    def watched(self) -> int | None:
        """Which member somebody watches keys on."""
        import httpx

        for number, url in enumerate(self.endpoints):
            shown = httpx.get(url + "/metrics", trust_env=False).text
            if "\netcd_debugging_mvcc_watcher_total 0" not in shown:
                return number
        return None

    def kill(self, number: int) -> None:
        """kill -9 of one member."""
        self.processes[number].kill()
        self.processes[number].wait()

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def _healthy(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url + "/health", timeout=0.5, trust_env=False).json().get("health") == "true"
    except (httpx.HTTPError, ValueError):
        return False


BIN = Path("/usr/lib/postgresql/15/bin")


@dataclass
class Cluster:
    """One PostgreSQL on a port of loopback, run by the user `postgres`."""

    folder: Path
    port: int
    name: str

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.folder / self.name

    @property
    def options(self) -> str:
        """What the server is started with."""
        return (
            f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c wal_log_hints=on -c fsync=off "
            "-c wal_keep_size=64MB -c wal_sender_timeout=60s -c wal_receiver_timeout=3s -c hot_standby=on "
            "-c wal_receiver_status_interval=100ms -c wal_retrieve_retry_interval=100ms"
        )

    def owner(self, *argv: str) -> str:
        """Run as the owner."""
        done = subprocess.run(["runuser", "-u", "postgres", "--", *argv], capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def create(self) -> None:
        """A new cluster that trusts loopback, with a probe table and a role for replication."""
        self.owner("cp", "-a", str(_initialised()), str(self.data))
        hba = self.data / "pg_hba.conf"
        hba.write_text(hba.read_text() + "host all all 127.0.0.0/8 trust\nhost replication all 127.0.0.0/8 trust\n")
        self.start()
        self.sql("create table hyops_probe(probe_id text, generation int, at timestamptz default now())")
        self.sql("create table ledger(id int primary key)")

    def clone(self, other: Cluster, slot: str) -> None:
        """A streaming standby of `other`."""
        words = ["-h", "127.0.0.1", "-p", str(other.port), "-D", str(self.data), "-R", "-C", "-S", slot, "-c", "fast"]
        self.owner(str(BIN / "pg_basebackup"), *words)
        self.start()

    def start(self) -> None:
        """And wait until it answers."""
        log = self.folder / f"{self.name}.log"
        self.owner(str(BIN / "pg_ctl"), "start", "-w", "-D", str(self.data), "-l", str(log), "-o", self.options)

    def sql(self, query: str) -> str:
        """On the local socket, so that no edge is in the way."""
        words = ["-XAtq", "-h", str(self.folder), "-p", str(self.port), "-d", "postgres", "-c", query]
        return self.owner(str(BIN / "psql"), *words).strip()

    def destroy(self) -> None:
        """End it by its own process id."""
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists():
            pid = int(pid_file.read_text().split()[0])
            if Path(f"/proc/{pid}").exists():
                handle = os.pidfd_open(pid)
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGQUIT)
                import select

                select.select([handle], [], [], 60.0)
                os.close(handle)
        shutil.rmtree(self.data, ignore_errors=True)


@cache
def _initialised() -> Path:
    """A data folder as `initdb` leaves it, made once a process: every cluster begins as a copy of it."""
    folder = Path(tempfile.mkdtemp(prefix="hyops-initdb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.chown(folder, "postgres", "postgres")
    made = Cluster(folder, 0, "made")
    made.owner(str(BIN / "initdb"), "-D", str(made.data), "-A", "trust", "-N", "--data-checksums", "-E", "UTF8")
    return made.data


@contextmanager
def postgres_folder() -> Iterator[Path]:
    """A folder of the user `postgres`; not below pytest's own, which every session of pytest closes to others."""
    folder = Path(tempfile.mkdtemp(prefix="hyops-pg-"))
    shutil.chown(folder, "postgres", "postgres")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def missing(*programs: str) -> str | None:
    """Why the servers of a test cannot run here; None when they can."""
    absent = [
        name for name in programs if shutil.which(name, path="/usr/sbin:/sbin:" + os.environ.get("PATH", "")) is None
    ]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return None if os.geteuid() == 0 else "needs root"
