"""The executor: an approved execution becomes one run on its runner, followed to one outcome (EXE-1 to EXE-3).

The attempt and the mark "a start may have been sent" are on disk before the runner is asked. A lost link is tried
again for ever; the runner's signed result closes the attempt, and nothing else does once a start may have been sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext

from hyops.control.execution import (
    Action,
    Done,
    ExecutionMode,
    Follow,
    Record,
    Refuse,
    Seen,
    Wait,
    attempt_id_of,
    next_action,
    outcome_id_of,
)
from hyops.control.giving_way import superseded
from hyops.control.mode import mode_of
from hyops.control.queue import OTHER, Rank, rank_of
from hyops.control.runspec import run_spec
from hyops.errors import (
    HyopsError,
    MissingRecordError,
    RecordError,
    RefusedError,
    RunnerBusyError,
    StoreLostError,
    UnsafePlanError,
    foreign,
    unforeseen,
)
from hyops.model.approval import Approval
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome, Execution, outcome_slot
from hyops.model.plan import Plan
from hyops.model.policy import ServicePolicy
from hyops.model.run import RunSpec
from hyops.model.vocabulary import DecisionType
from hyops.ports.clock import Clock
from hyops.ports.signer import ApprovalVerifier, Signer, Verifier
from hyops.ports.starts import Starts
from hyops.ports.transport import RunEvent, RunnerTransport, RunReturn
from hyops.services.continued import Continued
from hyops.services.dialling import Dialler
from hyops.services.execution_parts import Bundles, ClosedHook, ExecutionStores
from hyops.services.finishing import Finisher
from hyops.services.holds import HoldBook
from hyops.services.inbox import Inbox, Refusals, odd_slot
from hyops.services.last_look import LastLook
from hyops.services.loop import log
from hyops.services.returning import ReturnedStates
from hyops.services.settling import AT_WORK, Settling
from hyops.services.standing import Standing


class ExecutionStage:
    """One executor. Several may run on one set of stores: records and dial locks make them agree."""

    def __init__(
        self,
        stores: ExecutionStores,
        *,
        policies: Mapping[str, ServicePolicy],
        initial_generations: Mapping[str, int],
        transport: RunnerTransport,
        starts: Starts,
        signer: Signer,
        verifier: Verifier,
        clock: Clock,
        states: ReturnedStates | None = None,
        mode: ExecutionMode = "dry-run",
        bundles: Bundles | None = None,
        hook: ClosedHook | None = None,
        on_event: Callable[[Attempt, RunEvent], None] | None = None,
        claimed: Collection[str] = (),
        people: ApprovalVerifier | None = None,
        holds: Mapping[str, HoldBook] | None = None,
    ) -> None:
        """`claimed`: decisions whose dial lock this process holds, so that no other executor dials for them.

        With any, this executor works for them alone. `people`, `holds`: see `LastLook`.
        """
        self._claimed, self._bundles = claimed, bundles or Bundles()
        self._stores, self._policies, self._generations = stores, policies, initial_generations
        self._starts, self._mode, self._signer, self._clock, self._hook = starts, mode, signer, clock, hook
        self._dialler = Dialler(
            transport,
            starts,
            self.spec_of,
            self._yields_now,
            verifier=verifier,
            clock=clock,
            bundles=self._bundles,
            on_event=on_event,
        )
        self._continued = Continued(stores.outcomes, transport, signer, verifier, clock)
        self._states = states
        self._finisher = Finisher(hook, transport, starts, states)
        self._executions = Inbox(stores.executions, Execution, verifier, role="approval")
        self._requests = Inbox(stores.requests, DispatchRequest, verifier, role="dispatch")
        self._decisions = Inbox(stores.decisions, Decision, verifier, role="decision", unsigned_allowed=True)
        self._attempts = Inbox(stores.attempts, Attempt, verifier, role="execution")
        self._outcomes = Inbox(stores.outcomes, AttemptOutcome, verifier, role="execution")
        self._approvals = Inbox(stores.approvals, Approval, verifier, role=None)
        self._last_look = LastLook(self._approvals, self._decisions, people=people, holds=holds or {}, clock=clock)
        self._refusals = Refusals(stores.refusals, signer, "execution")
        self._standing = Standing(self._attempts, self._outcomes)
        self._settling = Settling(stores, self._refusals, starts, clock, self._standing)
        self._closed_count: dict[str, int] = {}
        self._taken: dict[str, str] = {}
        self._stuck: list[HyopsError] = []

    def look(self) -> None:
        """Read what is new."""
        for inbox in (self._executions, self._requests, self._decisions, self._approvals):
            inbox.refresh()
        self._standing.refresh()

    async def step(self, slow: bool = False) -> list[Attempt]:
        """Do what is to be done without the network; returns the attempts to dial for.

        An execution that goes wrong holds up no other: it stays open, and `refuse_stuck` says what this host cannot do
        now. What nobody foresaw is recorded once as its refusal: what it rests on may be the cause, and be mended.
        """
        self._clock.surely()  # a step is seen when it is made, not when something comes
        self.look()
        self._stuck.clear()
        self._settling.begin([] if self._claimed else self._stuck)  # the daemon tells of others
        to_dial = []
        waiting = self._executions.open_letters()
        for letter in sorted(waiting, key=lambda letter: rank_of(letter.record, started=False)):
            execution = letter.record
            if self._claimed and self._decision_of(execution.source_dispatch_id) not in self._claimed:
                continue
            try:
                with foreign():
                    attempt = self._act(execution)
            except StoreLostError:
                raise
            except HyopsError as exc:
                self._set_aside(execution, exc)
                continue
            if attempt is not None:
                to_dial.append(attempt)
        self._settling.note_rejected(self._executions)
        if slow:
            self._settling.note_unbelieved(self._attempts, self._outcomes)
        return to_dial

    def refuse_stuck(self) -> None:
        """Return when the last step could do all that was to be done; else raise the first thing that went wrong."""
        if self._stuck:
            raise self._stuck[0]

    def _set_aside(self, execution: Execution, exc: HyopsError) -> None:
        odd, why = unforeseen(exc), " ".join(exc.message.split())
        if odd or isinstance(exc, RecordError):
            said = f"it waits, for it cannot be judged: {why}"
            self._settling.note(odd_slot(execution), "execution", execution.execution_id, execution.digest(), said)
        if not odd or self._claimed:  # who works for one alone is told of it
            self._stuck.append(exc)
            return
        over = self._clock.surely() >= execution.expires_at
        if over and self._settling.closes_now(execution, f"expired, and it could not be judged: {why}"):
            self._settle(execution)

    def _act(self, execution: Execution) -> Attempt | None:
        """Do the one thing that is to be done for it; returns the attempt to dial for."""
        action = self._next(execution)
        self._settling.tell(execution, action if isinstance(action, Wait) else None)
        if isinstance(action, Done):
            self._settle(execution)
        return action.attempt if isinstance(action, Follow) else None

    def _settle(self, execution: Execution) -> None:
        self._settling.forget(execution)
        self._executions.settle(execution.execution_id)

    def _next(self, execution: Execution) -> Follow | Wait | Done:
        """Settle it as far as that can be done now."""
        if (attempt_id := attempt_id_of(execution, "dispatch")) in self._standing.closed:
            if self._attempts.get(attempt_id) is None:
                self._settling.in_the_way(execution, attempt_id)  # over all the same, and the file is named
            return Done()
        if execution.service not in self._policies:
            return self._settling.without_policy(execution)
        action: Action = next_action(seen := self._seen(execution))
        if isinstance(action, Record):
            action = self._record(execution, action)
        if isinstance(action, Refuse):
            closed = self._settling.refuse(execution, action.reason)
            action = Done() if closed else self._settling.instead(execution, attempt_id)
        if isinstance(action, Wait) and seen.attempt is None and self._settling.closed(execution):
            return Done()
        assert isinstance(action, Follow | Wait | Done)
        return action

    def _seen(self, execution: Execution) -> Seen:
        attempt = self._attempts.get(attempt_id_of(execution, self._mode))
        outcome = self._outcomes.get(outcome_id_of(attempt)) if attempt else None
        count = self._closed_count.get(execution.service, 0)
        while self._stores.attempts.known(f"{execution.service}-active-{count + 1}") in self._standing.closed:
            count += 1
        self._closed_count[execution.service] = count
        policy, telling = self._policies[execution.service], self._standing.telling(execution.service)
        mode = mode_of(policy, self._generations.get(execution.service, 1), *telling)
        proved = mode_of(policy, 0, *telling).generation
        yields, held = self._yields(execution), None
        if attempt is None and yields is None and (request := self._requests.get(execution.source_dispatch_id)):
            held = self._last_look.wait(execution, request)
        now, sure = self._clock.now(), self._clock.surely()
        return Seen(execution, self._mode, now, mode, count, proved, attempt, outcome, yields, held, sure)

    def _superseded(self, execution: Execution) -> str | None:
        request = self._requests.get(execution.source_dispatch_id)
        return superseded(request, (letter.record for letter in self._requests.letters())) if request else None

    def _yields(self, execution: Execution) -> str | None:
        request = self._requests.get(execution.source_dispatch_id)
        return self._superseded(execution) or (self._last_look.no(execution, request) if request else None)

    def _yields_now(self, execution: Execution) -> str | None:
        if execution.decision_type is DecisionType.BURST:
            self._requests.refresh()
        self._approvals.refresh()
        yields, request = self._superseded(execution), self._requests.get(execution.source_dispatch_id)
        if yields is None and request is not None:
            self._last_look.refuse(execution, request)
        return yields

    def gives_way(self, attempt: Attempt) -> bool:
        """Whether an open attempt of which nothing was ever sent is to be closed, room on its runner or not."""
        execution = self._executions.get(attempt.source_execution_id)
        yields = execution is not None and self._yields(execution) is not None
        return yields and not self._starts.maybe_sent(attempt.attempt_id)

    def _record(self, execution: Execution, action: Record) -> Follow | Refuse | Wait | Done:
        if self._mode == "dispatch":
            try:
                self.spec_of(execution, epoch=1, run_id=action.attempt.run_id)
            except MissingRecordError as exc:
                return Wait(exc.message, exc.hint)
            except RefusedError as exc:
                return Refuse(exc.message)
        attempt = sign_record(action.attempt, self._signer)
        try:
            made = self._settling.attempt(execution, attempt, action.slot)
        except RecordError:
            return self._settling.instead(execution, attempt.attempt_id)
        if made is None:
            return AT_WORK
        self._standing.refresh()
        if made.made:
            log("attempt recorded", attempt_id=attempt.attempt_id, run_id=attempt.run_id, mode=self._mode)
        stands = self._attempts.get(attempt.attempt_id)
        if stands is None:
            return self._settling.behind(execution, attempt.attempt_id, made.record_id, action.slot)
        return Follow(stands) if self._mode == "dispatch" else Done()

    def spec_of(self, execution: Execution, *, epoch: int, run_id: str) -> RunSpec:
        """What the runner gets; UnsafePlanError when the records do not hold together."""
        request = self._requests.get(execution.source_dispatch_id)
        decision = self._decisions.get(request.source_decision_id) if request else None
        name = execution.plan_digest.removeprefix("sha256:")
        try:
            plan = Plan.read(self._stores.plans.read(name), source=f"plan {name}")
        except (KeyError, RecordError):
            plan = None
        approvals = [self._approvals.get(approval_id) for approval_id in execution.approval.record_ids]
        return run_spec(
            execution, request, decision, plan, approvals, epoch=epoch, run_id=run_id, keep=self._bundles.keep
        )

    def rank(self, attempt: Attempt) -> Rank:
        """Its place in its runner's queue."""
        execution = self._executions.get(attempt.source_execution_id)
        started = self._starts.maybe_sent(attempt.attempt_id)
        return rank_of(execution, started=started) if execution else Rank(OTHER, attempt.timestamp_utc, "")

    def queued(self, attempt: Attempt, ahead: int) -> None:
        """Tell people that it waits for room."""
        self._dialler.hindered(attempt, RunnerBusyError(f"{attempt.runner_ref} has no room yet: {ahead} go before it"))

    def expires_in_s(self, attempt: Attempt) -> float:
        """How long it may still be started; 0 when its execution is gone."""
        execution = self._executions.get(attempt.source_execution_id)
        return 0.0 if execution is None else (execution.expires_at - self._clock.surely()).total_seconds()

    async def dial(self, attempt: Attempt) -> bool:
        """One try to bring an attempt to its end; True when it is closed (by whomever)."""
        with self._free(attempt) as free, self._starts.dialling(attempt.attempt_id) as mine:
            self._standing.refresh()
            closed = self._outcomes.get(outcome_id_of(attempt))
            if closed is not None:
                return True
            if free and mine:
                self._taken.pop(attempt.attempt_id, None)
                return await self._dial(attempt)
            decision_id = self._decision_of(attempt.source_dispatch_id)
            self._taken[attempt.attempt_id] = attempt.attempt_id if free or decision_id is None else decision_id
            return False

    async def turn(self, attempt: Attempt) -> bool:
        """Wait until whoever dialled when `dial` was last called has ended, alive or dead; False: nobody did."""
        if (taken := self._taken.get(attempt.attempt_id)) is None:
            return False
        await self._starts.freed(taken)
        return True

    def _free(self, attempt: Attempt) -> AbstractContextManager[bool]:
        """Whether nobody else deploys this decision: whoever does has the secrets, and dials himself."""
        decision_id = self._decision_of(attempt.source_dispatch_id)
        if decision_id is None or decision_id in self._claimed:
            return nullcontext(True)
        return self._starts.dialling(decision_id)

    def _decision_of(self, dispatch_id: str) -> str | None:
        request = self._requests.get(dispatch_id)
        return None if request is None else request.source_decision_id

    async def _dial(self, attempt: Attempt) -> bool:
        execution = self._executions.get(attempt.source_execution_id)
        if execution is None or execution.digest() != attempt.source_execution_digest:
            raise UnsafePlanError(f"execution {attempt.source_execution_id} of {attempt.attempt_id} is gone or changed")
        ended = await self._dialler.dial(attempt, execution)
        if ended is not None:
            await self._close(attempt, *ended)
        return ended is not None

    async def _close(self, attempt: Attempt, outcome: AttemptOutcome, returned: RunReturn | None) -> None:
        signed = sign_record(outcome, self._signer)
        slot = outcome_slot(attempt.attempt_id)
        self._starts.create(attempt.attempt_id, self._stores.outcomes, signed.outcome_id, signed.encoded(), slot=slot)
        self._settling.unnote(attempt.source_execution_id)
        self._standing.refresh()
        stands = self._outcomes.get(outcome.outcome_id)
        log("attempt closed", attempt_id=attempt.attempt_id, run_id=attempt.run_id, outcome=outcome.outcome)
        if self._states is not None and stands is not None:
            await asyncio.to_thread(self._states.take, stands)
        if self._hook is not None and stands is not None:
            await self._hook.closed(attempt, stands, returned)

    async def finish_hooks(self) -> int:
        """Make the evidence that is still to be made; returns how much is left for a later call.

        A switch that failed after its promotion may have gone on meanwhile: that end is recorded first.
        """
        if await self._continued.collect(self._outcomes.records(), self._attempts):
            self._standing.refresh()
        return await self._finisher.finish(self._outcomes.records(), self._attempts)
