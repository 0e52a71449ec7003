"""Where a service is: by confirmed outcomes only, never by what was decided or asked for (DEC-6, VOC-5)."""

from __future__ import annotations

from collections.abc import Sequence

from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.observed import Mode
from hyops.model.policy import ServicePolicy
from hyops.model.vocabulary import Outcome


def mode_of(
    policy: ServicePolicy, initial_generation: int, attempts: Sequence[Attempt], outcomes: Sequence[AttemptOutcome]
) -> Mode:
    """Compute generation, primary, and what is open or uncertain, from verified records of any order.

    An outcome that raised the generation counts whatever its verdict: the old generation is gone. An `unknown` one
    of the present generation, or newer, blocks until a later outcome closes the question.
    """
    generation, primary = initial_generation, policy.preferred
    mine = [o for o in outcomes if o.service == policy.service]
    proved = {o.reconciles for o in mine if o.reconciles is not None and o.reconciliation is None}
    mine = [o for o in mine if o.reconciliation is None or o.reconciles not in proved]  # a proof beats a word
    for outcome in sorted(mine, key=lambda o: (o.generation_after or 0, o.generation_before)):
        if outcome.generation_after is not None and outcome.generation_after > generation:
            generation = outcome.generation_after
            primary = outcome.primary_after or primary
    closed = {o.attempt_id for o in mine}
    open_attempts = [
        a.attempt_id
        for a in attempts
        if a.service == policy.service and a.execution_mode == "dispatch" and a.attempt_id not in closed
    ]
    answered = {o.reconciles for o in mine if o.reconciles is not None and o.outcome is not Outcome.UNKNOWN}
    unknown = [
        o
        for o in mine
        if o.outcome is Outcome.UNKNOWN and o.generation_before >= generation and o.outcome_id not in answered
    ]
    strange = None if primary in {m.host for m in policy.members} else f"primary {primary} is not a member"
    uncertain = f"attempt {unknown[-1].attempt_id} ended unknown: reconcile it first" if unknown else strange
    return Mode(
        generation=generation,
        primary=primary,
        open_attempt=sorted(open_attempts)[0] if open_attempts else None,
        uncertain=uncertain,
    )
