"""Evidence that a crash, a full disk or a runner that was away left to be made (INV-7, EVD-1)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hyops.errors import DeadlineError, HostKeyError, HyopsError, RunnerUnreachableError, foreign
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.ports.starts import Starts
from hyops.ports.transport import RunnerTransport
from hyops.services.continued import as_it_ended
from hyops.services.execution_parts import ClosedHook
from hyops.services.inbox import Inbox
from hyops.services.loop import log
from hyops.services.returning import ReturnedStates


class Finisher:
    """Calls the hook for every outcome that it has not borne out yet; what the runner returned is fetched again."""

    def __init__(
        self,
        hook: ClosedHook | None,
        transport: RunnerTransport,
        starts: Starts,
        states: ReturnedStates | None = None,
    ) -> None:
        self._hook, self._transport, self._starts, self._states = hook, transport, starts, states
        self._finished: set[str] = set()

    async def finish(self, outcomes: Iterable[AttemptOutcome], attempts: Inbox[Attempt]) -> int:
        """Returns how many are left for a later call.

        One that fails is logged and holds up no other. One whose attempt is being dialled is left to who does that.
        """
        if (hook := self._hook) is None and self._states is None:
            return 0
        left, away = 0, set[str]()
        for outcome in outcomes:
            attempt = attempts.get(outcome.attempt_id)
            if attempt is None or outcome.outcome_id in self._finished:
                continue
            try:
                with foreign():
                    finished = await self._finish(hook, attempt, outcome, away)
            except HyopsError as exc:
                finished = False
                log("evidence not finished", outcome_id=outcome.outcome_id, run_id=outcome.run_id, message=exc.message)
            if finished:
                self._finished.add(outcome.outcome_id)
            else:
                left += 1
        return left

    async def _finish(self, hook: ClosedHook | None, attempt: Attempt, outcome: AttemptOutcome, away: set[str]) -> bool:
        """Whether the evidence of one outcome is there; runners in `away` did not answer this time and are let be."""
        if hook is not None and hook.done(outcome):
            return True  # evidence holds what became of the states, so they came before it
        if self._states is not None:
            await asyncio.to_thread(self._states.take, outcome)
        if hook is None:
            return True
        returned = None
        with self._starts.dialling(attempt.attempt_id) as mine:
            if not mine or attempt.runner_ref in away:
                return False
            if outcome.result and self._starts.maybe_sent(attempt.attempt_id):
                try:
                    async with self._transport.connect(attempt.runner_ref) as session:
                        returned = as_it_ended(outcome, await session.collect(attempt.run_id))
                except (RunnerUnreachableError, DeadlineError, HostKeyError):
                    away.add(attempt.runner_ref)
                    raise
            await hook.closed(attempt, outcome, returned)
        return True
