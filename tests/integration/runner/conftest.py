"""A real sshd on loopback with a runner behind its forced command; one folder a test, one process tree, all ended."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.runner_link import RunnerTarget
from hyops.adapters.ssh_asyncssh import AsyncsshRunnerTransport
from hyops.runner.folders import Folders, job_pidfd
from hyops.testing.evidence import VERIFIER
from loopback import free_ports, listens, own_home
from waiting import wait_for

ENTRY = Path(__file__).with_name("job_entry.py")
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class Runner:
    """A runner's folder and configuration, with its own sshd."""

    folder: Path
    port: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    sshd: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        for name in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(command, check=True)
        self.secrets = Path(tempfile.mkdtemp(prefix="hyops-test-", dir="/dev/shm"))
        self.configure()

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.folder / "runner.json"

    @property
    def effects(self) -> list[str]:
        """Every effect made so far."""
        path = self.folder / "effects"
        return path.read_text().split() if path.exists() else []

    @property
    def folders(self) -> Folders:
        """Its folders."""
        return Folders(self.folder / "root", self.secrets)

    def configure(self, **change: Any) -> None:
        """Write the runner's configuration."""
        value = {
            "runner_ref": "cloud-runner",
            "site": "cloud",
            "root": str(self.folder / "root"),
            "signing_key": "/nonexistent",
            "trusted_keys": "/nonexistent",
            "allowed_signers": "/nonexistent",
            "secrets_dir": str(self.secrets),
            "launcher": "fork",
            "job_command": [sys.executable, str(ENTRY)],
            "disk_free_min_bytes": 1024,
            "host_sites": {"onprem-db": "onprem", "cloud-db": "cloud"},
            "options": {"effects": str(self.folder / "effects")},
        }
        value["options"] = {**value["options"], **change.pop("options", {})}  # type: ignore[dict-item]
        self.config.write_text(json.dumps({**value, **change}))

    def listen(self) -> None:
        """Start sshd on a free port of loopback."""
        (self.port,) = free_ports(1)
        serve = f"{sys.executable} -m hyops runner-serve --config {self.config}"
        public = (self.folder / "user.pub").read_text().strip()
        keys = self.folder / "authorized_keys"
        keys.write_text(f'restrict,command="{serve}" {public}\n')
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {keys}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nAllowAgentForwarding no\nPermitRootLogin prohibit-password\n"
            f"{own_home(self.folder)}"
        )
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [SSHD, "-D", "-e", "-f", str(config)]
        log = (self.folder / "sshd.log").open("wb")
        with log:
            self.sshd = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        self.pin((self.folder / "host.pub").read_text())
        wait_for(lambda: listens(self.port) or self.sshd_ended(), "sshd")
        assert not self.sshd_ended(), (self.folder / "sshd.log").read_text()

    def sshd_ended(self) -> bool:
        """Whether it runs no more."""
        return self.sshd is not None and self.sshd.poll() is not None

    def pin(self, public: str) -> None:
        """Write the known hosts file."""
        kind, blob, *_ = public.split()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {blob}\n")

    def transport(self, *, keepalive_s: float = 5.0) -> AsyncsshRunnerTransport:
        """A client of this runner alone."""
        user = "root" if os.geteuid() == 0 else os.environ["USER"]
        target = RunnerTarget("127.0.0.1", user, self.folder / "user", self.folder / "known_hosts", self.port)
        return AsyncsshRunnerTransport({"cloud-runner": target}, VERIFIER, keepalive_s=keepalive_s)

    def kill_job(self, run_id: str) -> None:
        """kill -9 to the job alone."""
        fd = job_pidfd(self.folders.run(run_id))
        assert fd is not None
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        _gone(fd)

    def end(self) -> None:
        """End what this runner started."""
        if self.sshd is not None:
            self.sshd.terminate()
            self.sshd.wait()
        for run_id in self.folders.run_ids() if (self.folder / "root").exists() else []:
            if (fd := job_pidfd(self.folders.run(run_id))) is not None:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.close(fd)
        shutil.rmtree(self.secrets)


def _gone(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(60_000)
    os.close(fd)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """A configured runner that listens."""
    made = Runner(tmp_path)
    made.listen()
    try:
        yield made
    finally:
        made.end()
