"""A switch on real hosts over certificates alone, and a dispatcher's key that was stolen (RUN-3, fault 16)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hyops_lab.loop import CONTROL
from hyops_lab.waiting import until
from hyops_lab.wiring.control import UNITS
from hyops_lab.wiring.keys import RUNNERS
from lab.switch_lab import LIMIT_S, SwitchLab

pytestmark = [pytest.mark.lab]

CONFIG = "/opt/hybridops/decision-executor/config/config.json"
SSHD = "/etc/ssh/sshd_config.d/hyops.conf"
UNIT = UNITS["execution"]
ALLOWED = f"/etc/systemd/system/{UNIT}.service.d/pki.conf"


@pytest.fixture
def certified(service: SwitchLab) -> Iterator[SwitchLab]:
    """The lab moved from plain pins to CAs by the steps of the how-to, and back again."""
    lab, control = service.lab, service.lab.machine(CONTROL)
    before = control.path(CONFIG).read_bytes()
    logins = {runner: lab.machine(runner).path(SSHD).read_bytes() for runner in RUNNERS}
    config = json.loads(before)
    for login in config["runners"].values():
        login |= {
            "known_hosts": "/etc/hyops/runner_hosts",
            "revoked": "/etc/hyops/pki/revoked.krl",
            "certificate": {"pki": "/etc/hyops/pki", "group": "runners"},
        }
    steps = [
        "rm -rf /etc/hyops/pki; hyops pki init",
        "ssh-keygen -y -f /etc/hyops/dispatcher_key > /etc/hyops/dispatcher_key.pub",
        f"hyops pki known-hosts {' '.join(RUNNERS)} > /etc/hyops/runner_hosts",
        f"mkdir -p {ALLOWED.rpartition('/')[0]}; printf '[Service]\\nReadWritePaths=/etc/hyops/pki\\n' > {ALLOWED}",
    ]
    for step in steps:
        lab.exec(CONTROL, ["sh", "-ec", step])
    for runner in RUNNERS:
        host = lab.machine(runner)
        control.path(f"/tmp/{runner}.pub").write_bytes(host.path("/etc/ssh/ssh_host_ed25519_key.pub").read_bytes())
        lab.exec(CONTROL, ["hyops", "pki", "sign", "host", f"/tmp/{runner}.pub", "--name", runner])
        words = ["--group", "runners", "--host-certificate", f"/tmp/{runner}-cert.pub", "-o", f"/tmp/{runner}.d"]
        lab.exec(CONTROL, ["hyops", "pki", "sshd-config", runner, *words])
        host.path("/tmp/identity").mkdir(exist_ok=True)
        for made in control.path(f"/tmp/{runner}.d").iterdir():
            host.path(f"/tmp/identity/{made.name}").write_bytes(made.read_bytes())
        lab.exec(runner, ["sh", "-ec", "cd /tmp/identity && sh -e install.sh"])
    lab.exec(CONTROL, ["chown", "-R", "hyops-executor", "/etc/hyops/pki"])
    control.path(CONFIG).write_text(json.dumps(config))
    lab.exec(CONTROL, ["sh", "-ec", f"systemctl daemon-reload; systemctl restart {UNIT}"])
    try:
        yield service
    finally:
        control.path("/etc/hyops/dispatcher_key-cert.pub").unlink(missing_ok=True)  # or the plain key shows it
        control.path(CONFIG).write_bytes(before)
        for runner in RUNNERS:
            lab.machine(runner).path(SSHD).write_bytes(logins[runner])
            lab.exec(runner, ["systemctl", "reload", "ssh"])
        lab.exec(CONTROL, ["sh", "-ec", f"rm {ALLOWED}; systemctl daemon-reload; systemctl restart {UNIT}"])


@pytest.mark.req("RUN-3")
@pytest.mark.fault(16)
def test_a_switch_goes_over_certificates_and_a_stolen_key_opens_nothing(certified: SwitchLab) -> None:
    """The executor signs for each connection under its unit's limits; once the key is revoked, no runner takes it."""
    lab = certified.lab

    assert certified.switchover()["outcome"] == "succeeded"

    told = lab.exec(CONTROL, ["hyops", "pki", "list", "--json"]).stdout.splitlines()
    of_dispatches = [one for one in map(json.loads, told) if one["kind"] == "user"]
    assert of_dispatches
    assert {one["by"] for one in of_dispatches} == {"hyops-executor"}

    ask = ["runuser", "-u", "hyops-executor", "--", "hyops", "runner", "status", "--config", CONFIG]
    until(
        lambda: lab.exec(CONTROL, ask, check=False).returncode == 0,
        what="both runners to answer", where=lab.log(CONTROL), timeout_s=LIMIT_S,
    )  # fmt: skip
    revoke = ["hyops", "pki", "revoke", "--key", "/etc/hyops/dispatcher_key.pub", "--reason", "stolen"]
    certificate = ["hyops", "pki", "sign", "user", "/etc/hyops/dispatcher_key.pub", "--group", "runners"]
    lab.exec(CONTROL, certificate)  # the thief had one made a moment ago, which is good for minutes
    lab.exec(CONTROL, revoke)
    thief = ["ssh", "-F", "none", "-oBatchMode=yes", "-oIdentityAgent=none", "-i", "/etc/hyops/dispatcher_key"]
    krl = lab.machine(CONTROL).path("/etc/hyops/pki/revoked.krl").read_bytes()
    for runner in RUNNERS:
        login = [*thief, f"hyops@{runner}", "id"]
        assert "Permission denied" not in lab.exec(CONTROL, login, check=False).stderr
        lab.machine(runner).path("/etc/ssh/hyops/revoked.krl").write_bytes(krl)
        assert "Permission denied" in lab.exec(CONTROL, login, check=False).stderr
    refused = lab.exec(CONTROL, ask, check=False)
    assert refused.returncode != 0
    assert "revoked by" in refused.stdout + refused.stderr
