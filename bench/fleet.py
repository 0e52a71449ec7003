"""Fifty runners at once over real sshds, straight and through one bastion, against fifty cold `ssh host true` at once.

Each runner has its own sshd with its own pinned host key, its own root, reference and signing key; every sshd has the
stock `MaxStartups`, and what it dropped stands in its log. One process dispatches: all links up, a file of its own
staged on each, the runs started, which includes that each was admitted. Behind that, unmeasured, all runs are followed
to their end and their signed results verified.

In life the runners are other machines. Here they share this one with the dispatcher, so the notes say whose CPU it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import getpass
import multiprocessing
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path

from bench.dispatch import SSHD, listens, runner_config
from bench.measure import Row, Series, Table, series, timed
from bench.stages import Stages
from hyops.adapters.runner_link import RunnerTarget
from hyops.adapters.signer_ed25519 import TrustedVerifier
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.control.hearing import Verified
from hyops.model import canonical
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome
from hyops.testing.runs import bundle_of
from hyops_lab.wiring.keys import KeyRing

RUNNERS = 50
GOAL_S, MEMORY_MAX_MB = 3.0, 150.0
START_WAIT_S = 50.0  # fifty runners' jobs on one machine: each of them is late here
WAYS = ("straight", "through one bastion")
DROPPED = "past MaxStartups"
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36


def run(table: Table, count: int) -> None:
    """All runners straight, all through the bastion, and plain ssh, in turn."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what outlives its connection is ours to wait for
    with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder, Fleet(Path(folder)) as fleet:
        with dispatcher(fleet) as pipe:
            rounds = {way: [fleet.round(pipe, way) for _ in range(1)] for way in WAYS}  # bytecode and page cache
            fleet.plain()
            for _ in range(count):
                for way in WAYS:
                    rounds[way].append(fleet.round(pipe, way))
                fleet.baseline()
            pipe.send(None)
            memory_mb: float = pipe.recv()
        dropped = fleet.dropped()
    plain = series([spent.wall_s for spent in fleet.plains])
    for way in WAYS:
        _row(table, way, rounds[way][1:], plain, fleet, dropped)
    table.add(
        Row(
            f"{RUNNERS} runners at once: the dispatcher's memory at its highest",
            series([memory_mb]),
            unit="MB",
            goal=f"<= {MEMORY_MAX_MB:g} MB",
            reached=memory_mb <= MEMORY_MAX_MB,
            note="all links up, and again through the bastion, in one process",
        )
    )


def _row(table: Table, way: str, rounds: list[Spent], plain: Series, fleet: Fleet, dropped: int) -> None:
    whole = series([spent.wall_s for spent in rounds])
    ours_s, theirs_s = (statistics.mean(getattr(spent, who) for spent in rounds) for who in ("ours_s", "theirs_s"))
    login_s = statistics.mean(spent.theirs_s for spent in fleet.plains)
    table.add(
        Row(
            f"{RUNNERS} runners at once, {way}: staged and started",
            whole,
            baseline=plain,
            baseline_name=f"{RUNNERS} cold `ssh host true` at once",
            goal=f"<= {GOAL_S:g} s, no handshake dropped",
            reached=whole.p50 <= GOAL_S and dropped == 0,
            note=f"{dropped} dropped in all rounds; CPU of a round to its verified end, all on this machine: "
            f"dispatcher {ours_s:.1f} s, runners' side {theirs_s:.1f} s (of that a bare login at each {login_s:.1f} s)",
        )
    )


@dataclass(frozen=True)
class Spent:
    """One round: seconds by the clock, and of CPU: the dispatcher's, and of sshds, their commands and jobs."""

    wall_s: float
    ours_s: float
    theirs_s: float


class FleetRing(KeyRing):
    """The keys of a lab, and one for each runner."""

    @property
    def signers(self) -> dict[str, list[str]]:
        """Signing key -> what it may sign."""
        return {**super().signers, **{name: [f"runner:{name}"] for name in map(ref, range(RUNNERS))}}


@dataclass
class Fleet:
    """The runners and the bastion, each an sshd on an address of loopback of its own."""

    folder: Path
    sshds: list[subprocess.Popen[bytes]] = field(default_factory=list)
    plains: list[Spent] = field(default_factory=list)
    epoch: int = 0

    def __enter__(self) -> Fleet:
        for name in ("dispatcher", "plain", "jump"):
            _keygen(self.folder / name)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._undo = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self._stop)
            self._secrets = undo.enter_context(tempfile.TemporaryDirectory(prefix="hyops-bench-", dir="/dev/shm"))
            self.stages = [self._runner(number) for number in range(RUNNERS)]
            self.approvals: list[Verified] = [stages.stand() for stages in self.stages]
            self._listen(
                "bastion", address(RUNNERS), f'restrict,port-forwarding,command="/bin/false" {self._pub("jump")}'
            )
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _stop(self) -> None:
        for sshd in self.sshds:
            sshd.send_signal(signal.SIGTERM)
        for sshd in self.sshds:
            sshd.wait()

    @cached_property
    def ring(self) -> FleetRing:
        """One for all."""
        return FleetRing(self.folder / "ring")

    @cached_property
    def port(self) -> int:
        """One that is free on all addresses of loopback."""
        with socket.socket() as free:
            free.bind(("", 0))
            return int(free.getsockname()[1])

    def targets(self, way: str) -> dict[str, RunnerTarget]:
        """As the executor's configuration would say it."""
        user = getpass.getuser()
        bastion = RunnerTarget(
            address(RUNNERS), user, self.folder / "jump", self.folder / "known_hosts", self.port,
            host_key_alias="bastion", only_forwards=True,
        )  # fmt: skip
        return {
            ref(number): RunnerTarget(
                address(number), user, self.folder / "dispatcher", self.folder / "known_hosts", self.port,
                host_key_alias=ref(number), bastion=None if way == WAYS[0] else bastion,
            )
            for number in range(RUNNERS)
        }  # fmt: skip

    def round(self, pipe: Connection, way: str) -> Spent:
        """All runners, from nothing to started, and on to their verified ends."""
        self.epoch += 1
        specs = [
            stages.spec(approval, f"fleet {self.epoch} {stages.runner}", epoch=self.epoch)
            for stages, approval in zip(self.stages, self.approvals, strict=True)
        ]
        before, known = self._sshd_s(), set(_children(os.getpid()))
        pipe.send((self.targets(way), [canonical.encode(spec.body()) for spec in specs]))
        wall_s, ours_s = pipe.recv()
        sshd_s = self._sshd_s() - before
        return Spent(wall_s, ours_s, sshd_s + _ended_s(set(_children(os.getpid())) - known))

    def baseline(self) -> None:
        """Plain ssh, measured."""
        before = self._sshd_s()
        wall_s = timed(self.plain)
        self.plains.append(Spent(wall_s, 0.0, self._sshd_s() - before))

    def plain(self) -> None:
        """One process of OpenSSH's client for each runner, all at once."""
        options = ("BatchMode=yes", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "ControlPath=none",
                   f"UserKnownHostsFile={self.folder / 'known_hosts'}")  # fmt: skip
        words = [word for option in options for word in ("-o", option)]
        clients = []
        for number in range(RUNNERS):
            place = ["-o", f"HostKeyAlias={ref(number)}", "-p", str(self.port), address(number), "true"]
            argv = ["ssh", "-F", "none", *words, "-i", str(self.folder / "plain"), *place]
            clients.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))
        assert [client.wait() for client in clients] == [0] * RUNNERS

    def dropped(self) -> int:
        """How many connections the sshds say that they threw away."""
        return sum(log.read_text().count(DROPPED) for log in self.folder.glob("*/sshd.log"))

    def _runner(self, number: int) -> Stages:
        stages = Stages(self.folder / ref(number), runner=ref(number), ring=self.ring)
        secrets = Path(self._secrets) / ref(number)
        secrets.mkdir(mode=0o700)
        hyops = Path(sys.executable).with_name("hyops")
        config = runner_config(stages, stages.folder, hyops, secrets, start_wait_s=START_WAIT_S)
        serve = f"{hyops} runner-serve --config {config}"
        lines = f'restrict,command="{serve}" {self._pub("dispatcher")}\nrestrict {self._pub("plain")}'
        self._listen(stages.runner, address(number), lines)
        return stages

    def _listen(self, name: str, place: str, keys: str) -> None:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        _keygen(folder / "host")
        (folder / "authorized_keys").write_text(keys + "\n")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {place}\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"LogLevel VERBOSE\nSetEnv HOME={folder}\n"
        )
        with (self.folder / "known_hosts").open("a") as pins:
            pins.write(f"{name} {(folder / 'host.pub').read_text()}")
        with (folder / "sshd.log").open("wb") as log:
            self.sshds.append(subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log))
        listens(self.port, self.sshds[-1], place)

    def _pub(self, name: str) -> str:
        return (self.folder / f"{name}.pub").read_text().strip()

    def _sshd_s(self) -> float:
        """CPU of the connections that have ended, and of what ran in them; waits until all have."""
        while any(_children(sshd.pid) for sshd in self.sshds):
            time.sleep(0.01)
        return sum(_cpu_of_ended_children(sshd.pid) for sshd in self.sshds)


def ref(number: int) -> str:
    """A runner's reference."""
    return f"fleet-{number:02}"


def address(number: int) -> str:
    """Where its sshd listens."""
    return f"127.0.9.{number + 1}"


@contextlib.contextmanager
def dispatcher(fleet: Fleet) -> Iterator[Connection]:
    """The process that dispatches; it is up before anything is measured."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_dispatch_rounds, args=(theirs, fleet.ring.folder / "trusted_keys.json"))
    child.start()
    theirs.close()  # so that its end is heard
    try:
        yield ours
    finally:
        ours.close()
        child.join()


def _dispatch_rounds(pipe: Connection, trusted: Path) -> None:
    verifier = TrustedVerifier.load(trusted)
    with contextlib.suppress(EOFError):  # the bench has failed
        while (asked := pipe.recv()) is not None:
            targets, bodies = asked
            specs = [RunSpec.read(body) for body in bodies]
            cpu_s = time.process_time()
            wall_s = asyncio.run(_round(AsyncsshRunnerTransport(targets, verifier), specs))
            pipe.send((wall_s, time.process_time() - cpu_s))
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


async def _round(transport: AsyncsshRunnerTransport, specs: list[RunSpec]) -> float:
    """Seconds until the last run was started, with all links still up."""
    begun, started_s = time.perf_counter(), []

    async def one(spec: RunSpec) -> None:
        async with transport.connect(spec.plan.runner_ref) as session:
            await session.hello()
            await session.stage(spec.run_id, bundle_of({"file": spec.run_id.encode()}))
            await session.start(spec, {})
            started_s.append(time.perf_counter() - begun)
            async for _ in session.attach(spec.run_id):
                pass
            returned = await session.collect(spec.run_id)
        assert returned.result.outcome is Outcome.SUCCEEDED

    async with asyncio.TaskGroup() as group:
        for spec in specs:
            group.create_task(one(spec))
    return max(started_s)


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _ended_s(orphans: set[int]) -> float:
    """CPU of jobs and of commands whose connection ended before them: they became ours."""
    used = [os.wait4(pid, 0)[2] for pid in orphans]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _cpu_of_ended_children(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS
