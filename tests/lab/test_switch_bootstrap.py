"""A bare host of the lab becomes a runner by the commands of the how-to, and serves a deployment (RUN-2)."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyops.adapters.approval_ssh import sign
from hyops.model.approval import Approval, ApprovalStatement
from hyops.model.vocabulary import DecisionType, Occasion
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import CONTROL
from hyops_lab.wiring import everything, runner, service
from hyops_lab.wiring.control import ETC
from hyops_lab.wiring.keys import APPROVER
from lab.switch_lab import LIMIT_S, SwitchLab

pytestmark = [pytest.mark.lab, pytest.mark.req("RUN-2")]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "bootstrap-a-runner.md"
HOST, RUNNER, ADMIN = "witness", "edge-runner", "ada"
HERE = "/run/bootstrap-site"
FILES, EXECUTOR = f"{HERE}/files", f"{HERE}/execution.json"
STAGES = ("decision", "dispatch", "approval", "execution")
SAID = subprocess.CompletedProcess[str]


def block(title: str) -> str:
    """The commands of the page under this title."""
    found = re.search(rf'```sh title="{title}"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    assert found is not None
    return "\n".join(line.strip() for line in found[1].splitlines())


class Site:
    """A small control of its own on the control host, beside the lab's: same keys, other folders, one runner."""

    def __init__(self, wired: SwitchLab) -> None:
        self.lab = wired.lab
        self.keys = everything.keyring(wired.lab)
        self.trusted: dict[str, Any] = json.loads(self.keys.trusted)
        self.entry: dict[str, Any] = {}

    def set_up(self) -> None:
        """The folder of the runner's files, an administrator there, and a host on which hyops never was."""
        lab = self.lab
        for name in ("allowed_signers", "approvers.json"):
            lab.write(CONTROL, f"{FILES}/{name}", lab.read(CONTROL, f"{ETC}/{name}"))
        config = {key: value for key, value in runner.config("cloud-runner").items() if key != "options"}
        config |= {"runner_ref": RUNNER, "site": HOSTS[HOST].site}
        lab.write(CONTROL, f"{FILES}/runner.json", json.dumps(config).encode())
        self.configure()
        lab.write(CONTROL, f"{HERE}/{RUNNER}.pub", lab.read(HOST, "/etc/ssh/ssh_host_ed25519_key.pub"))
        self.control(f"ssh-keygen -q -t ed25519 -N '' -f {HERE}/admin")
        for name in (ADMIN, "bob"):
            lab.exec(HOST, ["useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", name])
            lab.write(HOST, f"/etc/ssh/authorized_keys.d/{name}", lab.read(CONTROL, f"{HERE}/admin.pub"))
        lab.write(HOST, f"/etc/sudoers.d/{ADMIN}", f"{ADMIN} ALL=(ALL) NOPASSWD: ALL\n".encode(), 0o440)
        lab.exec(HOST, ["sh", "-c", "mv /usr/bin/hyops /usr/bin/hyops.kept; mv /opt/hyops /opt/hyops.kept"])

    def clear(self) -> None:
        """As it was."""
        lab = self.lab
        for stage in ("dispatch", "approval"):
            self.control(f"systemctl stop boot-{stage}.service", check=False)
        lab.exec(HOST, ["sh", "-c", block("remove")], check=False)
        undone = (
            "rm -rf /var/lib/hyops /etc/ssh/authorized_keys.d/hyops /etc/hyops/*.json /etc/hyops/runner.pem "
            f"/etc/hyops/allowed_signers /run/hyops/secrets /etc/sudoers.d/{ADMIN}; "
            f"rm -f /etc/ssh/authorized_keys.d/{ADMIN} /etc/ssh/authorized_keys.d/bob; "
            f"userdel -r {ADMIN}; userdel -r bob; "
            "mv /usr/bin/hyops.kept /usr/bin/hyops; mv /opt/hyops.kept /opt/hyops; systemctl daemon-reload; true"
        )
        lab.exec(HOST, ["sh", "-c", undone])
        self.control(f"rm -rf {HERE}")

    def configure(self) -> None:
        """Every file of the small control, with what it knows by now."""
        quiet = {"name": "none", "source": "prometheus", "url": "http://127.0.0.1:9", "query": "up", "interval_s": 3600}
        protected = {"policy": {**service.policy(), "signals": [quiet], "quorum": 1}}
        route = {"target_ref": "core/noop@v1", "target_env": service.ENV, "execution_plane": "runner-local"}
        routes = {"env": service.ENV, "dispatcher_routes": {"failover": {**route, "runner_ref": RUNNER}}}
        bodies: dict[str, dict[str, Any]] = {
            "decision": {"kind": "DecisionService", "protected": protected, "vantages": {}},
            "dispatch": {
                "kind": "DecisionDispatcher",
                "routes": routes,
                "services": [service.SERVICE],
                "catalogs": ["/opt/hyops/app/catalog"],
            },
            "approval": {
                "kind": "DecisionConsumer",
                "policy": {"required": 1, "allow_standing": True},
                "allowed_signers": f"{ETC}/allowed_signers",
                "approvers": f"{ETC}/approvers.json",
            },
            "execution": {
                "kind": "DecisionExecutor",
                "mode": "dispatch",
                "protected": [protected],
                "runners": self.entry,
            },
        }
        for stage, body in bodies.items():
            common = {
                "api_version": "hybridops/v1",
                "homes": {name: f"{HERE}/{name}" for name in STAGES},
                "signing_key": f"{ETC}/{stage}.pem",
                "trusted_keys": f"{FILES}/trusted_keys.json",
            }
            self.lab.write(CONTROL, f"{HERE}/{stage}.json", json.dumps({**common, **body}).encode())
        self.lab.write(CONTROL, f"{FILES}/trusted_keys.json", json.dumps(self.trusted).encode())
        runners = {
            "api_version": "hybridops/v1",
            "kind": "RunnerMap",
            "runners": {RUNNER: {"site": HOSTS[HOST].site}, "onprem-runner": {"site": "onprem"}},
            "onprem_sites": ["onprem"],
            "mapping": {"none/failover": RUNNER},
        }
        self.lab.write(
            CONTROL, f"{HERE}/envs/{service.ENV}/config/runner/runners.yml", yaml.safe_dump(runners).encode()
        )

    def control(self, text: str, check: bool = True, **more: str) -> SAID:
        """Type commands on the control host, in the folder of this control."""
        known = {
            "RUNNER": RUNNER,
            "FILES": FILES,
            "ADMIN": ADMIN,
            "ADMIN_KEY": f"{HERE}/admin",
            "ADDRESS": HOSTS[HOST].address,
            "KNOWN_HOSTS": f"{HERE}/known_hosts",
            "DISPATCHER_KEY": f"{ETC}/dispatcher_key",
            "EXECUTOR": EXECUTOR,
            **more,
        }
        words = [f"{key}={value}" for key, value in known.items()]
        self.lab.exec(CONTROL, ["mkdir", "-p", HERE])
        return self.lab.exec(
            CONTROL, ["env", "-C", HERE, *words, "sh", "-ec", text], check=check, timeout_s=2 * LIMIT_S
        )

    def refused(self, title: str, **more: str) -> str:
        """Type a block; it must be refused, and nothing touched. Returns what it said."""
        done = self.control(block(title), check=False, **more)
        assert done.returncode in (11, 12), done.stdout + done.stderr
        assert "nothing was touched" in done.stderr
        return done.stderr

    def learn(self, said: str) -> None:
        """Write what it printed where it belongs."""
        told = dict(line.split(": ", 1) for line in said.splitlines() if ": {" in line)
        self.entry = json.loads(told["runners in the executor's configuration"])
        self.trusted["keys"].append(json.loads(told["keys in every trusted_keys.json"]))
        self.configure()

    def deploys(self) -> str:
        """The blueprint that does nothing, through the whole loop; returns the run's id."""
        for stage in ("dispatch", "approval"):
            argv = f"systemd-run --quiet --unit boot-{stage} -p Type=notify"
            self.control(f"{argv} hyops service run {stage} --config {HERE}/{stage}.json")
        files = " ".join(f"--{stage}-config {HERE}/{stage}.json" for stage in STAGES)
        words = f"core/noop@v1 --root {HERE}/envs/{service.ENV} --service {service.SERVICE} {files} --json"
        said = self.control(f"hyops runner blueprint preflight {words}").stdout
        digest = re.search(r"sha256:[0-9a-f]{64}", said)
        assert digest is not None, said
        self._stands(digest[0])
        done = self.control(f"hyops runner blueprint deploy {words} --yes --wait {LIMIT_S:.0f}")
        told = [json.loads(line) for line in done.stdout.splitlines()]
        return str(next(line["run_id"] for line in told if "run_id" in line))

    def _stands(self, plan_digest: str) -> None:
        now = datetime.now(UTC)
        statement = ApprovalStatement(
            verdict="standing",
            approver=APPROVER,
            signed_at=now,
            expires_at=now + timedelta(hours=1),
            plan_digest=plan_digest,
            service=service.SERVICE,
            decision_types=[DecisionType.FAILOVER],
            occasions=[Occasion.PLANNED, Occasion.UNPLANNED],
        )
        approval = Approval.signed(statement, sign(statement.signed_bytes(), self.keys.folder / "approver"))
        path = f"{HERE}/approval/state/approvals/{approval.approval_id}.json"
        self.lab.write(CONTROL, path, approval.encoded(), 0o640)


@pytest.fixture
def site(wired: SwitchLab) -> Iterator[Site]:
    """A control with no runner, and a bare host."""
    made = Site(wired)
    made.set_up()
    try:
        yield made
    finally:
        made.clear()


@pytest.mark.req("RUN-3", "RUN-4")
def test_a_bare_host_becomes_a_runner_and_serves(site: Site) -> None:
    """Refusals touch nothing; once made it answers, a second time nothing is to change, and it runs a blueprint."""
    lab = site.lab
    site.control(f"echo '{RUNNER} {site.keys.public('prober')}' > known_hosts")
    assert "host key is not trusted" in site.refused("make").lower()
    site.control("rm known_hosts")
    site.control(block("pin"))
    assert "bob may not become root" in site.refused("make", ADMIN="bob")
    assert "to make" in site.control(block("look")).stdout
    assert not lab.machine(HOST).path("/usr/bin/hyops").exists()

    site.learn(site.control(block("make")).stdout)
    assert site.control(block("again")).stdout.count("changed") == 1  # the folder's trusted keys
    said = site.control(block("again")).stdout
    assert f"{RUNNER}: nothing to change" in said
    site.control(block("verify"))
    run_id = site.deploys()
    assert (lab.machine(HOST).path(runner.ROOT) / "runs" / run_id / "result.json").exists()
