"""The power switch as the only proof there is: a lie promotes nobody, a real cut does, on real hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hyops_lab import Lab, RequirementsError, requirements
from hyops_lab.approver import grant
from hyops_lab.hosts import HOSTS
from hyops_lab.loop import Json
from hyops_lab.roles import postgres
from hyops_lab.wiring import everything
from lab.switch_lab import CLOUD, LIMIT_S, ONPREM, SwitchLab, psql_argv

pytestmark = [pytest.mark.lab]

ROW = -22


@pytest.fixture
def powered() -> Iterator[SwitchLab]:
    """A lab of its own, whose policy does not take an expired lease for proof."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    try:
        requirements.ensure(print)
    except RequirementsError as error:
        pytest.skip(str(error))
    made = SwitchLab(Lab(f"pw{os.getpid()}", say=print))
    try:
        made.lab.up(wire=everything.accepting(["observed", "powered-off"]))
        yield made
    finally:
        made.lab.down()


@pytest.mark.req("FEN-1", "INV-1", "INV-2")
@pytest.mark.fault(22, 23)
def test_a_cut_host_is_powered_off_before_anybody_is_promoted_and_a_lie_promotes_nobody(powered: SwitchLab) -> None:
    """Nobody reaches the agent: a lying switch is found out by a write; told the truth, the cut host is really off."""
    lab = powered.lab
    powered.drills.wait_streaming(ONPREM)
    lab.exec(ONPREM, ["systemctl", "stop", "ssh.socket", "ssh.service"])  # it serves, and cannot be told to stop
    lab.power_switch_mode("lie")

    lied_to = _approved(powered, powered.drills.request("failover", "unplanned"))

    assert lied_to["outcome"] != "succeeded"
    assert "the power switch lies" in str(lied_to)
    assert lab.machine(ONPREM).is_on()
    assert powered.primary() == ONPREM
    assert powered.told(ONPREM)["generation"] == 1
    assert powered.told(CLOUD)["role"] == "standby"
    row = f"INSERT INTO ledger (id, via) VALUES ({ROW}, 'by right')"
    lab.exec("client", psql_argv(lab, HOSTS[ONPREM].address, row))

    lab.power_switch_mode("truth")
    known = {decision["decision_id"] for decision in powered.loop.records("decision")}
    for host in HOSTS:
        if host != ONPREM:
            lab.cut_pair(ONPREM, host)

    decision = powered.loop.wait(
        "decision", lambda d: d["decision_type"] == "failover" and d["decision_id"] not in known, LIMIT_S
    )
    assert lab.machine(ONPREM).is_on()  # cut off and alive: only the switch can end it
    outcome = _approved(powered, decision["decision_id"])

    receipt = _receipt(outcome)
    print(f"phases {outcome['phases_s']}; " + "; ".join(seen["saw"] for seen in receipt["observations"]))
    assert outcome["outcome"] == "succeeded"
    assert receipt["receipt_class"] == "powered-off"
    assert not lab.machine(ONPREM).is_on()
    assert powered.primary() == CLOUD
    assert postgres.sql(lab, CLOUD, f"SELECT count(*) FROM ledger WHERE id = {ROW}") == "1"
    assert powered.drills.verified(powered.evidence(outcome["run_id"]))


def _approved(powered: SwitchLab, decision_id: str) -> Json:
    """Approve what a decision led to; how that ended."""
    request = powered.loop.wait("request", lambda r: r["source_decision_id"] == decision_id, LIMIT_S)
    grant(powered.lab, request)
    return powered.loop.after(decision_id, LIMIT_S)


def _receipt(outcome: Json) -> Json:
    """The fence receipt in a run's result."""
    (fence,) = (step for step in outcome["result"]["steps"] if step["step_id"] == "fence")
    receipt: Json = fence["outputs"]["receipt"]
    return receipt
