"""A switchover that stopped half-way, and an edge that fails, on real hosts: what the operator's commands do there."""

from __future__ import annotations

import json
import time

import pytest

from fault_size import FULL
from hyops_lab import ledger
from hyops_lab.hosts import HOSTS
from hyops_lab.roles import postgres
from hyops_lab.wiring.control import UNITS
from lab.switch_lab import AGENT, CLOUD, CONTROL, LIMIT_S, ONPREM, SwitchLab

pytestmark = [pytest.mark.lab, pytest.mark.req("INV-1", "FEN-2")]
DROP_IN = f"/run/systemd/system/{AGENT}.d/hardened.conf"
EXECUTE_USER = "hyops-executor"


@pytest.mark.skipif(not FULL, reason="`make faults` runs it; one that was promoted goes on in every run")
@pytest.mark.req("GEN-1", "INV-2")
@pytest.mark.fault(27)
def test_a_half_done_switchover_is_taken_back_and_the_next_one_succeeds(wired: SwitchLab) -> None:
    """Demoted by a run that never came back; readmitted by its command; the loop catches up, and switches."""
    wired.settle(ONPREM)
    lab, before = wired.lab, wired.lost()
    lab.exec(CONTROL, ["systemctl", "stop", *UNITS.values()])  # nobody else decides meanwhile; `settle` starts them
    generation = int(wired.told(ONPREM)["generation"])
    demote = json.dumps({"verb": "demote", "generation": generation, "run_id": "run-half-way"})
    lab.exec(ONPREM, ["sh", "-c", f"echo '{demote}' | hyops agent-call"], timeout_s=LIMIT_S)
    assert wired.told(ONPREM)["facts"]["hold_run"] == "run-half-way"
    again = lab.exec(ONPREM, readmit("run-other", generation), check=False)
    assert again.returncode == 14
    assert f"hyops fence readmit --run run-half-way --generation {generation}" in again.stderr

    asked_ns = time.monotonic_ns()
    lab.exec(ONPREM, readmit("run-half-way", generation), timeout_s=LIMIT_S)

    ledger.wait_ack(lab, asked_ns, HOSTS[ONPREM].address)
    status = wired.told(ONPREM)
    assert (status["edge"], status["role"], status["generation"]) == ("open", "primary", generation + 1)
    assert wired.lost() == before
    lab.exec(CONTROL, ["systemctl", "start", *UNITS.values()])
    refused = wired.outcome(wired.ask())
    assert (refused["outcome"] == "succeeded", refused.get("generation_after")) == (False, generation + 1)
    wired.switchover()
    assert wired.lost() == before


@pytest.mark.skipif(not FULL, reason="`make faults` runs it; a real PostgreSQL loses its edge in every run")
@pytest.mark.fault(23, 24)
def test_an_agent_that_may_not_touch_its_edge_stops_the_database(wired: SwitchLab) -> None:
    """The rules flushed and the capability gone: no lease is taken, the unit is stopped; mended, it serves again."""
    wired.settle(ONPREM)
    lab, before = wired.lab, wired.lost()
    lab.exec(CONTROL, ["systemctl", "stop", *UNITS.values()])
    try:
        lab.exec(ONPREM, ["mkdir", "-p", f"/run/systemd/system/{AGENT}.d"])
        lab.write(ONPREM, DROP_IN, b"[Service]\nCapabilityBoundingSet=~CAP_NET_ADMIN\n")
        lab.exec(ONPREM, ["systemctl", "daemon-reload"])
        lab.exec(ONPREM, ["sh", "-c", f"systemctl stop {AGENT}; nft flush ruleset; systemctl start {AGENT}"])
        status = wired.told(ONPREM, lambda said: said.get("role") == "stopped")
        assert (status["edge"], status["holds_lease"], status["facts"]["fencing"]) == ("unknown", False, "by stopping")
        assert "not permitted" in status["facts"]["edge_fault"]
        assert lab.exec(ONPREM, ["systemctl", "is-active", postgres.UNIT], check=False).returncode != 0
    finally:
        lab.exec(ONPREM, ["rm", "-f", DROP_IN])
        lab.exec(ONPREM, ["sh", "-c", f"systemctl daemon-reload; systemctl restart {AGENT}"])
    wired.told(ONPREM, lambda said: said.get("edge") == "open")
    assert wired.lost() == before
    lab.exec(CONTROL, ["systemctl", "start", *UNITS.values()])


def readmit(run_id: str, generation: int) -> list[str]:
    """The operator's command."""
    return ["hyops", "fence", "readmit", "--run", run_id, "--generation", str(generation)]


@pytest.mark.req("DNS-2", "GEN-1", "RUN-5")
@pytest.mark.fault(27)
def test_a_switch_that_was_promoted_and_not_cut_over_goes_on_when_dns_is_back(wired: SwitchLab) -> None:
    """DNS dies under the promotion: nothing is un-promoted; resumed, the same run moves the name and is recorded."""
    wired.settle(ONPREM)
    lab, before = wired.lab, wired.lost()
    switch = wired.ask()
    attempt = wired.attempt(switch)
    wired.wait_step(switch.runner, attempt["run_id"], "intent", "promote")
    lab.exec("dns", ["systemctl", "kill", "--signal=KILL", "pdns.service"])
    lab.exec("dns", ["systemctl", "stop", "pdns.service"])
    stopped = wired.outcome(switch)
    assert (stopped["outcome"], wired.primary()) == ("failed", CLOUD)

    lab.exec("dns", ["systemctl", "start", "pdns.service"])
    resumed_ns = time.monotonic_ns()
    lab.exec(
        CONTROL, ["hyops", "run", "resume", attempt["run_id"], "--reason", "the authority answers"], user=EXECUTE_USER
    )

    ledger.wait_ack(lab, resumed_ns, HOSTS[CLOUD].address)
    end = wired.loop.wait(
        "outcome", lambda o: (o["attempt_id"], o["outcome"]) == (attempt["attempt_id"], "succeeded"), LIMIT_S
    )
    assert end["generation_after"] == stopped["generation_after"]
    assert wired.lost() == before
    wired.switchover()
