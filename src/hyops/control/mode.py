"""Where a service is: by confirmed outcomes only, never by what was decided or asked for (DEC-6, VOC-5)."""

from __future__ import annotations

from collections.abc import Sequence

from hyops.control.execution import type_of
from hyops.errors import StaleGenerationError
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.observed import Mode
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import Outcome


def mode_of(
    policy: ServicePolicy, initial_generation: int, attempts: Sequence[Attempt], outcomes: Sequence[AttemptOutcome]
) -> Mode:
    """Compute generation, primary, and what is open or uncertain, from verified records of any order.

    An outcome that raised the generation counts whatever its verdict: the old generation is gone. Who was promoted
    under it is known when one of its outcomes says so, in whatever order they are read; until then nobody serves it.
    An `unknown` one of the present generation, or newer, or one that raised the generation itself, blocks until a later
    outcome closes the question.
    """
    generation, primary = initial_generation, policy.preferred
    mine = _counting([o for o in outcomes if o.service == policy.service])
    for outcome in sorted(mine, key=lambda o: (o.generation_after or 0, o.generation_before, o.outcome_id)):
        after = outcome.generation_after or 0
        if after > generation:
            generation, primary = after, outcome.primary_after or primary
        elif after == generation > outcome.generation_before and outcome.primary_after is not None:
            primary = outcome.primary_after
    closed = {o.attempt_id for o in mine}
    open_attempts = {
        a.attempt_id: type_of(a)
        for a in attempts
        if a.service == policy.service and a.execution_mode == "dispatch" and a.attempt_id not in closed
    }
    kinds = {*open_attempts.values()}
    answered = {o.reconciles for o in mine if o.reconciles is not None and o.outcome is not Outcome.UNKNOWN}
    unknown = [
        o
        for o in mine
        if o.outcome is Outcome.UNKNOWN
        and max(o.generation_before, o.generation_after or 0) >= generation
        and o.outcome_id not in answered
    ]
    strange = None if primary in {m.host for m in policy.members} else f"primary {primary} is not a member"
    uncertain = f"attempt {unknown[-1].attempt_id} ended unknown: reconcile it first" if unknown else strange
    return Mode(
        generation=generation,
        primary=primary,
        open_attempt=min(open_attempts, default=None),
        open_type=kinds.pop() if len(kinds) == 1 else None,
        uncertain=uncertain,
        unserved=_unserved(generation, mine),
    )


def end_of(attempt_id: str, outcomes: Sequence[AttemptOutcome]) -> AttemptOutcome | None:
    """How an attempt ended: by what answered its end later, else by what was recorded; None while it is open."""
    mine = _counting([o for o in outcomes if o.attempt_id == attempt_id])
    return max(mine, key=lambda o: o.reconciles is not None, default=None)


def _counting(outcomes: Sequence[AttemptOutcome]) -> list[AttemptOutcome]:
    """All but the words about an end that was proved: a proof beats a word."""
    proved = {o.reconciles for o in outcomes if o.reconciles is not None and o.reconciliation is None}
    return [o for o in outcomes if o.reconciliation is None or o.reconciles not in proved]


def _unserved(generation: int, outcomes: Sequence[AttemptOutcome]) -> str | None:
    """The present generation was raised, and no outcome says that anybody was promoted under it.

    A run that was refused as stale raised nothing itself: it found the old primary readmitted, and that one serves.
    """
    raised = [o for o in outcomes if o.generation_after == generation > o.generation_before]
    if not raised or any(o.primary_after or o.exit_code == StaleGenerationError.exit_code for o in raised):
        return None
    run_id = max(raised, key=lambda o: (o.timestamp_utc, o.outcome_id)).run_id
    return f"generation {generation} was raised by {run_id} and nobody was promoted: nobody may serve"
