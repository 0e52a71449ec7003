"""Bugs planted in the guards of the loop and the switch: a schedule finds each of them, and none finds the product.

In CI each bug meets the one schedule that is known to find it. A full run (`make faults`) searches for each anew, with
seeds of its own, and prints how many schedules it took.
"""

from __future__ import annotations

import pytest

from fault_size import FULL, SEED
from simulation.planted import BUGS, planted
from simulation.schedule import drawn, play

BUDGET = 3000
BASE = 100_000


@pytest.mark.fault(1, 2, 7, 8, 10, 12, 18, 22, 23)
@pytest.mark.req("INV-1", "INV-2", "INV-3", "INV-4", "INV-5", "INV-7", "EXE-3", "LOOP-1")
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    """The schedule that finds it holds in the product as it is."""
    bug = BUGS[name]
    with planted(bug):
        found = play(drawn(bug.seed))
    assert found.fault is not None, f"{bug.what}: seed {bug.seed} does not find it any more; search for another one"
    assert play(drawn(bug.seed)).fault is None


@pytest.mark.fault(1, 2, 7, 8, 10, 12, 18, 22, 23)
@pytest.mark.skipif(not FULL, reason="the search for each bug takes minutes: `make faults`")
@pytest.mark.parametrize("name", BUGS if FULL else ["any"])
def test_a_planted_bug_is_found_by_a_search(name: str) -> None:
    """Within its budget, whatever the seed: no schedule was made for it alone."""
    bug = BUGS[name]
    first = BASE * SEED
    with planted(bug):
        seed = next((s for s in range(first, first + BUDGET) if play(drawn(s)).fault is not None), None)
    assert seed is not None, f"{bug.what}: not found in {BUDGET} schedules: a hole in the invariants"
    print(f"{name}: found after {seed - first + 1} schedules")
