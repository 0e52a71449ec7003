"""Site and control host are gone: the surviving runner and two people finish the switch, and nothing dead is needed."""

from __future__ import annotations

import pytest

from fault_size import FULL
from hyops_lab import ledger
from hyops_lab.hosts import ENDPOINT, HOSTS
from hyops_lab.loop import CONTROL
from hyops_lab.takeover import TakeoverDrill, judged, quantile
from lab.switch_lab import CLOUD, ONPREM, SwitchLab

pytestmark = [pytest.mark.lab]
TRIALS = 20 if FULL else 1


@pytest.mark.req("INV-9", "INV-2", "INV-4", "GEN-1", "DEC-6", "EVD-2", "APR-3")
@pytest.mark.fault(30)
def test_a_surviving_runner_takes_over_and_a_control_host_that_returns_adopts_it(wired: SwitchLab) -> None:
    """One approval is refused, two finish it; no frame comes from the dead side; control adopts it once, moves back."""
    times = []
    for number in range(TRIALS):
        wired.settle(ONPREM)
        times.append(_trial(wired, rebuilt=number % 2 == 0))
    print(
        f"takeover, kill to first write: p50 {quantile(times, 0.5):.2f} s, p95 {quantile(times, 0.95):.2f} s, {TRIALS}"
    )


def _trial(wired: SwitchLab, *, rebuilt: bool) -> float:
    drill = TakeoverDrill(wired.drills)
    generation = wired.told(ONPREM)["generation"]
    runner = drill.runner
    before = wired.runs(runner)
    drill.lose_both()

    with drill.watched() as seen:
        order = drill.order()
        approvals = drill.approvals(order)
        assert drill.run(approvals[:1], check=False)[0] == 13
        assert wired.runs(runner) == before
        _, said = drill.run(approvals)
        first = ledger.wait_ack(wired.lab, drill.killed_ns, HOSTS[CLOUD].address)
    assert not wired.lab.machine(CONTROL).is_on()
    packets = drill.packets(seen)
    assert set(seen) == {"cloud-db", "cloud-runner", "dns", "witness", "client"}
    assert judged(packets, (first.at_ns - drill.killed_ns) / 1e9) == []
    assert (said["outcome"], said["generation_after"]) == ("succeeded", generation + 1)
    assert wired.answer("client", ENDPOINT, "A") == HOSTS[CLOUD].address

    trial = drill.adopted(said["run_id"], order, rebuilt=rebuilt)
    assert (trial.outcome, trial.generation, trial.receipt_class) == ("succeeded", generation + 1, "lease-expired")
    assert trial.truthful
    assert trial.verified
    assert wired.runs(runner) - before == {said["run_id"]}
    back = wired.drills.recover()
    assert (back.outcome, back.target, back.lost_here) == ("succeeded", ONPREM, 0)
    return (first.at_ns - drill.killed_ns) / 1e9
