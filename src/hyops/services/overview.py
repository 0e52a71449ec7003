"""A service at a glance, from the records alone: where it is, what is open, how the last run ended (UX-2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from hyops.control.mode import mode_of
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.observed import Hold, Latch, Mode
from hyops.model.policy import ServicePolicy
from hyops.ports.records import RecordStore
from hyops.ports.signer import Verifier
from hyops.ports.starts import Hindrance
from hyops.services.answered import Answered
from hyops.services.holds import HoldBook
from hyops.services.inbox import Inbox
from hyops.services.queues import Queue
from hyops.services.standing import Standing


@dataclass(frozen=True)
class OpenRun:
    """The run under way: for how long, and what its service's objective allows (None: it names none)."""

    run_id: str
    since_s: float
    rto_s: float | None

    @property
    def overdue(self) -> bool:
        """Nobody ends it for that: a switch that is cut off half way is worse than a late one. People look."""
        return self.rto_s is not None and self.since_s > self.rto_s

    def body(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "overdue": self.overdue}


@dataclass(frozen=True)
class Overview:
    """One service."""

    service: str
    env: str
    mode: Mode
    last_decision: Decision | None
    waiting: list[DispatchRequest]
    break_glass: list[Execution]
    last_outcome: AttemptOutcome | None
    hold: Hold | None = None
    latch: Latch | None = None
    without_effect: dict[str, str] = field(default_factory=dict)
    """Records of holds that change nothing here, with why."""
    hindrance: Hindrance | None = None
    """Why the open attempt does not go on, as the last try to end it found."""
    open_run: OpenRun | None = None
    held_back: list[Execution] = field(default_factory=list)
    """What the loop decided by itself and was approved: nothing of it was sent, and nothing is before the hold ends."""

    def body(self) -> dict[str, Any]:
        """For programs."""
        return {
            "service": self.service,
            "env": self.env,
            "mode": self.mode.body(),
            "unserved": self.mode.unserved,
            "hold": self.hold.body() if self.hold else None,
            "latch": self.latch.body() if self.latch else None,
            "holds_without_effect": self.without_effect,
            "hindrance": self.hindrance.body() if self.hindrance else None,
            "open_run": self.open_run.body() if self.open_run else None,
            "last_decision": self.last_decision.body() if self.last_decision else None,
            "waiting": [request.dispatch_id for request in self.waiting],
            "held_back": [execution.execution_id for execution in self.held_back],
            "break_glass": [execution.execution_id for execution in self.break_glass],
            "last_outcome": self.last_outcome.body() if self.last_outcome else None,
        }


def mode_from(
    policy: ServicePolicy, generation: int, attempts: RecordStore, outcomes: RecordStore, verifier: Verifier
) -> Mode:
    """Where the service is, from verified records."""
    tried = Inbox(attempts, Attempt, verifier, role="execution")
    ended = Inbox(outcomes, AttemptOutcome, verifier, role="execution")
    tried.refresh()
    ended.refresh()
    return mode_of(policy, generation, tried.records(), ended.records())


def overview_of(
    policy: ServicePolicy,
    generation: int,
    *,
    decisions: RecordStore,
    requests: RecordStore,
    executions: RecordStore,
    attempts: RecordStore,
    outcomes: RecordStore,
    approvals: Queue,
    unsent: Queue,
    verifier: Verifier,
    now: datetime,
    holds: HoldBook,
    hindrance_of: Callable[[str], Hindrance | None] = lambda attempt_id: None,
) -> Overview:
    """Read everything about one service. `approvals`, `unsent`: the requests that wait for theirs, and the executions
    that no attempt was recorded for, of any service.
    """
    decided = Inbox(decisions, Decision, verifier, role="decision", unsigned_allowed=True)
    asked = Inbox(requests, DispatchRequest, verifier, role="dispatch")
    approved = Inbox(executions, Execution, verifier, role="approval")
    ended = Inbox(outcomes, AttemptOutcome, verifier, role="execution")
    for inbox in (decided, asked, approved, ended):
        inbox.refresh()
    service, waiting = policy.service, {one.record_id for one in approvals.waiting(now)}
    mode = mode_from(policy, generation, attempts, outcomes, verifier)
    holds.refresh()
    hold, left = holds.hold_now(), {one.record_id for one in unsent.waiting(now)}
    unsent_here = [e for e in approved.records() if e.service == service and e.record_id in left]
    return Overview(
        service=service,
        env=policy.env,
        mode=mode,
        last_decision=_newest([d for d in decided.records() if d.service == service and d.timestamp_utc]),
        waiting=[r for r in asked.records() if r.service == service and r.record_id in waiting],
        break_glass=[e for e in approved.records() if e.service == service and e.approval.mode == "break-glass"],
        last_outcome=_newest([o for o in ended.records() if o.service == service]),
        hold=hold,
        latch=latch_from(
            policy,
            generation,
            decisions=decisions,
            attempts=attempts,
            outcomes=outcomes,
            verifier=verifier,
            acknowledged=holds.acknowledged,
        ),
        without_effect={name: why for name, why in holds.without_effect.items() if name not in holds.over},
        hindrance=hindrance_of(mode.open_attempt) if mode.open_attempt else None,
        open_run=_open_run(policy, mode, attempts, verifier, now),
        held_back=_held_back(mode, unsent_here, asked, decided) if hold else [],
    )


def _held_back(
    mode: Mode,
    approved: list[Execution],
    asked: Inbox[DispatchRequest],
    decided: Inbox[Decision],
) -> list[Execution]:
    """Those of this generation that no person asked for."""
    found = []
    for execution in approved:
        request = asked.get(execution.source_dispatch_id)
        decision = decided.get(request.source_decision_id) if request else None
        if decision is not None and decision.requested_by is None and execution.generation == mode.generation:
            found.append(execution)
    return found


def _open_run(
    policy: ServicePolicy, mode: Mode, attempts: RecordStore, verifier: Verifier, now: datetime
) -> OpenRun | None:
    tried = Inbox(attempts, Attempt, verifier, role="execution")
    tried.refresh()
    attempt = tried.get(mode.open_attempt) if mode.open_attempt else None
    if attempt is None:
        return None
    return OpenRun(attempt.run_id, round((now - attempt.timestamp_utc).total_seconds(), 3), policy.rto_s)


def latch_from(
    policy: ServicePolicy,
    generation: int,
    *,
    decisions: RecordStore,
    attempts: RecordStore,
    outcomes: RecordStore,
    verifier: Verifier,
    acknowledged: Mapping[int, datetime],
) -> Latch | None:
    """The latch that stands, from verified records; None also where the policy has none."""
    if policy.latch is False:
        return None
    decided = Inbox(decisions, Decision, verifier, role="decision", unsigned_allowed=True)
    tried = Inbox(attempts, Attempt, verifier, role="execution")
    ended = Inbox(outcomes, AttemptOutcome, verifier, role="execution")
    decided.refresh()
    standing = Standing(tried, ended)
    standing.refresh()
    answered = Answered(policy.service, decided, standing)
    answered.refresh()
    return answered.latch(mode_of(policy, generation, tried.records(), ended.records()), acknowledged)


def _newest(records: list[Any]) -> Any:
    return max(records, key=lambda record: record.timestamp_utc, default=None)
