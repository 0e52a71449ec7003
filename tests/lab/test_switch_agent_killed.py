"""A fence agent killed in the middle of a verb, and etcd restored from a snapshot, on real hosts."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from fault_size import FULL
from hyops_lab import ledger
from hyops_lab.hosts import HOSTS
from hyops_lab.roles import etcd
from hyops_lab.wiring import service
from hyops_lab.wiring.control import UNITS
from lab.switch_lab import AGENT, CLOUD, CONTROL, LIMIT_S, ONPREM, RUNS, SwitchLab, watch, whole

pytestmark = [pytest.mark.lab, pytest.mark.req("INV-1", "FEN-2", "GEN-1")]
MEMORY = "/var/lib/hyops/fence-agent/state.json"
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "etcd-restored.md"
SNAPSHOT, DATA = "/var/lib/etcd/hyops.snapshot", "/var/lib/etcd/default"
OTHER = {"onprem-runner": "cloud-runner", "cloud-runner": "onprem-runner"}


def main_pid(wired: SwitchLab, host: str) -> str:
    """The process of the agent, as its host numbers it."""
    return wired.lab.exec(host, ["systemctl", "show", "--value", "-p", "MainPID", AGENT]).stdout.strip()


def kill_when(wired: SwitchLab, host: str, key: str, value: str) -> str:
    """kill -9 of the agent as soon as its memory says so; returns the process that was killed."""
    pid, path = main_pid(wired, host), wired.lab.machine(host).path(MEMORY)
    watch(path.parent, lambda: json.loads(path.read_bytes()).get(key) == value)
    wired.lab.exec(host, ["kill", "-9", pid])
    return pid


@pytest.mark.skipif(not FULL, reason="`make faults` runs it; each verb's agent is killed without hosts in every run")
@pytest.mark.fault(13)
def test_an_agent_killed_in_a_demotion_and_in_a_promotion_is_asked_again(wired: SwitchLab) -> None:
    """First the one that hands over, then, on the way back, the one that takes over: both succeed, no row is lost."""
    wired.settle(ONPREM)
    before = wired.lost()

    switch = wired.ask()
    killed = kill_when(wired, ONPREM, "hold", "demoted")
    assert wired.outcome(switch)["outcome"] == "succeeded"
    assert main_pid(wired, ONPREM) != killed
    assert (wired.primary(), wired.lost()) == (CLOUD, before)

    back = wired.ask()
    killed = kill_when(wired, ONPREM, "promotion_run", wired.attempt(back)["run_id"])
    assert wired.outcome(back)["outcome"] == "succeeded"
    assert main_pid(wired, ONPREM) != killed
    assert (wired.primary(), wired.lost()) == (ONPREM, before)


def block(title: str) -> str:
    """The commands of the page under this title."""
    found = re.search(rf'```sh title="{title}"\n(.*?)```', HOW_TO.read_text(), re.DOTALL)
    assert found is not None
    return "\n".join(line.removeprefix("    ") for line in found[1].splitlines())


@pytest.mark.fault(28)
@pytest.mark.skipif(not FULL, reason="over a minute: `make faults` runs it, and a real etcd is restored without hosts")
def test_the_page_about_a_restored_etcd_is_true(wired: SwitchLab) -> None:
    """A snapshot from before a switch, restored after it: nobody serves until the page's last command, then the new."""
    wired.settle(ONPREM)
    lab, before = wired.lab, wired.lost()
    argv = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", etcd.client_url(CONTROL), "snapshot", "save", SNAPSHOT]
    lab.exec(CONTROL, argv)
    wired.switchover()
    generation = int(wired.told(CLOUD)["generation"])
    lab.exec(CONTROL, ["systemctl", "stop", *UNITS.values()])
    data = lab.machine(CONTROL).path(SNAPSHOT).read_bytes()
    peers = {member: f"{etcd.SCHEME}://{HOSTS[member].address}:{etcd.PEER_PORT}" for member in etcd.MEMBERS}
    words = {"CLUSTER": ",".join(f"{member}={url}" for member, url in peers.items()), "TOKEN": "restored"}
    words |= {"DATA": DATA, "SNAPSHOT": SNAPSHOT}
    for member in etcd.MEMBERS:
        lab.exec(member, ["systemctl", "stop", "etcd.service"])
    for member, url in peers.items():
        lab.write(member, SNAPSHOT, data)
        mine = [f"{name}={value}" for name, value in {**words, "NAME": member, "PEER_URL": url}.items()]
        lab.exec(member, ["env", *mine, "sh", "-ec", block("member")], timeout_s=LIMIT_S)
    wired.etcd_healthy()
    doubting = wired.told(CLOUD, lambda said: whole(said) and "restored from a snapshot" in said["facts"]["quorum"])
    assert (doubting["edge"], wired.told(ONPREM)["edge"]) == ("closed", "closed")

    runner, asked_ns = "cloud-runner", time.monotonic_ns()
    lab.write(runner, "/tmp/policy.json", json.dumps(service.policy()).encode())  # in a lab host
    seen = Path(RUNS).parent / "generations" / str(service.policy()["service"])
    file = lab.machine(OTHER[runner]).path(str(seen))
    number = json.loads(file.read_bytes())["generation"] if file.exists() else 0
    mine = ["POLICY=/tmp/policy.json", f"OTHER_RUNNER={OTHER[runner]}", f"OTHER_GENERATION={number}"]
    lab.exec(runner, ["env", *mine, "sh", "-ec", block("runner")], user="hyops", timeout_s=LIMIT_S)

    ledger.wait_ack(lab, asked_ns, HOSTS[CLOUD].address)
    again = wired.told(CLOUD)
    assert (again["generation"], again["facts"]["quorum"]) == (generation + 1, "believed")
    assert wired.lost() == before
    lab.exec(CONTROL, ["systemctl", "start", *UNITS.values()])
    assert wired.outcome(wired.ask()).get("generation_after") == generation + 1
    wired.switchover()
    assert wired.lost() == before
