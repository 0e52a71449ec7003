"""A fence that says yes and did nothing: it is found out by a write, and nobody is promoted beside a living primary."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fault_size import FULL
from hyops_lab import Lab, approver, ledger
from hyops_lab.loop import CONTROL, Json
from hyops_lab.wiring.common import STAGE_USERS
from hyops_lab.wiring.control import UNITS
from lab.switch_lab import AGENT, CLOUD, LIMIT_S, ONPREM, SOCKET, TABLE, SwitchLab

pytestmark = [pytest.mark.lab, pytest.mark.req("FEN-1", "INV-1", "INV-2"), pytest.mark.fault(22)]

LIAR = "lying-agent"
LIES = f'''
import json, os, shutil, socketserver
class Lie(socketserver.StreamRequestHandler):
    def handle(self):
        asked = json.loads(self.rfile.readline())
        said = {{"host": "{ONPREM}", "service": "pg", "edge": "closed", "role": "stopped", "holds_lease": False,
                "generation": asked.get("generation", 0), "facts": {{}}}}
        self.wfile.write(json.dumps({{"ok": True, "result": said}}).encode() + b"\\n")
if os.path.exists("{SOCKET}"):
    os.unlink("{SOCKET}")
server = socketserver.ThreadingUnixStreamServer("{SOCKET}", Lie)
shutil.chown("{SOCKET}", group="hyops")
os.chmod("{SOCKET}", 0o660)
server.serve_forever()
'''


ON_DEMAND = pytest.mark.skipif(not FULL, reason="`make faults` runs it; test_switch_power tells a lie in every run")


@ON_DEMAND
def test_where_only_an_observation_counts_a_lie_changes_nothing_at_all(wired: SwitchLab) -> None:
    """The agent says closed, the probe writes: run ended, generation as it was, the old primary goes on serving."""
    wired.settle(ONPREM)
    lab, generation = wired.lab, wired.told(CLOUD)["generation"]
    lab.exec(CONTROL, ["systemctl", "stop", UNITS["decision"]])  # an operator asks; the loop would see agents change
    with lying_agent(lab), only_observed(lab):
        switch = wired.asked(wired.drills.request("failover", "unplanned"), ONPREM)
        approver.grant(lab, switch.request)
        outcome = wired.outcome(switch)

        assert_found_out(outcome)
        assert outcome.get("generation_after") in (None, generation)
        standby = wired.told(CLOUD)
        assert (standby["role"], standby["generation"]) == ("standby", generation)
        ledger.wait_ack(lab, time.monotonic_ns(), lab.address(ONPREM))
    wired.rejoin()
    assert wired.primary() == ONPREM
    assert wired.told(ONPREM)["generation"] == generation


@ON_DEMAND
def test_under_a_lease_a_lie_promotes_nobody_and_the_loop_goes_on_when_it_ends(wired: SwitchLab) -> None:
    """Edge torn down, lease run out, writes still taken: no promotion. A true agent then stops it, and the next run
    ends what this one began."""
    wired.settle(ONPREM)
    lab, generation = wired.lab, wired.told(CLOUD)["generation"]
    with lying_agent(lab):
        switch = wired.asked(wired.drills.request("failover", "unplanned"), ONPREM)
        outcome = wired.outcome(switch)

        assert_found_out(outcome)
        assert outcome["generation_after"] == generation + 1
        assert wired.told(CLOUD)["role"] == "standby"
        ledger.wait_ack(lab, time.monotonic_ns(), lab.address(ONPREM))

    decision = wired.loop.wait(
        "decision", lambda d: d["decision_type"] == "failover" and d["generation"] == generation + 1, LIMIT_S
    )

    assert wired.loop.after(decision["decision_id"], LIMIT_S)["outcome"] == "succeeded"
    ledger.wait_ack(lab, time.monotonic_ns(), lab.address(CLOUD))
    assert wired.primary() == CLOUD


def assert_found_out(outcome: Json) -> None:
    """The run ended at its fence, with what the probe saw."""
    (fence,) = (step for step in outcome["result"]["steps"] if step["step_id"] == "fence")
    print(f"{outcome['outcome']}, exit code {outcome['exit_code']}: {fence['reason']}")
    assert outcome["outcome"] in ("refused", "failed")
    assert "still acknowledges writes" in fence["reason"]
    assert fence["outcome"] in ("refused", "failed")


@contextmanager
def lying_agent(lab: Lab) -> Iterator[None]:
    """In place of the true agent one that says yes to everything; the edge is torn down, so the database serves."""
    lab.exec(ONPREM, ["systemctl", "stop", AGENT])
    lab.exec(ONPREM, ["nft", "delete", "table", *TABLE.split()])
    lab.exec(ONPREM, ["systemd-run", "--quiet", "--collect", f"--unit={LIAR}", "/usr/bin/python3", "-c", LIES])
    ledger.wait_ack(lab, time.monotonic_ns(), lab.address(ONPREM))
    try:
        yield
    finally:
        lab.exec(ONPREM, ["systemctl", "stop", LIAR])
        lab.exec(ONPREM, ["systemctl", "start", AGENT])


@contextmanager
def only_observed(lab: Lab) -> Iterator[None]:
    """The routes ask for an observed fence and take nothing else."""
    path = f"{STAGE_USERS['dispatch'].home}/config/config.json"
    before = lab.read(CONTROL, path)
    config = json.loads(before)
    for route in config["routes"]["dispatcher_routes"].values():
        route["inputs"]["receipts"] = ["observed"]
    _configure(lab, path, json.dumps(config).encode())
    try:
        yield
    finally:
        _configure(lab, path, before)


def _configure(lab: Lab, path: str, content: bytes) -> None:
    lab.write(CONTROL, path, content, 0o640, STAGE_USERS["dispatch"].name)
    lab.exec(CONTROL, ["systemctl", "restart", UNITS["dispatch"]])
