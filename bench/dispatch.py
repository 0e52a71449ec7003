"""A no-op dispatch over a real sshd, whole, against one cold `ssh host true` to the same sshd.

Connect, hello, stage a file, start (the runner admits: signatures and approval are verified there), attach until the
end, collect and verify the signed result. The dispatching side is a process that is already up, as the executor is;
the runner's side starts two processes per dispatch: the peer of the connection and the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import Row, Table, series, timed
from bench.stages import RUNNER, Stages
from hyops.adapters.runner_link import RunnerTarget
from hyops.adapters.signer_ed25519 import TrustedVerifier
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome
from hyops.testing.runs import bundle_of

GOAL_RATIO = 3.0
SSHD_WAIT_S = 10.0
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin") or "/usr/sbin/sshd"


def run(table: Table, count: int) -> None:
    """Dispatch and plain ssh in turn."""
    with tempfile.TemporaryDirectory(prefix="hyops-bench-") as folder:
        stages = Stages(Path(folder))
        approval = stages.stand()
        with listening(stages) as runner:
            specs = iter([stages.spec(approval, f"dispatch {n}", epoch=n + 1) for n in range(count + 1)])
            timed_dispatch(runner, next(specs))  # bytecode and page cache, as on a standing runner
            timed(runner.plain_ssh)
            before = runner.connections()
            pairs = [(timed_dispatch(runner, spec), timed(runner.plain_ssh)) for spec in specs]
            per_dispatch = (runner.connections() - before) / count - 1
    whole, plain = series([a for a, _ in pairs]), series([b for _, b in pairs])
    table.add(
        Row(
            "no-op dispatch to a runner, whole",
            whole,
            baseline=plain,
            baseline_name="cold `ssh host true`",
            goal="<= 3x, one connection",
            reached=whole.p50 <= GOAL_RATIO * plain.p50 and per_dispatch == 1,
            incumbent="6.4 s, 12 connections",
            note=f"{per_dispatch:g} connection a dispatch, counted in sshd's log; launcher `fork`",
        )
    )


def timed_dispatch(runner: Runner, spec: RunSpec) -> float:
    """Seconds of one, with a file that the runner has not."""
    return timed(lambda: asyncio.run(dispatch(runner, spec, spec.run_id.encode())))


async def dispatch(runner: Runner, spec: RunSpec, data: bytes) -> None:
    """Everything from nothing to a verified result."""
    async with runner.transport.connect(RUNNER) as session:
        await session.hello()
        await session.stage(spec.run_id, bundle_of({"file": data}))
        await session.start(spec, {})
        async for _ in session.attach(spec.run_id):
            pass
        returned = await session.collect(spec.run_id)
    assert returned.result.outcome is Outcome.SUCCEEDED


@dataclass
class Runner:
    """An sshd on loopback with a runner behind one key's forced command, and a shell behind another key."""

    folder: Path
    port: int
    verifier: TrustedVerifier

    @property
    def transport(self) -> AsyncsshRunnerTransport:
        """A fresh one: its lock belongs to the loop that first uses it."""
        user, known = getpass.getuser(), self.folder / "known_hosts"
        target = RunnerTarget("127.0.0.1", user, self.folder / "dispatcher", known, self.port)
        return AsyncsshRunnerTransport({RUNNER: target}, self.verifier)

    def plain_ssh(self) -> None:
        """One process of OpenSSH's client, one connection, one command."""
        options = ("BatchMode=yes", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "ControlPath=none",
                   f"UserKnownHostsFile={self.folder / 'known_hosts'}")  # fmt: skip
        words = [word for option in options for word in ("-o", option)]
        argv = [
            "ssh",
            "-F",
            "none",
            *words,
            "-i",
            str(self.folder / "plain"),
            "-p",
            str(self.port),
            "127.0.0.1",
            "true",
        ]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)

    def connections(self) -> int:
        """How many sshd has seen authenticate."""
        return (self.folder / "sshd.log").read_text().count("Accepted publickey")


@contextlib.contextmanager
def listening(stages: Stages, change: Mapping[str, Any] | None = None) -> Iterator[Runner]:
    """The sshd and the runner's folders; all ended and removed. `change`: keys of the runner's configuration."""
    folder = stages.folder / "sshd"
    folder.mkdir()
    for name in ("host", "dispatcher", "plain"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    hyops = Path(sys.executable).with_name("hyops")
    secrets = Path(tempfile.mkdtemp(prefix="hyops-bench-", dir="/dev/shm"))
    config = runner_config(stages, folder, hyops, secrets, **(change or {}))
    public = {name: (folder / f"{name}.pub").read_text().strip() for name in ("dispatcher", "plain")}
    serve = f"{hyops} runner-serve --config {config}"
    keys = f'restrict,command="{serve}" {public["dispatcher"]}\nrestrict {public["plain"]}\n'
    (folder / "authorized_keys").write_text(keys)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"SetEnv HOME={folder}\n"  # of whoever runs this: what his shell reads at a login is no part of it
    )
    kind, blob, *_ = (folder / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {blob}\n")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        listens(port, sshd)
        yield Runner(folder, port, TrustedVerifier.load(stages.ring.folder / "trusted_keys.json"))
    finally:
        sshd.send_signal(signal.SIGTERM)
        sshd.wait()
        shutil.rmtree(secrets)


def runner_config(stages: Stages, folder: Path, hyops: Path, secrets: Path, **more: object) -> Path:
    """What the runner of `stages` is told, and `more`; its root is in `folder`."""
    ring = stages.ring.folder
    path = folder / "runner.json"
    path.write_text(
        json.dumps(
            {
                "runner_ref": stages.runner,
                "site": "cloud",
                "root": str(folder / "root"),
                "signing_key": str(ring / f"{stages.runner}.pem"),
                "trusted_keys": str(ring / "trusted_keys.json"),
                "allowed_signers": str(ring / "allowed_signers"),
                "approvers": str(ring / "approvers.json"),
                "secrets_dir": str(secrets),
                "launcher": "fork",
                "job_command": [str(hyops), "runner-job"],
                "approval": {"mode": "signed", "required": 1, "allow_standing": True},
                **more,
            }
        )
    )
    return path


def listens(port: int, sshd: subprocess.Popen[bytes], address: str = "127.0.0.1") -> None:
    """Wait for it."""
    limit = datetime.now(UTC).timestamp() + SSHD_WAIT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                return
        if sshd.poll() is not None or datetime.now(UTC).timestamp() > limit:
            raise TimeoutError("sshd does not listen; see its log")
