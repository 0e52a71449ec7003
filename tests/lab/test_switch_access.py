"""Access modes on real hosts: a bastion at the edge, and a dispatch while the on-prem site is a black hole."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hyops_lab import Lab
from hyops_lab.capture import captured
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import CONTROL, Json
from hyops_lab.wiring import bastion, common
from hyops_lab.wiring.control import UNITS
from lab.switch_lab import LIMIT_S, ONPREM, SwitchLab

pytestmark = [pytest.mark.lab, pytest.mark.req("ACC-1", "ACC-2")]
RUNNER = "cloud-runner"
SITE = "10.77.1.0/24"


@contextmanager
def counted(lab: Lab, host: str, **towards: str) -> Iterator[dict[str, int]]:
    """New SSH connections that a host tries to each network, counted in its own kernel, so before any cut is met."""
    inside = ["ip", "netns", "exec", lab.names.namespace(host), "nft"]
    rules = "".join(
        f"add rule ip hyops_count out ip daddr {net} tcp dport 22 tcp flags & (syn | ack) == syn "
        f'counter comment "{name}"\n'
        for name, net in towards.items()
    )
    text = "add table ip hyops_count\nadd chain ip hyops_count out { type filter hook output priority 0; }\n" + rules
    subprocess.run([*inside, "-f", "-"], input=text.encode(), check=True)
    seen: dict[str, int] = {}
    try:
        yield seen
        told = subprocess.run([*inside, "-j", "list", "table", "ip", "hyops_count"], capture_output=True, check=True)
        for item in json.loads(told.stdout)["nftables"]:
            if "rule" in item:
                packets = next(part["counter"]["packets"] for part in item["rule"]["expr"] if "counter" in part)
                seen[item["rule"]["comment"]] = packets
    finally:
        subprocess.run([*inside, "delete", "table", "ip", "hyops_count"], check=True)


def check(lab: Lab, plane: str, host: str) -> tuple[int, Json]:
    """`hyops access check` on the cloud runner, as its own user: exit code, and what it resolved or why not."""
    argv = ["hyops", "access", "check", plane, "--target", f"{host}={HOSTS[host].address}", "--json"]
    done = lab.exec(RUNNER, argv, user="hyops", check=False)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {"said": done.stdout + done.stderr}


@pytest.mark.req("EVD-1", "GATE-1")
@pytest.mark.fault(20)
def test_a_bastion_carries_the_agents_and_nothing_goes_around_it(service: SwitchLab) -> None:
    """Up: the fence agent answers through the edge. Down: refused by its name, though the straight way is open."""
    lab = service.lab
    with counted(lab, RUNNER, straight=SITE, bastion=HOSTS[bastion.HOST].address) as seen:
        code, found = check(lab, "bastion-explicit", ONPREM)
        assert code == 0, found
        assert found["through"] == [bastion.HOST]
        assert found["checks"][-1]["prerequisite"] == "target-answers"
        lab.kill(bastion.HOST)
        code, found = check(lab, "bastion-explicit", ONPREM)

    assert (code, "access mode bastion-explicit: bastion-answers" in found["said"]) == (12, True)
    assert seen["straight"] == 0
    assert seen["bastion"] >= 2
    assert check(lab, "runner-local", ONPREM)[0] == 0


@pytest.fixture
def untaken(wired: SwitchLab) -> Iterator[SwitchLab]:
    """The service at rest on-prem, and an executor that keeps no orders for a takeover."""
    wired.settle(ONPREM)
    user = common.STAGE_USERS["execution"]
    path = f"{user.home}/config/config.json"
    before = wired.lab.read(CONTROL, path)
    without = {key: value for key, value in json.loads(before).items() if key != "takeover"}

    def restarted(config: bytes) -> None:
        wired.lab.write(CONTROL, path, config, 0o640, user.name)
        wired.lab.exec(CONTROL, ["systemctl", "restart", UNITS["execution"]], timeout_s=LIMIT_S)

    restarted(json.dumps(without).encode())
    try:
        yield wired
    finally:
        restarted(before)


@pytest.mark.req("RUN-2", "EVD-1", "GATE-2")
def test_a_dispatch_to_the_cloud_opens_nothing_to_a_site_that_is_a_black_hole(untaken: SwitchLab) -> None:
    """The on-prem site takes packets and answers none; the loop fails over, and dials the cloud runner alone.

    Besides, each minute and after each switch, an executor asks all runners what orders for a takeover they hold: this
    one has no takeovers.
    """
    lab, service = untaken.lab, untaken
    known = {decision["decision_id"] for decision in service.loop.records("decision")}
    with captured(lab, CONTROL, SITE, f"{HOSTS[RUNNER].address}/32") as seen:
        lab.cut_site("onprem")
        decision = service.loop.wait(
            "decision", lambda d: d["decision_id"] not in known and d["decision_type"] == "failover", LIMIT_S
        )
        outcome = service.loop.after(decision["decision_id"], LIMIT_S)

    assert outcome["outcome"] == "succeeded", outcome.get("reason")
    dialled = [one for one in seen.tries.values() if one.what.startswith("tcp 22 ")]
    assert {one.what for one in dialled} == {f"tcp 22 to {HOSTS[RUNNER].address}"}, dialled
    access = outcome["result"]["access"]
    assert (access["plane"], access["targets"]) == ("runner-local", ["cloud-db (10.77.2.10)"])
    assert [one["prerequisite"] for one in access["checks"]] == ["address-private", "route-private", "target-answers"]
