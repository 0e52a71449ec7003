"""Where a service is after runs that raised its generation: by what was confirmed, whoever reads it in what order."""

from __future__ import annotations

import itertools

import pytest

from hyops.control.decision import asked_inputs, operator_decision
from hyops.control.mode import mode_of
from hyops.errors import StaleGenerationError
from hyops.model.execution import AttemptOutcome
from hyops.model.observed import Asked
from hyops.model.vocabulary import DecisionType, Occasion, Outcome
from hyops.testing.clock import EPOCH
from simulation.world import policy


def ended(
    generation: int,
    *,
    after: int | None,
    primary: str | None = None,
    code: int = 20,
    outcome: Outcome | None = None,
    answers: str | None = None,
) -> AttemptOutcome:
    """How a run ended that began at `generation`."""
    return AttemptOutcome(
        outcome_id=f"outcome-{generation}-{code}-{primary}",
        attempt_id="attempt-1",
        run_id=f"run-{generation}",
        timestamp_utc=EPOCH,
        outcome=outcome or (Outcome.FAILED if code else Outcome.SUCCEEDED),
        exit_code=code,
        service="pg",
        generation_before=generation,
        generation_after=after,
        primary_after=primary,
        reconciles=answers,
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
    told = mode_of(policy(), 2, [], outcomes).unserved
    assert (told is not None) is nobody
    assert told is None or "run-1" in told


@pytest.mark.req("DEC-6", "VOC-5")
def test_who_was_promoted_is_known_in_whatever_order_it_is_read() -> None:
    """One run, two outcomes: unknown after its raise, then proved. Whoever reads which first finds the same primary."""
    lost = ended(1, after=2, outcome=Outcome.UNKNOWN)
    proved = ended(1, after=2, primary="cloud-db", code=0, answers=lost.outcome_id)
    older = ended(0, after=1)
    for order in itertools.permutations([lost, proved, older]):
        mode = mode_of(policy(), 1, [], order)
        assert (mode.generation, mode.primary, mode.uncertain, mode.unserved) == (2, "cloud-db", None, None)


@pytest.mark.req("DEC-6", "VOC-5")
def test_an_unknown_end_after_a_raise_blocks_until_it_is_answered() -> None:
    """Perhaps it promoted: the mode is uncertain, and nothing is decided on the word of an older outcome."""
    lost = ended(1, after=2, outcome=Outcome.UNKNOWN)

    assert mode_of(policy(), 1, [], [lost]).uncertain
    assert mode_of(policy(), 1, [], [lost, ended(1, after=2, answers=lost.outcome_id)]).uncertain is None
    assert mode_of(policy(), 1, [], [lost, ended(2, after=3, primary="cloud-db", code=0)]).uncertain is None


@pytest.mark.req("DEC-6", "GATE-1")
@pytest.mark.parametrize(("away", "kind"), [(False, DecisionType.FAILOVER), (True, DecisionType.FAILBACK)])
def test_where_nobody_serves_only_an_unplanned_switch_can_be_asked_for(away: bool, kind: DecisionType) -> None:
    """Nobody can hand over; the way leads on from who was promoted last, in either direction."""
    there = [ended(0, after=1, primary="cloud-db", code=0)] if away else []
    mode = mode_of(policy(), 0, [], [*there, ended(1, after=2)])

    def ask(occasion: Occasion) -> DecisionType:
        asked = Asked(decision_type=kind, occasion=occasion, rationale="nobody serves", requested_by="ada")
        return operator_decision(asked_inputs(policy(), mode, asked, EPOCH)).decision_type

    assert ask(Occasion.UNPLANNED) is kind
    with pytest.raises(StaleGenerationError, match="nobody can hand over") as caught:
        ask(Occasion.PLANNED)
    assert "readmit" in caught.value.hint
