"""A control host and a runner on loopback: real stages, a real sshd, real keys; for `hyops runner blueprint`.

The dispatcher and the approval stage are processes of their own, as units would start them. The executor's place is
taken by the command under test.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from hyops.adapters.approval_ssh import sign
from hyops.adapters.store_files import FileRecordStore
from hyops.model.approval import Approval, ApprovalStatement
from hyops.model.vocabulary import DecisionType, Occasion
from hyops.runner.folders import Folders, job_pidfd
from hyops_lab.wiring import service
from hyops_lab.wiring.keys import APPROVER, KeyRing
from loopback import free_ports, listens, own_home, wait_for

ROOT = Path(__file__).parent.parent
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin") or "/usr/sbin/sshd"
HYOPS = Path(sys.executable).with_name("hyops")
STAGES = ("decision", "dispatch", "approval", "execution")
RUNNER = "cloud-runner"
READY_LIMIT_S = 60.0
END_LIMIT_S = 20.0
TRIES = itertools.count()


class DeploySite:
    """Everything below one folder. `configure` may be called again to change what the files say."""

    def __init__(self, folder: Path, *, job: list[str] | None = None) -> None:
        self.folder, self.ring, self.job = folder, KeyRing(folder / "ring"), job or [str(HYOPS), "runner-job"]
        self.ring.make()
        (self.port,) = free_ports(1)
        self.root = folder / "envs" / service.ENV
        self.secrets = Path(tempfile.mkdtemp(prefix="hyops-test-", dir="/dev/shm"))
        self.ssh = folder / "ssh"
        self.ssh.mkdir()
        for name in ("host", "dispatcher"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.ssh / name)], check=True)
        self.configure()

    # files

    def config(self, stage: str) -> Path:
        """A stage's configuration file."""
        return self.folder / f"{stage}.json"

    @property
    def runner_config(self) -> Path:
        """The runner's."""
        return self.folder / "runner.json"

    @property
    def folders(self) -> Folders:
        """The runner's folders."""
        return Folders(self.folder / "runner", self.secrets)

    def configure(self, **change: Any) -> None:
        """Write every file. `route`, `runner`, `mapping`, `place` and the stages' own names change them."""
        protected = {"policy": {**service.policy(), "signals": [_quiet()], "quorum": 1}}
        login = {
            "address": "127.0.0.1",
            "user": "root" if os.geteuid() == 0 else os.environ["USER"],
            "key_file": str(self.ssh / "dispatcher"),
            "known_hosts": str(self.ssh / "known_hosts"),
            "port": self.port,
        }
        route = {
            "target_ref": "core/noop@v1",
            "target_env": service.ENV,
            "execution_plane": "runner-local",
            "runner_ref": RUNNER,
            **change.get("route", {}),
        }
        catalogs = change.get("catalogs", [str(ROOT / "catalog")])
        bodies: dict[str, dict[str, Any]] = {
            "decision": {
                "kind": "DecisionService",
                "protected": protected,
                "vantages": {},
                **change.get("decision", {}),
            },
            "dispatch": {
                "kind": "DecisionDispatcher",
                "routes": {"env": service.ENV, "dispatcher_routes": {"failover": route}},
                "services": ["pg"],
                "catalogs": catalogs,
                **change.get("dispatch", {}),
            },
            "approval": {
                "kind": "DecisionConsumer",
                "policy": {"required": 1, "allow_standing": True, **change.get("approval", {})},
                "allowed_signers": str(self.ring.folder / "allowed_signers"),
                "approvers": str(self.ring.folder / "approvers.json"),
            },
            "execution": {
                "kind": "DecisionExecutor",
                "mode": "dispatch",
                "protected": [protected],
                "runners": {RUNNER: login},
                **change.get("execution", {}),
            },
        }
        for stage, body in bodies.items():
            common = {
                "api_version": "hybridops/v1",
                "homes": {name: str(self.folder / name) for name in STAGES},
                "signing_key": str(self.ring.folder / f"{stage}.pem"),
                "trusted_keys": str(self.ring.folder / "trusted_keys.json"),
            }
            self.config(stage).write_text(json.dumps({**common, **body}))
        self._configure_runner(change.get("runner", {}))
        cloud = service.policy()["members"][1].get("target_cloud", "none")
        runners = {
            "api_version": "hybridops/v1",
            "kind": "RunnerMap",
            "runners": {RUNNER: {"site": "cloud", **change.get("place", {})}, "onprem-runner": {"site": "onprem"}},
            "onprem_sites": ["onprem"],
            "mapping": change.get("mapping", {f"{cloud}/failover": RUNNER}),
        }
        path = self.root / "config" / "runner" / "runners.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(runners))

    def _configure_runner(self, change: dict[str, Any]) -> None:
        ring = self.ring.folder
        value = {
            "runner_ref": RUNNER,
            "site": "cloud",
            "root": str(self.folder / "runner"),
            "signing_key": str(ring / f"{RUNNER}.pem"),
            "trusted_keys": str(ring / "trusted_keys.json"),
            "allowed_signers": str(ring / "allowed_signers"),
            "approvers": str(ring / "approvers.json"),
            "secrets_dir": str(self.secrets),
            "launcher": "fork",
            "job_command": self.job,
            "disk_free_min_bytes": 1024,
            "host_sites": {"onprem-db": "onprem", "cloud-db": "cloud"},
            "approval": {"required": 1, "allow_standing": True},
        }
        self.runner_config.write_text(json.dumps({**value, **change}))

    # people

    def store(self, stage: str, kind: str) -> FileRecordStore:
        """Where a stage keeps one kind of record."""
        return FileRecordStore(self.folder / stage / "state" / kind)

    def stand(self, plan_digest: str) -> None:
        """The approver has signed the plan beforehand."""
        now = datetime.now(UTC)
        statement = ApprovalStatement(
            verdict="standing",
            approver=APPROVER,
            signed_at=now,
            expires_at=now + timedelta(days=1),
            plan_digest=plan_digest,
            service="pg",
            decision_types=[DecisionType.FAILOVER],
            occasions=[Occasion.PLANNED, Occasion.UNPLANNED],
        )
        approval = Approval.signed(statement, sign(statement.signed_bytes(), self.ring.folder / "approver"))
        self.store("approval", "approvals").create(approval.approval_id, approval.encoded())

    def words(self, verb: str, *more: str, ref: str = "core/noop@v1") -> list[str]:
        """`runner blueprint VERB REF` with this site's files; twice the same in one second would be one decision."""
        why = ["--rationale", f"try {next(TRIES)}"] if verb == "deploy" else []
        files = [word for stage in STAGES for word in (f"--{stage}-config", str(self.config(stage)))]
        return ["runner", "blueprint", verb, ref, "--root", str(self.root), "--service", "pg", *files, *why, *more]

    # processes

    def connections(self) -> int:
        """How many sshd has let in."""
        return (self.ssh / "log").read_text().count("Accepted publickey")

    @contextlib.contextmanager
    def up(self) -> Iterator[DeploySite]:
        """The sshd and the two stages; all ended by their own process ids."""
        started: list[subprocess.Popen[bytes]] = []
        try:
            self.folders.make()  # as any look at the runner would
            started.append(self._listen())
            started += [self.start("dispatch"), self.start("approval")]
            yield self
        finally:
            for process in started:
                process.terminate()
            for process in started:
                _ended(process)
            self._end_jobs()
            shutil.rmtree(self.secrets, ignore_errors=True)

    def start(self, stage: str) -> subprocess.Popen[bytes]:
        """A stage, ready as it tells systemd."""
        notify = self.folder / f"{stage}.notify"
        notify.unlink(missing_ok=True)
        argv = [str(HYOPS), "service", "run", stage, "--config", str(self.config(stage))]
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
            (self.folder / f"{stage}.log").open("ab") as log,
        ):
            ready.bind(str(notify))
            process = subprocess.Popen(argv, env={**os.environ, "NOTIFY_SOCKET": str(notify)}, stderr=log)
            if not select.select([ready], [], [], READY_LIMIT_S)[0]:
                process.kill()
                raise TimeoutError(f"{stage} was not ready within {READY_LIMIT_S:g} s")
        return process

    def close_by_hand(self, evidence: str | None = None) -> None:
        """What the executor's service would do with what a command left open; its bundle too, if named."""
        attempts, outcomes = self.store("execution", "attempts"), self.store("execution", "outcomes")
        executor = self.start("execution")
        try:
            wait_for(lambda: len(outcomes.ids()) == len(attempts.ids()), "the outcome")
            if evidence is not None:
                wait_for((self.folder / "execution" / "state" / "evidence" / evidence).exists, "the evidence")
        finally:
            _ended(executor)

    def _listen(self) -> subprocess.Popen[bytes]:
        serve = f"{HYOPS} runner-serve --config {self.runner_config}"
        public = (self.ssh / "dispatcher.pub").read_text().strip()
        (self.ssh / "authorized_keys").write_text(f'restrict,command="{serve}" {public}\n')
        (self.ssh / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.ssh}/host\nPidFile none\nUsePAM no\n"
            f"StrictModes no\nAuthorizedKeysFile {self.ssh}/authorized_keys\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\n{own_home(self.ssh)}"
        )
        kind, blob, *_ = (self.ssh / "host.pub").read_text().split()
        (self.ssh / "known_hosts").write_text(f"{RUNNER} {kind} {blob}\n")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self.ssh / "log").open("wb") as log:
            self.sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", str(self.ssh / "sshd_config")], stderr=log)
        wait_for(lambda: listens(self.port), "sshd")
        return self.sshd

    def break_links(self) -> int:
        """SIGKILL to what serves each connection now, none of them the sshd that listens; returns how many."""
        children = Path(f"/proc/{self.sshd.pid}/task/{self.sshd.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        return len(children)

    def _end_jobs(self) -> None:
        for run_id in self.folders.run_ids() if (self.folder / "runner").exists() else []:
            if (fd := job_pidfd(self.folders.run(run_id))) is not None:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.close(fd)


def released(held: Path) -> bool:
    """Whether somebody waited at the pipe's other end; nobody there is no reason to wait for him."""
    try:
        os.close(os.open(held, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return False
    return True


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _quiet() -> dict[str, Any]:
    return {"name": "none", "source": "prometheus", "url": "http://127.0.0.1:9", "query": "up", "interval_s": 3600}
