"""`hyops run reconcile`: ask the runner; only where it cannot prove an end, take a person's signed word (VOC-5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hyops.control.reconcile import (
    RunnerSaid,
    answer_slot,
    closed_by_word,
    proof,
    sayable,
    unknown_now,
)
from hyops.errors import (
    DeadlineError,
    EvidenceError,
    HostKeyError,
    NotVerifiedError,
    PrerequisiteError,
    RunnerUnreachableError,
    UsageError,
)
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome, Execution, outcome_slot
from hyops.model.policy import ServicePolicy
from hyops.model.reconciliation import Reconciliation, ReconciliationStatement
from hyops.model.vocabulary import Outcome
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import ApprovalVerifier, Signer, Verifier
from hyops.ports.starts import Starts
from hyops.ports.transport import RunnerTransport
from hyops.services.continued import may_go_on
from hyops.services.inbox import Inbox


@dataclass(frozen=True)
class Question:
    """An attempt without a proved end. `recorded` is False while it is open and `unknown` is only prepared.

    `word` is there when a person has closed it already: then only a proof can be added. `failed`: `unknown` is in truth
    the proved end of a run that failed after its promotion, and only a proof that it went on to succeed is one.
    """

    attempt: Attempt
    unknown: AttemptOutcome
    recorded: bool
    word: AttemptOutcome | None = None
    failed: bool = False


class Reconciler:
    """Reads attempts and outcomes; writes outcomes, with the executor's key."""

    def __init__(
        self,
        *,
        executions: RecordStore,
        attempts: RecordStore,
        outcomes: RecordStore,
        policies: Mapping[str, ServicePolicy],
        transport: RunnerTransport,
        starts: Starts,
        approvals: ApprovalVerifier,
        signer: Signer,
        verifier: Verifier,
        clock: Clock,
    ) -> None:
        self._executions = Inbox(executions, Execution, verifier, role="approval")
        self._attempts = Inbox(attempts, Attempt, verifier, role="execution")
        self._outcomes = Inbox(outcomes, AttemptOutcome, verifier, role="execution")
        self._store, self._policies, self._transport, self._starts = outcomes, policies, transport, starts
        self._approvals, self._signer, self._verifier, self._clock = approvals, signer, verifier, clock

    def find(self, run_id: str) -> Question:
        """The run that has no known end.

        Raises:
            UsageError: no such run here. PrerequisiteError: it has an end that is known, or was reconciled before.
        """
        self._attempts.refresh()
        self._outcomes.refresh()
        mine = [a for a in self._attempts.records() if a.run_id == run_id and a.execution_mode == "dispatch"]
        if len(mine) != 1:
            raise UsageError(f"{len(mine)} attempts have the run {run_id!r}", hint="`hyops status` names what is open")
        (attempt,) = mine
        ends = [o for o in self._outcomes.records() if o.attempt_id == attempt.attempt_id]
        known = [o for o in ends if o.outcome is not Outcome.UNKNOWN and o.reconciliation is None]
        if known and (failed := may_go_on(ends)) is not None:
            return Question(attempt, failed, recorded=True, failed=True)
        if known:
            raise PrerequisiteError(f"{run_id} ended {known[-1].outcome}: there is nothing to reconcile")
        unknown = [o for o in ends if o.reconciles is None]
        if unknown:
            return Question(attempt, unknown[0], True, next((o for o in ends if o.reconciliation), None))
        return Question(attempt, unknown_now(attempt, self._clock.now()), recorded=False)

    async def ask(self, question: Question) -> RunnerSaid:
        """What the runner knows of it now."""
        attempt = question.attempt
        try:
            async with self._transport.connect(attempt.runner_ref) as session:
                state = (await session.status(attempt.run_id)).state
                if state != "finished":
                    return RunnerSaid(state, f"asked at {self._clock.now():%Y-%m-%dT%H:%M:%SZ}")
                try:
                    returned = await session.collect(attempt.run_id)
                except EvidenceError as exc:
                    return RunnerSaid(state, "", fault=exc.message)
        except (RunnerUnreachableError, DeadlineError, HostKeyError, PrerequisiteError) as exc:
            return RunnerSaid("unreachable", exc.message)
        found = proof(attempt, question.unknown, returned.result, self._verifier, self._clock.now())
        return RunnerSaid(state, "", returned.result, found if isinstance(found, str) else None)

    def prove(self, question: Question, said: RunnerSaid) -> AttemptOutcome:
        """Record the end that the runner proves.

        Raises:
            NotVerifiedError: it proves none. PrerequisiteError: the executor is going to record it itself.
        """
        attempt = question.attempt
        if said.result is None or said.fault is not None:
            raise NotVerifiedError(
                f"the runner proves no end of {attempt.run_id}; it is {said.words}",
                hint="look at the service; then `hyops run reconcile RUN_ID --outcome ...` closes it by your word",
            )
        if not question.recorded:
            raise PrerequisiteError(
                f"{attempt.run_id} is finished on its runner and the executor has yet to collect it",
                hint="start the execution stage; it closes the attempt by itself",
            )
        found = proof(attempt, question.unknown, said.result, self._verifier, self._clock.now())
        assert isinstance(found, AttemptOutcome)
        if question.failed and found.outcome is not Outcome.SUCCEEDED:
            raise PrerequisiteError(
                f"{attempt.run_id} ended {found.outcome}: there is nothing to reconcile",
                hint=f"mend what `hyops run show` names, then `hyops run resume {attempt.run_id}`",
            )
        return self._record(attempt, found)

    def statement(
        self,
        question: Question,
        said: RunnerSaid,
        *,
        operator: str,
        outcome: Literal["failed", "cancelled"],
        looked_at: Sequence[str],
        reason: str,
        generation_after: int | None = None,
        primary_after: str | None = None,
        runner_lost: bool = False,
    ) -> ReconciliationStatement:
        """What the operator signs; raises the refusal where a person's word may not close it."""
        attempt = question.attempt
        if question.failed:
            raise PrerequisiteError(
                f"{attempt.run_id} ended failed, and its runner proved that: no word changes it",
                hint=f"`hyops run resume {attempt.run_id}` continues it",
            )
        if question.word is not None:
            raise PrerequisiteError(
                f"{attempt.run_id} was closed before, {question.word.reason}", hint="only a proof can be added to that"
            )
        self._executions.refresh()
        execution = self._executions.get(attempt.source_execution_id)
        sayable(attempt, said, execution, self._clock.now(), runner_lost=runner_lost)
        if said.result is not None and said.fault is None:
            raise PrerequisiteError(
                f"the runner proves how {attempt.run_id} ended: no word is needed", hint="leave --outcome away"
            )
        if not reason.strip() or not [text for text in looked_at if text.strip()]:
            raise UsageError("--reason and at least one --looked-at are needed: the record says why and what was seen")
        if (generation_after is None) != (primary_after is None):
            raise UsageError("--generation-after and --primary-after are named together, or neither")
        return ReconciliationStatement(
            operator=operator,
            signed_at=self._clock.now(),
            attempt_id=attempt.attempt_id,
            run_id=attempt.run_id,
            service=attempt.service,
            outcome_digest=question.unknown.digest(),
            outcome=outcome,
            generation_after=generation_after,
            primary_after=primary_after,
            looked_at=list(looked_at),
            reason=reason,
            runner_said=said.words,
        )

    def close(self, question: Question, statement: ReconciliationStatement, ssh_signature: str) -> AttemptOutcome:
        """Verify the person's word and record it; an attempt that is still open is closed as unknown first."""
        attempt, now = question.attempt, self._clock.now()
        by = self._approvals.verify(statement.operator, statement.signed_bytes(), ssh_signature, now)
        given = Reconciliation(statement=statement, ssh_signature=ssh_signature)
        outcome = closed_by_word(attempt, question.unknown, given, by, self._policy(attempt), now)
        if not question.recorded:
            self._give_up(question)
        return self._record(attempt, outcome)

    def _give_up(self, question: Question) -> None:
        attempt = question.attempt
        with self._starts.dialling(attempt.attempt_id) as mine:
            if not mine:
                raise PrerequisiteError(
                    f"the executor is dialling {attempt.runner_ref} for {attempt.run_id} just now",
                    hint="try again in a moment",
                )
            unknown = sign_record(question.unknown, self._signer)
            slot = outcome_slot(attempt.attempt_id)
            given, record_id = self._starts.create, unknown.outcome_id
            if not given(attempt.attempt_id, self._store, record_id, unknown.encoded(), slot=slot).made:
                raise PrerequisiteError(f"{attempt.run_id} was closed meanwhile", hint="look again")

    def _record(self, attempt: Attempt, outcome: AttemptOutcome) -> AttemptOutcome:
        signed = sign_record(outcome, self._signer)
        if not self._store.create(signed.outcome_id, signed.encoded(), slot=answer_slot(outcome)).made:
            raise PrerequisiteError(f"{attempt.run_id} was reconciled meanwhile", hint="`hyops status` says how")
        return signed

    def _policy(self, attempt: Attempt) -> ServicePolicy:
        if attempt.service not in self._policies:
            raise PrerequisiteError(f"service {attempt.service} has no policy here")
        return self._policies[attempt.service]
