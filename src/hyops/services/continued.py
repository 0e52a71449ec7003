"""A run that failed after its promotion and went on: its second end is recorded beside the first (fault 27, INV-7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hyops.control.reconcile import answer_slot, proof
from hyops.errors import HyopsError, foreign
from hyops.evidence import journal
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.run import RunResult
from hyops.model.vocabulary import Outcome
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import Signer, Verifier
from hyops.ports.transport import RunnerTransport, RunReturn
from hyops.services.inbox import Inbox
from hyops.services.loop import log


def may_go_on(ends: Iterable[AttemptOutcome]) -> AttemptOutcome | None:
    """The failed end of an attempt that promoted, as long as nothing answers it; None when there is no such end."""
    told = list(ends)
    failed = [o for o in told if o.outcome is Outcome.FAILED and o.primary_after is not None and o.result]
    answered = {o.reconciles for o in told}
    return next((o for o in failed if o.outcome_id not in answered and o.reconciles is None), None)


def as_it_ended(outcome: AttemptOutcome, returned: RunReturn) -> RunReturn:
    """What came home for this very end: of a run that went on since, its first result and the journal up to it."""
    if not outcome.result or returned.result.journal_head == outcome.journal_head:
        return returned
    first = RunResult.of(outcome.result, source=f"outcome {outcome.outcome_id}")
    lines = journal.lines_of(returned.journal)[: first.journal_records]
    return replace(returned, result=first, journal=b"".join(line + b"\n" for line in lines))


class Continued:
    """Asks the runner of each service's newest failed switch whether it has succeeded by now."""

    def __init__(
        self, store: RecordStore, transport: RunnerTransport, signer: Signer, verifier: Verifier, clock: Clock
    ) -> None:
        self._store, self._transport, self._signer = store, transport, signer
        self._verifier, self._clock = verifier, clock

    async def collect(self, outcomes: Iterable[AttemptOutcome], attempts: Inbox[Attempt]) -> int:
        """Record every success that a runner proves; returns how many. A runner that is away is asked another time."""
        told, newest = list(outcomes), dict[str, int]()
        for outcome in told:
            newest[outcome.service] = max(newest.get(outcome.service, 0), outcome.generation_after or 0)
        found = 0
        for outcome in told:
            attempt = attempts.get(outcome.attempt_id)
            mine = [o for o in told if o.attempt_id == outcome.attempt_id]
            if attempt is None or may_go_on(mine) is not outcome or outcome.generation_after != newest[outcome.service]:
                continue
            try:
                with foreign():
                    found += await self._ask(attempt, outcome)
            except HyopsError as exc:
                log("continued run not collected", run_id=outcome.run_id, message=exc.message)
        return found

    async def _ask(self, attempt: Attempt, failed: AttemptOutcome) -> bool:
        async with self._transport.connect(attempt.runner_ref) as session:
            status = await session.status(attempt.run_id)
            if (status.state, status.outcome) != ("finished", str(Outcome.SUCCEEDED)):
                return False
            returned = await session.collect(attempt.run_id)
        closed = proof(attempt, failed, returned.result, self._verifier, self._clock.now())
        if isinstance(closed, str) or closed.outcome is not Outcome.SUCCEEDED:
            log("continued run not proved", run_id=attempt.run_id, message=str(closed)[:400])
            return False
        signed = sign_record(closed, self._signer)
        made = self._store.create(signed.outcome_id, signed.encoded(), slot=answer_slot(closed)).made
        log("continued run recorded", run_id=attempt.run_id, outcome_id=signed.outcome_id)
        return made
