"""Killing the control host at any moment of a running switch does not stop it, and what it did is collected once.

The moments are enumerated: after each record of the runner's journal, and between each two records of the loop's own
stages. CI runs a seeded sample (`HYOPS_SEED`), `HYOPS_FAULTS=full` runs all of them.
"""

from __future__ import annotations

import random
import time

import pytest

from fault_size import FULL, SEED
from hyops_lab import ledger
from hyops_lab.loop import CONTROL, Json
from hyops_lab.wiring.control import UNITS
from lab.switch_lab import Switch, SwitchLab, steps_of

pytestmark = [pytest.mark.lab, pytest.mark.req("EXE-1", "INV-7", "INV-9", "LOOP-1", "RUN-5"), pytest.mark.fault(13)]

STEPS = ("fence", "promote", "verify-target", "cutover", "verify-traffic", "rejoin", "count-loss")
JOURNAL = ["run-opened", "preflight", *(f"{kind} {step}" for step in STEPS for kind in ("intent", "outcome")), "closed"]
STAGES = ("dispatch", "approval", "execution", "runner")
SAMPLE = 1


def moments() -> list[int]:
    """How many records the journal has when control dies: all of 1 to the last, or a sample that spans them."""
    if FULL:
        return list(range(1, len(JOURNAL) + 1))
    width = len(JOURNAL) / SAMPLE
    choose = random.Random(SEED)
    return [choose.randint(int(i * width) + 1, int((i + 1) * width)) for i in range(SAMPLE)]


@pytest.mark.parametrize("records", moments(), ids=lambda k: f"after-{JOURNAL[k - 1].replace(' ', '-')}")
def test_a_switch_ends_by_itself_when_control_dies(service: SwitchLab, records: int) -> None:
    """Killed after this journal record, control misses the rest: the job ends without it and is collected once.

    With it dies the leader of the quorum, so the runner and both agents meet an election.
    """
    lab, before = service.lab, service.lost()
    service.lead_quorum(CONTROL)
    switch = service.ask()
    attempt = service.attempt(switch)
    service.wait_journal(switch.runner, attempt["run_id"], records)

    lab.kill(CONTROL)
    seen = len(service.journal(switch.runner, attempt["run_id"]))
    result = service.wait_result(switch.runner, attempt["run_id"])
    assert not lab.machine(CONTROL).is_on()

    print(f"control died after record {records} (seen {seen} of {len(JOURNAL)})")
    assert result["outcome"] == "succeeded", result
    lab.power_on(CONTROL)
    assert_done_once(service, switch, attempt)
    assert service.lost() == before


@pytest.mark.skipif(not FULL, reason="`make faults` runs it; every stage is killed at every boundary without hosts")
@pytest.mark.parametrize("stage", STAGES)
def test_a_switch_goes_on_when_control_dies_between_two_stages(service: SwitchLab, stage: str) -> None:
    """Killed when the record before `stage` exists and nothing after it: the restarted control goes on from there."""
    lab, before = service.lab, service.lost()
    if stage == "runner":  # the attempt is recorded, and its start has not reached the runner
        lab.cut_pair(CONTROL, "cloud-runner")
        lab.cut_pair(CONTROL, "onprem-runner")
    else:
        lab.exec(CONTROL, ["systemctl", "stop", UNITS[stage]])
    kinds = ["request", "execution", "attempt"]
    counts = {kind: service.count(kind) for kind in kinds}
    source = service.primary()
    decision_id = service.drills.request("failover" if source == "onprem-db" else "failback")
    made = kinds[: STAGES.index(stage)]
    for kind in made:
        service.wait_count(kind, counts[kind] + 1)

    lab.kill(CONTROL)
    after = {kind: service.count(kind) - counts[kind] for kind in kinds}
    lab.heal()
    lab.power_on(CONTROL)

    assert after == {kind: int(kind in made) for kind in kinds}
    switch = service.asked(decision_id, source)
    assert_done_once(service, switch, service.attempt(switch))
    assert service.lost() == before


def assert_done_once(service: SwitchLab, switch: Switch, attempt: Json) -> None:
    """One outcome, `succeeded`; one opening and one effect per step on the runner; a bundle that verifies."""
    outcome = service.collected_once(attempt)
    assert outcome["outcome"] == "succeeded"
    journal = service.journal(switch.runner, attempt["run_id"])
    assert [e["kind"] for e in journal].count("run-opened") == 1
    assert [e["kind"] for e in journal].count("resumed") == 0
    assert steps_of(journal) == [(kind, step) for step in STEPS for kind in ("intent", "outcome")]
    bundle = service.drills.evidence_of(attempt["run_id"])
    assert service.drills.verified(bundle)
    assert service.primary() == switch.target
    first = ledger.wait_ack(service.lab, time.monotonic_ns(), service.lab.address(switch.target))
    later = [entry for entry in ledger.entries(service.lab) if entry.at_ns >= first.at_ns]
    assert {entry.address for entry in later} == {service.lab.address(switch.target)}
