"""A primary whose edge is broken is frozen: the end of its lease replaces nobody, its power switch does (INV-1)."""

from __future__ import annotations

import json
import time

import pytest

from fault_size import FULL
from hyops_lab import Lab, ledger
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import CONTROL, Json
from hyops_lab.roles import etcd, postgres
from hyops_lab.waiting import until
from hyops_lab.wiring.control import UNITS
from hyops_lab.wiring.service import SERVICE
from lab.switch_lab import CLOUD, LIMIT_S, ONPREM, TABLE, SwitchLab, psql_argv

pytestmark = [pytest.mark.lab, pytest.mark.req("INV-1", "INV-2", "FEN-1", "FEN-2")]

THIEF = "edge-thief"
# one transaction, and the table then belongs to a process that stays: the agent can neither read nor replace its rules
STEAL = f"(echo 'delete table {TABLE}; add table {TABLE} {{ flags owner; }}'; sleep infinity) | nft -i"
ROW = -33


@pytest.mark.skipif(not FULL, reason="`make faults` runs it; a real PostgreSQL is unguarded without hosts in every run")
@pytest.mark.fault(22, 23, 28)
def test_a_frozen_primary_without_an_edge_is_replaced_by_its_power_switch_and_not_by_time(wired: SwitchLab) -> None:
    """Degraded, paused with its database until its lease is gone: refused; with a switch that cuts it: promoted."""
    wired.settle(ONPREM)
    lab = wired.lab
    generation = wired.told(ONPREM)["generation"]
    lab.exec(CONTROL, ["systemctl", "stop", UNITS["decision"]])  # this test alone asks for switches
    try:
        lab.exec(ONPREM, ["systemd-run", "--quiet", "--collect", f"--unit={THIEF}", "sh", "-c", STEAL])
        status = wired.told(ONPREM, lambda said: said.get("facts", {}).get("told_unguarded") is True)
        assert (status["edge"] != "closed", status["holds_lease"], status["facts"]["fencing"]) == (
            True,
            True,
            "degraded",
        )
        assert quorum_says(lab, "unguarded") == {"generation": generation, "host": ONPREM}
        ledger.wait_ack(lab, time.monotonic_ns(), HOSTS[ONPREM].address)  # its lease is valid: it serves
        lab.pause(ONPREM)
        until(
            lambda: quorum_says(lab, "holder") is None,
            what="the lease of the paused primary to run out", where=lab.log("witness"), timeout_s=LIMIT_S,
        )  # fmt: skip
        lab.power_switch_mode("fail")

        refused = wired.loop.after(wired.drills.request("failover", "unplanned"), LIMIT_S)

        assert refused["outcome"] != "succeeded"
        assert f"{ONPREM} renewed unguarded under generation {generation}" in str(refused)
        standby = wired.told(CLOUD)
        assert (standby["role"], standby["generation"]) == ("standby", generation)
        assert lab.machine(ONPREM).is_on()

        lab.power_switch_mode("truth")
        outcome = wired.loop.after(wired.drills.request("failover", "unplanned"), LIMIT_S)
    finally:
        lab.power_switch_mode("truth")
        if lab.machine(ONPREM).is_on():
            lab.resume(ONPREM)
            lab.exec(ONPREM, ["systemctl", "stop", THIEF], check=False)
        lab.exec(CONTROL, ["systemctl", "start", UNITS["decision"]])

    assert outcome["outcome"] == "succeeded", outcome
    (fence,) = (step for step in outcome["result"]["steps"] if step["step_id"] == "fence")
    receipt = fence["outputs"]["receipt"]
    print("; ".join(seen["saw"] for seen in receipt["observations"]))
    assert receipt["receipt_class"] == "powered-off"
    assert not lab.machine(ONPREM).is_on()
    assert wired.primary() == CLOUD
    row = f"INSERT INTO ledger (id, via) VALUES ({ROW}, 'after')"
    lab.exec("client", psql_argv(lab, HOSTS[CLOUD].address, row))
    assert postgres.sql(lab, CLOUD, f"SELECT count(*) FROM ledger WHERE id = {ROW}") == "1"


def quorum_says(lab: Lab, key: str) -> Json | None:
    """What stands in etcd under a key of the service; None: nothing."""
    urls = ",".join(etcd.client_url(member) for member in etcd.MEMBERS)
    argv = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", urls, "--command-timeout=2s", "get", "--print-value-only"]
    said = lab.exec("client", [*argv, f"/hyops/services/{SERVICE}/{key}"]).stdout.strip()
    found: Json | None = json.loads(said) if said else None
    return found
