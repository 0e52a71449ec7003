"""How much of the slow fault tests a run does: a little in CI, more on demand (`make faults SEED=n TRIALS=n`)."""

from __future__ import annotations

import os

FULL = os.environ.get("HYOPS_FAULTS") == "full"
SEED = int(os.environ.get("HYOPS_SEED", "1"))
TRIALS = int(os.environ.get("HYOPS_TRIALS", "20"))


def trials(few: int) -> int:
    """How often a fault is tried: `few` times, or `TRIALS` times in a full run."""
    return TRIALS if FULL else few


def seeds(few: int) -> range:
    """A seed for each trial; the run's own seed is the first of them."""
    return range(SEED, SEED + trials(few))
