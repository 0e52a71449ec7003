"""What `hyops status` claims of a service whose last run raised the generation."""

from __future__ import annotations

import pytest

from hyops.model.execution import AttemptOutcome
from hyops.model.observed import Mode
from hyops.model.vocabulary import Outcome
from hyops.services.overview import unserved
from hyops.testing.clock import EPOCH


def ended(generation: int, *, after: int | None, primary: str | None = None, code: int = 20) -> AttemptOutcome:
    """How a run ended that began at `generation`."""
    return AttemptOutcome(
        outcome_id=f"outcome-{generation}-{code}",
        attempt_id="attempt-1",
        run_id=f"run-{generation}",
        timestamp_utc=EPOCH,
        outcome=Outcome.FAILED if code else Outcome.SUCCEEDED,
        exit_code=code,
        service="pg",
        generation_before=generation,
        generation_after=after,
        primary_after=primary,
    )


@pytest.mark.req("DEC-6", "UX-2")
@pytest.mark.parametrize(
    ("outcomes", "nobody"),
    [
        ([], False),
        ([ended(1, after=None)], False),
        ([ended(1, after=2)], True),
        ([ended(1, after=2, primary="cloud-db")], False),
        ([ended(1, after=2), ended(2, after=2, primary="cloud-db")], True),
        ([ended(1, after=2, code=15)], False),
        ([ended(0, after=1), ended(1, after=2, primary="cloud-db", code=0)], False),
    ],
)
def test_a_raised_generation_without_a_promotion_is_not_settled(outcomes: list[AttemptOutcome], nobody: bool) -> None:
    """The run is named; a promotion or a readmission that was found says who serves."""
    told = unserved(Mode(generation=2, primary="onprem-db"), outcomes)
    assert (told is not None) is nobody
    assert told is None or "run-1" in told
