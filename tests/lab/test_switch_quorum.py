"""The lease under loss of etcd's members: one missing changes nothing, two missing fence the primary (FEN-2)."""

from __future__ import annotations

import time

import pytest

from fault_size import FULL
from hyops_lab import ledger
from hyops_lab.roles import etcd
from hyops_lab.wiring.service import LEASE_TTL_S
from lab.switch_lab import SwitchLab, whole

pytestmark = [pytest.mark.lab, pytest.mark.req("FEN-2", "INV-1")]

WATCHED_S = 2 * LEASE_TTL_S  # a lease that is not renewed has run out twice by then
LOOK_S = 1.0  # until the journal is asked on a busy machine; nothing was broken for that long before
BOUND_S = 1.0  # the kernel closes the edge by itself; this is for the client's stamp


def usual_s(service: SwitchLab) -> float:
    """The client's longest wait while all is well, over one lease: what this machine adds by itself, busy as it is."""
    since_ns = time.monotonic_ns()
    ledger.wait_ack(service.lab, since_ns + int(LEASE_TTL_S * 1e9))
    return ledger.gap([e for e in ledger.entries(service.lab) if e.at_ns >= since_ns]).seconds


@pytest.mark.parametrize("member", etcd.MEMBERS if FULL else etcd.MEMBERS[:1])
def test_losing_one_member_never_disturbs_a_healthy_primary(service: SwitchLab, member: str) -> None:
    """The client's longest wait stays below one lease, and the edge never closes; with `control` dead too."""
    lab, primary = service.lab, service.primary()
    service.etcd_healthy()
    usual = usual_s(service)
    killed_ns = time.monotonic_ns()

    lab.kill(member)
    ledger.wait_ack(lab, killed_ns + int(WATCHED_S * 1e9))
    during = [e for e in ledger.entries(lab) if e.at_ns >= killed_ns - 1_000_000_000]
    said = service.agent_log(primary, (time.monotonic_ns() - killed_ns) / 1e9 + LOOK_S)

    longest = ledger.gap(during)
    print(f"{member} killed: longest gap {longest.seconds:.3f} s over {len(during)} rows, {usual:.3f} s before")
    assert longest.seconds < LEASE_TTL_S + usual
    assert {e.address for e in during} == {lab.address(primary)}
    assert "edge closed" not in said
    assert service.told(primary)["holds_lease"]
    lab.power_on(member)
    service.etcd_healthy()


@pytest.mark.fault(23)
def test_without_a_quorum_the_primary_fences_itself_and_comes_back_with_it(service: SwitchLab) -> None:
    """Two members die: no row after ttl + bound, database stopped; with the quorum it serves under its generation."""
    lab, primary = service.lab, service.primary()
    service.etcd_healthy()
    before = service.told(primary)
    lab.exec("control", ["systemctl", "stop", "hyops-decision-service"])  # the agent is on trial here, not the loop
    lost, usual = service.lost(), usual_s(service)
    for member in ("witness", "cloud-runner"):
        lab.kill(member)
    killed_ns = time.monotonic_ns()  # no renewal is answered from here on
    stopped = service.told(primary, lambda said: whole(said) and said["role"] == "stopped")
    stopped_s = (time.monotonic_ns() - killed_ns) / 1e9
    acks = [e for e in ledger.entries(lab) if e.at_ns > killed_ns]
    last_s = (acks[-1].at_ns - killed_ns) / 1e9 if acks else 0.0
    print(f"no quorum: last row after {last_s:.2f} s, stopped after {stopped_s:.2f} s")
    assert last_s < LEASE_TTL_S + BOUND_S + usual
    assert stopped["edge"] == "closed"

    for member in ("witness", "cloud-runner"):
        lab.power_on(member)
    ledger.wait_ack(lab, time.monotonic_ns(), lab.address(primary))

    after = service.told(primary)
    assert (after["role"], after["edge"], after["generation"]) == ("primary", "open", before["generation"])
    assert service.lost() == lost
    lab.exec("control", ["systemctl", "start", "hyops-decision-service"])
