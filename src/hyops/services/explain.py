"""The verified records of one decision, found by any of their ids, and where it stands (UX-2). It writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from hyops.control.claimed import claimed
from hyops.control.dispatch import held_up
from hyops.control.dispatch import slot_of as route_slot
from hyops.control.execution import attempt_id_of
from hyops.control.explain import Chain, Stand, stand_of
from hyops.control.mode import end_of, mode_of
from hyops.errors import UsageError
from hyops.model.approval import Approval
from hyops.model.base import Record
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.policy import ServicePolicy
from hyops.model.refusal import Refusal
from hyops.ports.records import RecordStore
from hyops.ports.signer import Verifier
from hyops.ports.starts import Hindrance
from hyops.services.inbox import Inbox, odd_slot, refuses, slot_for

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class ExplainStores:
    """What is read. `refusals`: stage -> its own."""

    decisions: RecordStore
    requests: RecordStore
    approvals: RecordStore
    executions: RecordStore
    attempts: RecordStore
    outcomes: RecordStore
    refusals: Mapping[str, RecordStore]


@dataclass(frozen=True)
class Circumstances:
    """What no record says: which stages run (None: nobody can tell), and what the executors remember."""

    serving: frozenset[str] | None
    dials: Collection[str]
    hindrance_of: Callable[[str], Hindrance | None]
    held: Callable[[Execution, DispatchRequest], str | None] = field(default=lambda _execution, _request: None)
    """Why nothing of an execution is sent now, as the executor judges it."""


@dataclass(frozen=True)
class Explained:
    """One decision, the ids of what followed, and where it stands."""

    chain: Chain
    stand: Stand

    def body(self) -> dict[str, Any]:
        """For programs."""
        one = self.chain
        names = {
            "decision_id": one.decision.decision_id,
            "dispatch_id": one.request.dispatch_id if one.request else None,
            "execution_id": one.execution.execution_id if one.execution else None,
            "attempt_id": one.attempt.attempt_id if one.attempt else None,
            "run_id": one.attempt.run_id if one.attempt else None,
            "outcome": str(one.outcome.outcome) if one.outcome else None,
        }
        return {**names, **asdict(self.stand)}


class _Read(Generic[R]):
    """All of one kind that verify, and why others do not."""

    def __init__(self, store: RecordStore, kind: type[R], verifier: Verifier, role: str | None, **how: bool) -> None:
        inbox = Inbox(store, kind, verifier, role=role, **how)
        inbox.refresh()
        self.records = inbox.records()
        self.faults = {bad.name: bad.reason for bad in [*inbox.rejected(), *inbox.torn()]}

    def unread(self, record_id: str) -> str | None:
        """Why the record with this id is not believed; None where there is none, or it is."""
        why = self.faults.get(record_id) or self.faults.get(f"{record_id}.json")
        return f"{record_id}: {why}" if why else None


class Explainer:
    """Everything read once, for any number of questions."""

    def __init__(
        self,
        stores: ExplainStores,
        policies: Mapping[str, ServicePolicy],
        generations: Mapping[str, int],
        around: Circumstances,
        verifier: Verifier,
    ) -> None:
        self._policies, self._generations, self._around = policies, generations, around
        self._decisions = _Read(stores.decisions, Decision, verifier, "decision", unsigned_allowed=True)
        self._requests = _Read(stores.requests, DispatchRequest, verifier, "dispatch")
        self._approvals = _Read(stores.approvals, Approval, verifier, None)
        self._executions = _Read(stores.executions, Execution, verifier, "approval")
        self._attempts = _Read(stores.attempts, Attempt, verifier, "execution")
        self._outcomes = _Read(stores.outcomes, AttemptOutcome, verifier, "execution")
        self._refusals = {
            stage: _Read(store, Refusal, verifier, stage).records for stage, store in stores.refusals.items()
        }

    def explain(self, wanted: str | None, now: datetime, surely: datetime | None = None) -> list[Explained]:
        """The decision that an id (or its end) belongs to; without one the newest of each service.

        `surely`: what has passed for certain, where that is not `now`.

        Raises:
            UsageError: there is not exactly one; or it is a record that is not believed, with the reason.
        """
        chosen = self._newest() if wanted is None else [self._found(wanted)]
        return [Explained(chain, stand_of(chain, now)) for chain in (self._chain(made, now, surely) for made in chosen)]

    def _newest(self) -> list[Decision]:
        dated = [one for one in self._decisions.records if one.timestamp_utc is not None]
        dated.sort(key=lambda one: (str(one.timestamp_utc), one.decision_id))
        return list({one.service: one for one in dated}.values())

    def _found(self, wanted: str) -> Decision:
        requests = {one.dispatch_id: one.source_decision_id for one in self._requests.records}
        named = {one.decision_id: one.decision_id for one in self._decisions.records} | requests
        for execution in self._executions.records:
            named[execution.execution_id] = requests.get(execution.source_dispatch_id, "")
        for attempt in self._attempts.records:
            named[attempt.attempt_id] = named[attempt.run_id] = requests.get(attempt.source_dispatch_id, "")
        ids = {decision_id for name, decision_id in named.items() if name.endswith(wanted)}
        found = [one for one in self._decisions.records if one.decision_id in ids]
        if len(found) == 1:
            return found[0]
        for read in (self._decisions, self._requests, self._executions, self._attempts):
            for name, why in read.faults.items():
                if name.endswith(wanted) and not found:
                    raise UsageError(f"{name} is not believed: {why}", hint="it changes nothing; ask for it again")
        raise UsageError(f"{len(found)} decisions have a record that ends with {wanted!r}", hint="see `hyops status`")

    def _chain(self, made: Decision, now: datetime, surely: datetime | None) -> Chain:
        request = next((r for r in self._requests.records if r.source_decision_id == made.decision_id), None)
        execution = self._of(
            self._executions.records, lambda e: request and e.source_dispatch_id == request.dispatch_id
        )
        tried = [a for a in self._attempts.records if execution and a.source_execution_id == execution.execution_id]
        attempt = max(tried, key=lambda one: one.execution_mode == "dispatch", default=None)
        spoken, unfit = self._spoken(request, now)
        attempt_id = attempt.attempt_id if attempt else attempt_id_of(execution, "dispatch") if execution else ""
        policy = self._policies.get(made.service or "")
        return Chain(
            made,
            request,
            execution,
            attempt,
            end_of(attempt_id, self._outcomes.records),
            refused=self._refused(made, request, execution),
            held_up=self._held_up(made),
            flooded=self._flooded(request),
            spoken=spoken,
            unfit=unfit,
            before_it=self._before(policy),
            hindrance=self._around.hindrance_of(attempt_id) if attempt else None,
            unread=self._attempts.unread(attempt_id) if attempt_id and not attempt else None,
            stuck=self._around.hindrance_of(execution.execution_id) if execution and not attempt else None,
            serving=self._around.serving,
            held=self._held(execution, request) if execution and request and not attempt else None,
            dialled=attempt_id in self._around.dials,
            surely=surely,
            rto_s=policy.rto_s if policy else None,
        )

    def _held(self, execution: Execution, request: DispatchRequest) -> str | None:
        return self._around.held(execution, request) or self._odd(execution)

    def _of(self, records: list[R], fits: Callable[[R], object]) -> R | None:
        return next((one for one in records if fits(one)), None)

    def _spoken(self, request: DispatchRequest | None, now: datetime) -> tuple[int, list[str]]:
        """How many people seem to say yes, by what the stage has not found unfit; and why that is unfit."""
        if request is None:
            return 0, []
        unfit = {
            one.subject_id: one.reason.removeprefix(f"{request.dispatch_id}: ")
            for one in self._refusals.get("approval", [])
            if one.subject_kind == "approval" and one.reason.startswith(f"{request.dispatch_id}: ")
        }
        people = claimed(request, self._approvals.records, unfit.keys(), now)
        return people, [f"{name} does not count: {why}" for name, why in sorted(unfit.items())]

    def _refused(self, made: Decision, request: DispatchRequest | None, execution: Execution | None) -> dict[str, str]:
        """By stage, why it is closed: not what held it up, nor what was said of other bytes under its name."""
        closed = [("dispatch", route_slot(made, "ignored")), ("dispatch", route_slot(made, "bad"))]
        if request is not None:
            closed.append(("approval", slot_for("closed", request.digest())))
        if execution is not None:
            closed.append(("execution", slot_for("closed", execution.digest())))
        return {
            stage: one.reason for stage, slot in closed for one in self._refusals.get(stage, []) if refuses(one, slot)
        }

    def _held_up(self, made: Decision) -> str | None:
        """What the dispatcher last said of a file in its way, when it left the decision open."""
        mine = held_up(made, "")
        said = [one for one in self._refusals.get("dispatch", []) if one.subject_kind in ("plan", "request")]
        found = [one for one in said if one.reason.startswith(mine)]
        last = max(found, key=lambda one: one.timestamp_utc, default=None)
        return last.reason.removeprefix(mine) if last else None

    def _flooded(self, request: DispatchRequest | None) -> str | None:
        """What the approval stage said of a request that it left open."""
        slots = [slot_for("flooded", request.digest()), odd_slot(request)] if request else []
        said = self._refusals.get("approval", [])
        return next((one.reason for one in said for slot in slots if refuses(one, slot)), None)

    def _odd(self, execution: Execution) -> str | None:
        """What the executor said of an execution that it left open."""
        slot = odd_slot(execution)
        return next((one.reason for one in self._refusals.get("execution", []) if refuses(one, slot)), None)

    def _before(self, policy: ServicePolicy | None) -> str | None:
        if policy is None:
            return None
        first = self._generations.get(policy.service, 1)
        mode = mode_of(policy, first, self._attempts.records, self._outcomes.records)
        return mode.uncertain or (f"behind {mode.open_attempt}, which is open" if mode.open_attempt else None)
