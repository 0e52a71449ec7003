"""The notifier: reads the stages' records and has people told; no stage waits for it, and it answers nothing (UX-4).

It writes its own marks only. What it tells derives from the records, so that a restart finds what is still untold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hyops.control import notices
from hyops.control.approval import slot_of
from hyops.errors import RecordError
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.notify import Notice
from hyops.model.observed import DecisionInputs
from hyops.model.refusal import Refusal
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import Verifier
from hyops.services.inbox import Inbox
from hyops.services.loop import RESCAN_S, run_stage
from hyops.services.notify_sending import Sender


class NotifyStage:
    """Reads `decisions requests refusals executions attempts outcomes`; offers to senders."""

    def __init__(
        self,
        senders: Sequence[Sender],
        *,
        decisions: RecordStore,
        inputs: RecordStore,
        requests: RecordStore,
        refusals: RecordStore,
        executions: RecordStore,
        attempts: RecordStore,
        outcomes: RecordStore,
        verifier: Verifier,
        clock: Clock,
        expires_soon_s: float,
        open_run_s: float,
    ) -> None:
        self.senders = senders
        self._decisions = Inbox(decisions, Decision, verifier, role="decision", unsigned_allowed=True)
        self._requests = Inbox(requests, DispatchRequest, verifier, role="dispatch")
        self._refusals = Inbox(refusals, Refusal, verifier, role="approval")
        self._executions = Inbox(executions, Execution, verifier, role="approval")
        self._attempts = Inbox(attempts, Attempt, verifier, role="execution")
        self._outcomes = Inbox(outcomes, AttemptOutcome, verifier, role="execution")
        self._inputs, self._executed = inputs, executions
        self._clock, self._soon_s, self._open_run_s = clock, expires_soon_s, open_run_s
        self._closed: set[str] = set()
        self._ended: set[str] = set()

    @property
    def stores(self) -> list[RecordStore]:
        """Whose changes wake it."""
        inboxes = (self._decisions, self._requests, self._refusals, self._executions, self._attempts, self._outcomes)
        return [inbox.store for inbox in inboxes]

    async def step(self, slow: bool = False) -> None:
        """Offer what is new, and what time has made news."""
        for inbox in (
            self._decisions,
            self._requests,
            self._refusals,
            self._executions,
            self._attempts,
            self._outcomes,
        ):
            inbox.refresh()
        self._ends()
        self._open()
        for letter in self._decisions.open_letters():
            self._offer(notices.of_decision(letter.record))
            self._decisions.settle(letter.name)

    def _ends(self) -> None:
        """What closes something, before what is still open is looked at."""
        for said in self._refusals.open_letters():
            request = self._requests.get(said.record.subject_id)
            self._refusals.settle(said.name)
            found = list(notices.of_refusal(said.record, request))
            self._offer(found)
            if request is not None and any(notice.event in ("rejected", "expired") for notice in found):
                self._close(request)
        for made in self._executions.open_letters():
            self._executions.settle(made.name)
            self._offer(notices.of_execution(made.record))
        for ended in self._outcomes.open_letters():
            self._outcomes.settle(ended.name)
            self._ended.add(ended.record.attempt_id)
            self._offer(notices.of_outcome(ended.record))

    def _open(self) -> None:
        now = self._clock.now()
        for letter in self._requests.open_letters():
            request = letter.record
            self._offer(notices.of_denied(request))
            if request.dispatch_id in self._closed or self._executed.slot(slot_of(request)) is not None:
                self._close(request)
                continue
            found = list(notices.of_open_request(request, now, self._soon_s))
            self._offer(found)
            if not found:
                self._close(request)
        for run in self._attempts.open_letters():
            attempt = run.record
            if attempt.attempt_id in self._ended or attempt.execution_mode != "dispatch":
                self._attempts.settle(run.name)
                continue
            self._offer(notices.of_open_attempt(attempt, now, self._limit_s(attempt)))

    def _close(self, request: DispatchRequest) -> None:
        self._closed.add(request.dispatch_id)
        self._requests.settle(request.dispatch_id)
        for sender in self.senders:
            sender.overtake(request.dispatch_id)

    def _limit_s(self, attempt: Attempt) -> float:
        """The policy's `rto_s`, as it stands in what the decision was computed from; else what the file says."""
        request = self._requests.get(attempt.source_dispatch_id)
        decision = self._decisions.get(request.source_decision_id) if request else None
        if decision is None or decision.inputs_digest is None:
            return self._open_run_s
        name = decision.inputs_digest.removeprefix("sha256:")
        try:
            rto_s = DecisionInputs.read(self._inputs.read(name), source=name).policy.rto_s
        except (KeyError, RecordError):
            return self._open_run_s
        return self._open_run_s if rto_s is None else rto_s

    def _offer(self, found: Iterable[Notice]) -> None:
        for notice in found:
            for sender in self.senders:
                sender.offer(notice)


async def run(stage: NotifyStage, rescan_s: float = RESCAN_S) -> None:
    """Serve until told to stop."""
    sending = [sender.run for sender in stage.senders]
    await run_stage(stage.step, stage.stores, name="notify", others=sending, rescan_s=rescan_s)
