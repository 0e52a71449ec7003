"""How an attempt that ended unknown gets its answer: by the runner's proof, or by a person's signed word (VOC-5).

Neither is a default. A run that may still act is not closed by anybody's word; success is proved or it is not said.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from hyops.control.execution import UNPROVEN_EXIT_CODE, closed_by_result, outcome_id_of
from hyops.errors import (
    CancelledRunError,
    FailedError,
    NotApprovedError,
    PrerequisiteError,
    RunnerUnreachableError,
    StaleGenerationError,
)
from hyops.model import ids
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.policy import ServicePolicy
from hyops.model.reconciliation import Reconciliation, ReconciliationStatement
from hyops.model.run import RunResult
from hyops.model.vocabulary import Outcome
from hyops.ports.signer import ApproverSignature, Verifier

ROLE = "approver"
SIGNED_AGE_MAX_S, FUTURE_MAX_S = 900.0, 300.0  # a statement says what was seen just now
MAY_ACT = ("staged", "running", "interrupted")


@dataclass(frozen=True)
class RunnerSaid:
    """What the runner answered when it was asked; `fault` says why a finished run's result proves nothing."""

    state: Literal["absent", "staged", "running", "interrupted", "finished", "unreachable"]
    detail: str
    result: RunResult | None = None
    fault: str | None = None

    @property
    def words(self) -> str:
        """For the record."""
        return f"{self.state}: {self.fault or self.detail}"[:4096]


def unknown_now(attempt: Attempt, now: datetime) -> AttemptOutcome:
    """The unknown outcome of an attempt that is still open, to be recorded when a person gives it up."""
    return AttemptOutcome(
        outcome_id=outcome_id_of(attempt),
        attempt_id=attempt.attempt_id,
        run_id=attempt.run_id,
        timestamp_utc=now,
        outcome=Outcome.UNKNOWN,
        reason="given up by a person before any result came home; see its reconciliation",
        exit_code=UNPROVEN_EXIT_CODE,
        service=attempt.service,
        generation_before=attempt.generation,
    )


def answer_slot(answer: AttemptOutcome) -> str:
    """One word and one proof per attempt; a proof that comes after a word stands beside it, and wins."""
    return f"{'proved' if answer.reconciliation is None else 'reconciled'}-{answer.attempt_id}"


def proof(
    attempt: Attempt, unknown: AttemptOutcome, result: RunResult, verifier: Verifier, now: datetime
) -> AttemptOutcome | str:
    """The outcome that the runner's signed result proves, or why it proves none."""
    closed = closed_by_result(attempt, result, verifier, now)
    if closed.outcome is Outcome.UNKNOWN:
        return closed.reason or "the runner itself does not know"
    return closed.model_copy(update={"outcome_id": _answer_id(unknown, "proved"), "reconciles": unknown.outcome_id})


def sayable(
    attempt: Attempt, said: RunnerSaid, execution: Execution | None, now: datetime, *, runner_lost: bool
) -> None:
    """Return when a person's word may close the attempt; `execution` is None when its record is gone.

    Raises:
        PrerequisiteError: the run may still act. RunnerUnreachableError: nobody said that the runner is lost.
    """
    if said.state in MAY_ACT:
        raise PrerequisiteError(
            f"{attempt.run_id} is {said.state} on {attempt.runner_ref}: it may still act",
            hint=f"`hyops run resume {attempt.run_id}`, or `hyops run cancel {attempt.run_id} --kill`, then reconcile",
        )
    if said.state == "unreachable" and not runner_lost:
        raise RunnerUnreachableError(
            f"{attempt.runner_ref} does not answer ({said.detail}), and {attempt.run_id} may be at work there",
            hint="bring it back; or make sure that it is powered off or rebuilt, and say so with --runner-lost",
        )
    if said.state == "absent":
        if execution is None:
            raise PrerequisiteError(
                f"{attempt.source_execution_id} is gone, so nobody can tell until when a start may arrive",
                hint="restore the approval stage's records",
            )
        until = execution.expires_at + timedelta(seconds=FUTURE_MAX_S)
        if now < until:
            raise PrerequisiteError(
                f"a start of {attempt.run_id} may still be on its way, and would be taken until {ids.stamp(until)}",
                hint="try again after that; if it arrives, the runner will prove how it ended",
            )


def closed_by_word(
    attempt: Attempt,
    unknown: AttemptOutcome,
    given: Reconciliation,
    by: ApproverSignature,
    policy: ServicePolicy,
    now: datetime,
) -> AttemptOutcome:
    """The outcome that a verified statement gives.

    Raises:
        NotApprovedError: it is about something else, too old, or by somebody without the role.
        StaleGenerationError: it names a generation or a primary that this attempt cannot have led to.
    """
    statement = given.statement
    _fits(attempt, unknown, statement, by, now)
    if statement.generation_after not in (None, attempt.generation + 1):
        raise StaleGenerationError(
            f"generation {statement.generation_after}: this attempt leaves {attempt.generation} as it is or makes "
            f"{attempt.generation + 1}",
            hint="name what the DNS record and the fence agents say",
        )
    if statement.primary_after not in {None, *(member.host for member in policy.members)}:
        raise StaleGenerationError(f"primary {statement.primary_after} is not a member of {policy.service}")
    failed = statement.outcome == "failed"
    return AttemptOutcome(
        outcome_id=_answer_id(unknown, "reconciled"),
        attempt_id=attempt.attempt_id,
        run_id=attempt.run_id,
        timestamp_utc=now,
        outcome=Outcome.FAILED if failed else Outcome.CANCELLED,
        reason=f"by the word of {by.principal}, not proved: {statement.reason}"[:4096],
        exit_code=FailedError.exit_code if failed else CancelledRunError.exit_code,
        service=attempt.service,
        generation_before=attempt.generation,
        generation_after=statement.generation_after,
        primary_after=statement.primary_after,
        reconciles=unknown.outcome_id,
        reconciliation=given,
    )


def _fits(
    attempt: Attempt,
    unknown: AttemptOutcome,
    statement: ReconciliationStatement,
    by: ApproverSignature,
    now: datetime,
) -> None:
    if statement.operator != by.principal:
        raise NotApprovedError(f"it names {statement.operator} and was signed by {by.principal}")
    if ROLE not in by.roles:
        raise NotApprovedError(f"{by.principal} has no role {ROLE}")
    told = (statement.attempt_id, statement.run_id, statement.service, statement.outcome_digest)
    if told != (attempt.attempt_id, attempt.run_id, attempt.service, unknown.digest()):
        raise NotApprovedError("it is about another attempt, or another outcome of it")
    if statement.signed_at > now + timedelta(seconds=FUTURE_MAX_S):
        raise NotApprovedError("it was signed in the future")
    if (age_s := (now - statement.signed_at).total_seconds()) > SIGNED_AGE_MAX_S:
        raise NotApprovedError(f"it was signed {age_s:.0f} s ago: look again, and sign what you see now")


def _answer_id(unknown: AttemptOutcome, how: str) -> str:
    return ids.derived("outcome", unknown.timestamp_utc, unknown.digest(), how)
