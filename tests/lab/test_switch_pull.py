"""Pull mode on real hosts: a runner that takes no SSH from the control host serves a switch all the same (RUN-11)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyops_lab import Lab
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import CONTROL
from hyops_lab.waiting import until
from hyops_lab.wiring import common
from hyops_lab.wiring.control import UNITS
from lab.switch_lab import CLOUD, LIMIT_S, ONPREM, RUNS, SwitchLab
from pull_peer import SERVER, Authority

pytestmark = [pytest.mark.lab]

RUNNER, PORT = "cloud-runner", 8443
CONFIG = "/opt/hybridops/decision-executor/config/config.json"
PKI, TABLE, PGPASS = "/etc/hyops/pull", "inet hyops_pull_only", "/etc/hyops/pgpass"
DESK, AGENT = "hyops-pull-desk.service", "hyops-runner-pull.service"
FROM_CONTROL = f"ip saddr {HOSTS[CONTROL].address} tcp dport 22 counter reject with tcp reset"
WAYS_IN = f"table {TABLE} {{\n chain in {{\n type filter hook input priority 0;\n {FROM_CONTROL}\n }}\n}}\n"


def units() -> dict[str, bytes]:
    """The desk and the agent as the how-to has them, with their keys handed over by systemd."""
    desk = [
        "Type=notify", "User=hyops-executor", "Group=hyops-loop", "RuntimeDirectory=hyops-pull",
        f"LoadCredential=key:{PKI}/desk.key",
        "ExecStart=/usr/bin/hyops service run pull-desk --config /etc/hyops/pull-desk.json",
        "NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes",
    ]  # fmt: skip
    agent = [
        "User=hyops", f"LoadCredential=key:{PKI}/runner.key", "ExecStart=/usr/bin/hyops runner-pull",
        "Restart=always", "RestartPreventExitStatus=11 12", "KillMode=process", f"InaccessiblePaths={PGPASS}",
    ]  # fmt: skip
    return {
        DESK: common.unit("hyops: where runners without inbound SSH ask", service=desk),
        AGENT: common.unit("hyops: asks the desk for work", service=agent),
    }


def configs() -> dict[str, dict[str, object]]:
    """Of the desk and of the agent."""
    return {
        "pull-desk.json": {
            "api_version": "hybridops/v1", "kind": "PullDesk", "address": HOSTS[CONTROL].address, "port": PORT,
            "certificate": f"{PKI}/desk.crt", "key": f"/run/credentials/{DESK}/key", "ca_file": f"{PKI}/ca.crt",
            "crl_file": f"{PKI}/crl.pem", "runner_refs": [RUNNER], "group": "hyops-loop",
        },
        "pull.json": {
            "host": HOSTS[CONTROL].address, "port": PORT, "ca_file": f"{PKI}/ca.crt",
            "certificate": f"{PKI}/runner.crt", "key": f"/run/credentials/{AGENT}/key",
        },
    }  # fmt: skip


def refused(lab: Lab) -> int:
    """Packets of the control host that the runner's SSH port has turned away."""
    said = json.loads(lab.exec(RUNNER, ["nft", "-j", "list", "table", *TABLE.split()]).stdout)
    rules = [item["rule"]["expr"] for item in said["nftables"] if "rule" in item]
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


@pytest.fixture
def pulled(wired: SwitchLab, tmp_path: Path) -> Iterator[SwitchLab]:
    """The service at rest on-prem, and the cloud runner reached by no way but its own asking."""
    wired.settle(ONPREM)
    lab, config = wired.lab, wired.lab.machine(CONTROL).path(CONFIG)
    before = config.read_bytes()
    ca = Authority(tmp_path / "pki")
    ca.issue("desk", "desk", SERVER, address=HOSTS[CONTROL].address)
    ca.issue("runner", RUNNER)
    desk, agent = configs().items()
    for host, names, (file, body), unit in (
        (CONTROL, ("desk.crt", "desk.key", "ca.crt", "crl.pem"), desk, DESK),
        (RUNNER, ("runner.crt", "runner.key", "ca.crt"), agent, AGENT),
    ):
        for name in names:
            secret = name.endswith(".key")
            lab.write(host, f"{PKI}/{name}", (ca.folder / name).read_bytes(), 0o600 if secret else 0o644)
        lab.write(host, f"/etc/hyops/{file}", json.dumps(body).encode())
        lab.write(host, f"/run/systemd/system/{unit}", units()[unit])
    value = json.loads(before)
    value["runners"].pop(RUNNER)
    config.write_text(json.dumps({**value, "pull": {"runner_refs": [RUNNER]}}))
    try:
        lab.exec(RUNNER, ["nft", "-f", "-"], input=WAYS_IN)
        lab.exec(CONTROL, ["sh", "-ec", f"systemctl daemon-reload; systemctl start {DESK}"])
        lab.exec(RUNNER, ["sh", "-ec", f"systemctl daemon-reload; systemctl start {AGENT}"])
        lab.exec(CONTROL, ["systemctl", "restart", UNITS["execution"]])
        yield wired
    finally:
        config.write_bytes(before)
        lab.exec(RUNNER, ["nft", "delete", "table", *TABLE.split()], check=False)
        for host, unit in ((RUNNER, AGENT), (CONTROL, DESK)):
            gone = f"systemctl stop {unit}; rm -rf {PKI} /run/systemd/system/{unit}; systemctl daemon-reload"
            lab.exec(host, ["sh", "-c", gone])
        lab.exec(CONTROL, ["systemctl", "restart", UNITS["execution"]])


@pytest.mark.req("RUN-11", "RUN-3", "SEC-2", "INV-10")
def test_a_runner_without_inbound_ssh_serves_a_switch(pulled: SwitchLab) -> None:
    """Its SSH port refuses the control host; over mutual TLS the switch ends well, and no database password comes."""
    lab, known = pulled.lab, pulled.runs(RUNNER)
    dialled = lab.exec(CONTROL, ["bash", "-c", f"exec 3<>/dev/tcp/{HOSTS[RUNNER].address}/22"], check=False)
    plain = ["curl", "-sk", "--max-time", "5", f"https://{HOSTS[CONTROL].address}:{PORT}/"]
    assert (dialled.returncode != 0, "refused" in dialled.stderr) == (True, True)
    assert lab.exec(RUNNER, plain, check=False).returncode != 0  # no certificate, no answer
    ask = ["runuser", "-u", "hyops-executor", "-g", "hyops-loop", "--", "hyops", "runner", "status", "--config", CONFIG]
    until(
        lambda: lab.exec(CONTROL, ask, check=False).returncode == 0,
        what="both runners to answer", where=lab.log(CONTROL), timeout_s=LIMIT_S,
    )  # fmt: skip

    outcome = pulled.switchover()

    assert (outcome["outcome"], pulled.primary()) == ("succeeded", CLOUD)
    assert pulled.runs(RUNNER) - known == {outcome["run_id"]}
    assert refused(lab) > 0
    pid = lab.exec(RUNNER, ["systemctl", "show", "-P", "MainPID", AGENT]).stdout.strip()
    reach = ["nsenter", "-t", pid, "-m", "--", "setpriv", "--reuid=hyops", "--regid=hyops", "--clear-groups", "cat"]
    assert lab.exec(RUNNER, [*reach, "/etc/hyops/pull.json"], check=False).returncode == 0
    assert lab.exec(RUNNER, [*reach, PGPASS], check=False).returncode != 0
    came = f"{RUNS}/{outcome['run_id']} /proc/{pid}/environ /proc/{pid}/cmdline /etc/hyops/pull.json"
    for secret in ("hyops", "app"):
        search = f"grep -rqF -e '{lab.secret(secret)}' {came}"
        assert lab.exec(RUNNER, ["sh", "-c", search], check=False).returncode == 1
    there = f"grep -qF -e '{lab.secret('hyops')}' {PGPASS}"
    assert lab.exec(RUNNER, ["sh", "-c", there]).returncode == 0  # and the search does find one


LOAD = """
import os, struct, sys
sys.path += ["/opt/hyops/app/src", "/opt/hyops/site", "/usr/lib/python3/dist-packages"]
from pathlib import Path
from hyops.adapters.signer_ed25519 import Ed25519Signer
from hyops.errors import HyopsError
try:
    print("loaded", Ed25519Signer.load(Path(sys.argv[1])).public is not None)
except HyopsError as exc:
    print("refused", exc.message)
"""
GIVE = """
import os, struct, sys
path, *uids = sys.argv[1:]
users = [(2, 4, int(uid)) for uid in sorted(map(int, uids))]
rows = [(1, 4, 2**32 - 1), *users, (4, 0, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)
os.setxattr(path, "system.posix_acl_access", acl)
"""


@pytest.mark.req("LOOP-2", "INV-10")
def test_a_key_that_systemd_hands_over_is_taken(wired: SwitchLab) -> None:
    """By LoadCredential= to a unit's user; and where credentials have ACLs, by an entry for that user alone."""
    lab, user = wired.lab, common.STAGE_USERS["execution"]
    given = ["systemd-run", "--wait", "--pipe", "-q", "-p", f"User={user.name}"]
    given += ["-p", "LoadCredential=key:/root/key.pem"]
    held = "/run/hyops-key"
    lab.exec(CONTROL, ["sh", "-ec", f"cp /etc/hyops/execution.pem /root/key.pem; mkdir -m 0755 {held}"])
    try:
        shell = 'exec /usr/bin/python3 -IS -c "$1" "$CREDENTIALS_DIRECTORY/key"'
        assert lab.exec(CONTROL, [*given, "sh", "-c", shell, "sh", LOAD]).stdout == "loaded True\n"
        load = ["runuser", "-u", user.name, "--", "/usr/bin/python3", "-IS", "-c", LOAD, f"{held}/key"]
        for others, said in (((), "loaded"), ((common.HYOPS.uid,), "refused")):
            lab.exec(CONTROL, ["install", "-m", "0400", "/root/key.pem", f"{held}/key"])
            uids = [str(uid) for uid in (user.uid, *others)]
            lab.exec(CONTROL, ["/usr/bin/python3", "-IS", "-c", GIVE, f"{held}/key", *uids])
            assert lab.exec(CONTROL, load).stdout.split()[0] == said
    finally:
        lab.exec(CONTROL, ["rm", "-rf", held, "/root/key.pem"])
