"""CI as a user of its own on the control host: the shipped workflow beside a real switch, and what it sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hyops.services.ci_templates import template
from hyops_lab import Lab
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import CONTROL
from hyops_lab.roles import postgres
from hyops_lab.wiring import common, service
from lab.switch_lab import CLOUD, LIMIT_S, ONPREM, SwitchLab

pytestmark = [pytest.mark.lab, pytest.mark.req("RUN-12")]

TRUST, OUT, UID = "/etc/hyops/ci", "/run/hyops-ci", 7199
TABLE = "inet hyops_ci_count"
ALONE = ["setpriv", f"--reuid={UID}", f"--regid={common.LOOP_GROUP}", "--clear-groups", "--no-new-privs"]


class CiUser:
    """The user that runs pipelines there: reads the records, owns one folder; what he sends is counted."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.said: list[str] = []

    def set_up(self) -> None:
        """The folder of what is believed, and a counter for every packet of this user that leaves the host."""
        sites = {host: HOSTS[host].site for host in (ONPREM, CLOUD)}
        runners = {runner: {"site": HOSTS[runner].site} for runner in service.MEMBERS.values()}
        onprem = [HOSTS[ONPREM].site]
        header = {"api_version": "hybridops/v1", "kind": "RunnerMap"}
        made: dict[str, Any] = {
            "runners.yml": {**header, "runners": runners, "onprem_sites": onprem, "host_sites": sites},
            "routes.yml": service.routes(),
            "approval-policy.yml": {"required": 1, "allow_standing": True},
        }
        for name, body in made.items():
            self.lab.write(CONTROL, f"{TRUST}/{name}", yaml.safe_dump(body).encode())
        for name in ("trusted_keys.json", "allowed_signers", "approvers.json"):
            self.lab.write(CONTROL, f"{TRUST}/{name}", self.lab.read(CONTROL, f"/etc/hyops/{name}"))
        account = f"hyops-ci:x:{UID}:{common.LOOP_GROUP}::{OUT}:/bin/sh"  # OpenSSH serves nobody without a name
        self.lab.exec(CONTROL, ["sh", "-c", f"grep -q ^hyops-ci: /etc/passwd || echo '{account}' >>/etc/passwd"])
        self.lab.exec(CONTROL, ["install", "-d", "-m", "0700", "-o", str(UID), OUT])
        self.clear()
        counted = f'meta skuid {UID} oifname != "lo" counter;'
        rule = f"table {TABLE} {{\n chain out {{\n type filter hook output priority 0; {counted}\n }}\n}}\n"
        self.lab.exec(CONTROL, ["nft", "-f", "-"], input=rule)

    def clear(self) -> None:
        """No counter and no output of an earlier time."""
        self.lab.exec(CONTROL, ["nft", "delete", "table", *TABLE.split()], check=False)
        self.lab.exec(CONTROL, ["sh", "-c", f"rm -rf {OUT}/*"], check=False)

    def sent(self) -> int:
        """Packets of this user that left the host."""
        said = json.loads(self.lab.exec(CONTROL, ["nft", "-j", "list", "table", *TABLE.split()]).stdout)
        rules = [item["rule"]["expr"] for item in said["nftables"] if "rule" in item]
        return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)

    def run(self, script: str, **env: str) -> int:
        """One script as this user; returns its exit code."""
        words = [f"{key}={value}" for key, value in env.items()]
        argv = [*ALONE, "env", "-i", "PATH=/usr/bin:/bin", f"HOME={OUT}", f"RUNNER_TEMP={OUT}", *words]
        done = self.lab.exec(
            CONTROL, [*argv, "bash", "-eo", "pipefail", "-c", script], check=False, timeout_s=2 * LIMIT_S
        )
        self.said.append(done.stdout + done.stderr)
        return done.returncode


@pytest.fixture
def ci_user(service: SwitchLab) -> Iterator[CiUser]:
    """Ready to run a pipeline beside the service at rest."""
    user = CiUser(service.lab)
    user.set_up()
    yield user
    user.clear()


def test_the_workflow_follows_a_switch_and_sends_nothing(service: SwitchLab, ci_user: CiUser) -> None:
    """Started with the request, it ends with verified evidence; not one packet of its user left the control host.

    The counter is held against a connection that the same user then does open.
    """
    switch = service.ask()
    job = yaml.safe_load(template("github").read_text())["jobs"]["recovery"]
    env = {key: value for key, value in job["env"].items() if "${{" not in value}
    env |= {"HYOPS_DISPATCH_ID": switch.request["dispatch_id"], "GITHUB_OUTPUT": f"{OUT}/outputs"}
    codes = {
        step["id"]: ci_user.run(step["run"].replace("1200", f"{LIMIT_S:.0f}"), **env)
        for step in job["steps"]
        if "run" in step
    }

    assert codes == {"validate": 0, "select": 0, "enforce": 0, "collect": 0, "status": 0}, ci_user.said
    assert service.outcome(switch)["outcome"] == "succeeded"
    assert json.loads(ci_user.lab.read(CONTROL, f"{OUT}/hyops-status.json"))["run"] == "succeeded"
    kept = ci_user.lab.exec(CONTROL, ["ls", f"{OUT}/hyops-evidence"]).stdout.split()
    assert kept == ["evidence.tar", "report.html", "summary.json"]
    assert ci_user.sent() == 0
    ci_user.run(f"exec 3<>/dev/tcp/{HOSTS[switch.target].address}/{postgres.PORT}")
    assert ci_user.sent() > 0


def test_the_pipelines_user_can_change_nothing_of_the_loop(ci_user: CiUser) -> None:
    """He reads the records of all stages and writes none of their folders, nor what he is told to believe."""
    for folder in (*(user.home for user in common.STAGE_USERS.values()), TRUST):
        state = folder if folder == TRUST else f"{folder}/state"
        assert ci_user.run(f"ls {state}") == 0
        tried = f"for d in $(find {state} -type d); do ! touch $d/planted || exit 1; done"
        assert ci_user.run(tried) == 0, ci_user.said
        assert ci_user.lab.exec(CONTROL, ["find", state, "-name", "planted"]).stdout == ""
