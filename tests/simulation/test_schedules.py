"""Schedules of the loop and the switch together: a few seeds in CI, as many as you like with `make simulate`."""

from __future__ import annotations

import os

import pytest

from fault_size import FULL, SEED
from simulation.schedule import Schedule, drawn, play, shrunk
from simulation.search import command

PARTS = 10
EACH = 500 if FULL else 15


@pytest.mark.fault(1, 2, 4, 7, 8, 9, 10, 12, 13, 18, 22, 23, 28, 29)
@pytest.mark.req("INV-1", "INV-2", "INV-3", "INV-4", "INV-5", "INV-7", "LOOP-1", "EXE-3")
@pytest.mark.parametrize("part", range(PARTS))
def test_the_invariants_hold_in_every_schedule(part: int) -> None:
    """They hold after every step, whatever the order; at rest one host serves, or a person can read why not."""
    for seed in range(SEED + part * EACH, SEED + (part + 1) * EACH):
        played = play(drawn(seed))
        assert played.fault is None, f"seed {seed}: {played.fault}\n{command(drawn(seed))}"


def test_a_given_schedule_holds() -> None:
    """The one in HYOPS_SCHEDULE, shrunk where it fails; without it, the plainest one."""
    text = os.environ.get("HYOPS_SCHEDULE", '[1, 1, 1, [["watch", 0.4], ["pump"]]]')
    schedule = Schedule.of_json(text)
    fault = play(schedule).fault
    if fault is not None:
        schedule = shrunk(schedule, lambda fewer: play(fewer).fault is not None)
    assert fault is None, f"{fault}\n{command(schedule)}"
