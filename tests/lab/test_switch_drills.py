"""`hyops drill`, as a person types it: several switches in a row, each held against the client's ledger."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fault_size import FULL, trials
from hyops_lab.loop import Json
from lab.switch_lab import LIMIT_S, ONPREM, SwitchLab, handed_over

pytestmark = [pytest.mark.lab, pytest.mark.req("UX-3", "EVD-1", "INV-1", "DNS-3")]

SWITCHOVERS, SITE_LOSSES = trials(1), trials(2)


@pytest.mark.skipif(not FULL, reason="`make faults` runs it; test_switch_site_loss switches back in every run")
def test_switchovers_in_a_row_lose_no_row(wired: SwitchLab) -> None:
    """There and back again under a writing client: each succeeds, none loses a row, all evidence verifies."""
    wired.settle(ONPREM)
    trials = drill(wired, "switchover", SWITCHOVERS)

    assert [trial["outcome"] for trial in trials] == ["succeeded"] * SWITCHOVERS
    assert [trial["lost_here"] for trial in trials[1:]] == [0] * (SWITCHOVERS - 1)
    assert all(trial["verified"] for trial in trials)
    assert all(handed_over(trial["facts"], trial["source"]) for trial in trials)
    told("switchover: client gap", [trial["gap_s"] for trial in trials])


@pytest.mark.fault(25)
@pytest.mark.skipif(not FULL, reason="`make faults` runs it; test_switch_site_loss loses a site in every run")
def test_lost_sites_in_a_row_are_recovered_and_their_loss_is_the_truth(wired: SwitchLab) -> None:
    """Each site loss succeeds, says exactly how many rows were lost, and the way back loses none."""
    wired.settle(ONPREM)
    trials = drill(wired, "site-loss", SITE_LOSSES)

    assert [trial["kind"] for trial in trials] == ["site-loss", "switchover"] * SITE_LOSSES
    assert [trial["outcome"] for trial in trials] == ["succeeded"] * 2 * SITE_LOSSES
    assert [trial["claimed_lost"] for trial in trials] == [trial["lost"] for trial in trials]
    assert [trial["lost_here"] for trial in trials[1::2]] == [0] * SITE_LOSSES
    assert all(trial["verified"] for trial in trials)
    told("site loss: first write after", [trial["first_ack_s"] for trial in trials[::2]])
    told("site loss: rows lost", [float(trial["lost_here"]) for trial in trials[::2]])


def drill(wired: SwitchLab, kind: str, count: int) -> list[Json]:
    """The trials of one `hyops drill` command, which must end 0."""
    argv = [str(Path(sys.executable).with_name("hyops")), "drill", "--lab", wired.lab.names.lab_id, kind]
    argv += ["-n", str(count), "--json", "--out", str(wired.lab.names.state / "drill")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=4 * LIMIT_S * count)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def told(what: str, values: list[float]) -> None:
    """What was measured, for the reader of the run."""
    ordered = sorted(values)
    print(f"{what}: median {ordered[len(ordered) // 2]:.2f}, max {ordered[-1]:.2f}, N {len(ordered)}")
