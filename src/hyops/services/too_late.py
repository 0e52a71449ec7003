"""Whether a no comes too late for a run, from the executor's records: only what was never sent is stopped by a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hyops.errors import PrerequisiteError
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.ports.records import RecordStore
from hyops.ports.signer import Verifier
from hyops.services.inbox import Inbox


@dataclass(frozen=True)
class TooLate:
    """Why nobody's word stops it any more, and what can be done instead."""

    why: str
    instead: str


class Runs:
    """Reads `attempts` and `outcomes`. `maybe_sent`: as `Starts` has it, whoever may look there."""

    def __init__(
        self, attempts: RecordStore, outcomes: RecordStore, maybe_sent: Callable[[str], bool], verifier: Verifier
    ) -> None:
        self._attempts = Inbox(attempts, Attempt, verifier, role="execution")
        self._outcomes = Inbox(outcomes, AttemptOutcome, verifier, role="execution")
        self._maybe_sent = maybe_sent

    def too_late(self, request: DispatchRequest) -> TooLate | None:
        """None: nothing was sent, or nobody here can tell. Then the executor hears the no, before it sends anything."""
        self._outcomes.refresh()
        self._attempts.refresh()
        ended = {outcome.attempt_id: outcome for outcome in self._outcomes.records()}
        for attempt in self._attempts.records():
            if attempt.source_dispatch_id != request.dispatch_id or attempt.execution_mode != "dispatch":
                continue
            if (outcome := ended.get(attempt.attempt_id)) is not None:
                return TooLate(
                    f"its run {attempt.run_id} has ended: {outcome.outcome}",
                    "what was done stays done; moving back is a switch of its own",
                )
            if self._may_run(attempt.attempt_id):
                return TooLate(
                    f"its run {attempt.run_id} was sent to {attempt.runner_ref}",
                    f"cancel the run: `hyops run cancel {attempt.run_id}`",
                )
        return None

    def _may_run(self, attempt_id: str) -> bool:
        try:
            return self._maybe_sent(attempt_id)
        except PrerequisiteError:  # not for us to read: a no that may come in time is not turned away
            return False
