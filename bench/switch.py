"""The switch itself, on real hosts: a lost site until the first acknowledged write, and the gap of a planned switch.

Every trial is a whole drill: the loop decides, dispatches under a standing approval, fences, promotes, moves DNS and
proves it, and the client's own ledger tells when it was served again. A trial that lost rows in a planned switch,
counted its loss wrongly, or whose evidence does not verify, stops the bench. The baseline is `bare`, in the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench import bare
from bench.measure import Row, Series, Table, series
from hyops.cli.drill import faults
from hyops_lab import Lab, ledger
from hyops_lab.approver import stand
from hyops_lab.drill import Drills, Trial
from hyops_lab.wiring import everything
from hyops_lab.wiring.service import LEASE_MARGIN_S, LEASE_TTL_S

LAB_ID, BARE_ID = "bench", "benchbare"
BARE_COUNT = 5
GOAL_P50_S, GOAL_P95_S, GOAL_GAP_P95_S = 5.0, 10.0, 1.0


def run(table: Table, count: int) -> None:
    """A lost site and the way back, `count` times; half of the baseline before, half after."""
    early = bare.site_loss(BARE_ID, BARE_COUNT // 2, LEASE_TTL_S, LEASE_MARGIN_S)
    lost, planned = trials(LAB_ID, count)
    late = bare.site_loss(BARE_ID, BARE_COUNT - BARE_COUNT // 2, LEASE_TTL_S, LEASE_MARGIN_S)
    first = series([trial.first_ack_s for trial in lost if trial.first_ack_s is not None])
    table.add(
        Row(
            "site killed -> first acknowledged write, through DNS",
            first,
            baseline=Series(early.values + late.values),
            baseline_name="a bare script with the same effects",
            goal="p50 <= 5 s, p95 <= 10 s",
            reached=first.p50 <= GOAL_P50_S and first.p95 <= GOAL_P95_S,
            note=f"every loss counted right; {phases(lost)}",
        )
    )
    gap = series([trial.gap_s for trial in planned])
    table.add(
        Row(
            "planned switchover, the client's gap",
            gap,
            goal="p95 <= 1 s, no row lost",
            reached=gap.p95 <= GOAL_GAP_P95_S and not any(trial.lost_here for trial in planned),
            note=f"{sum(trial.lost_here for trial in planned)} rows lost; {phases(planned)}",
        )
    )


def trials(lab_id: str, count: int) -> tuple[list[Trial], list[Trial]]:
    """Lost sites, and the planned switches that bring the service home again."""
    lab = Lab(lab_id)
    lost: list[Trial] = []
    planned: list[Trial] = []
    try:
        lab.down()
        lab.up(wire=everything.wire)
        stand(lab)
        ledger.start(lab)
        drills = Drills(lab)
        for _ in range(count):
            lost.append(sound(drills.site_loss()))
            planned.append(sound(drills.recover()))
    finally:
        lab.down()
    return lost, planned


def sound(trial: Trial) -> Trial:
    """The trial itself, when nothing is wrong with it: a fast switch that is not safe is not a figure."""
    if found := faults(trial):
        raise RuntimeError("; ".join(found))
    return trial


def phases(found: Sequence[Trial]) -> str:
    """The median of each phase of the run."""
    names = list(dict.fromkeys(name for trial in found for name in trial.phases_s))
    medians = {name: statistics.median(t.phases_s[name] for t in found if name in t.phases_s) for name in names}
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in medians.items())
