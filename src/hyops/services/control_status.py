"""What a loop is doing, for people: who serves, who dials, what waits in which queue, and why (LOOP-3, UX-2).

Records are read as they are, without their signatures: this looks, and nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from hyops.control.approval import slot_of
from hyops.control.execution import attempt_id_of
from hyops.errors import RecordError
from hyops.model.base import Record
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.refusal import Refusal
from hyops.model.vocabulary import RequestStatus
from hyops.ports.records import RecordStore
from hyops.ports.starts import Hindrance

R = TypeVar("R", bound=Record)
WAITS = (RequestStatus.AWAITING_APPROVAL, RequestStatus.QUEUED)


@dataclass(frozen=True)
class Waiting:
    """A record that nothing answers yet."""

    record_id: str
    age_s: float
    why: str


@dataclass(frozen=True)
class Queue:
    """What waits for one stage; `oldest` is None where nothing does."""

    stage: str
    length: int
    oldest: Waiting | None


@dataclass(frozen=True)
class Member:
    """One member of the quorum; `why` it does not answer, or what it says it is."""

    endpoint: str
    answers: bool
    latency_ms: float
    why: str


@dataclass(frozen=True)
class ControlStatus:
    """A whole loop. Without a quorum, only its members are known."""

    place: str
    members: list[Member] = field(default_factory=list)
    lost: str | None = None
    latency_ms: float | None = None
    revision: int | None = None
    epoch: int | None = None
    foreign: bool = False
    serving: list[dict[str, Any]] | None = field(default_factory=list)
    """None: not known."""
    dials: dict[str, dict[str, Any]] = field(default_factory=dict)
    queues: list[Queue] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """What people may look for here, and why it is not known."""

    def body(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class LoopStores:
    """What is looked at."""

    decisions: RecordStore
    requests: RecordStore
    executions: RecordStore
    attempts: RecordStore
    outcomes: RecordStore
    refusals: list[RecordStore]


def queues_of(
    stores: LoopStores, now: datetime, hindrance_of: Callable[[str], Hindrance | None], dials: dict[str, Any]
) -> list[Queue]:
    """What waits for the dispatcher, for people, for the executor, and for runners; the oldest with its reason."""
    refused = {refusal.subject_id for store in stores.refusals for refusal in _all(store, Refusal)}
    requests, executions = _all(stores.requests, DispatchRequest), _all(stores.executions, Execution)
    attempts, outcomes = _all(stores.attempts, Attempt), _all(stores.outcomes, AttemptOutcome)
    asked = {request.source_decision_id for request in requests}
    ended = {outcome.attempt_id for outcome in outcomes}
    tried = {attempt.attempt_id for attempt in attempts}

    decided = [
        (one.decision_id, one.timestamp_utc, "no request yet")
        for one in _all(stores.decisions, Decision)
        if one.decision_id not in asked | refused and not _over(one.expires_at, now)
    ]
    approving = [
        (one.dispatch_id, one.timestamp_utc, "awaiting approval" if one.requires_approval else "no execution yet")
        for one in requests
        if one.status in WAITS and not _over(one.expires_at, now) and one.dispatch_id not in refused
        if stores.executions.slot(slot_of(one)) is None
    ]
    queued = [
        (one.execution_id, one.timestamp_utc, f"queued for {one.runner_ref}")
        for one in executions
        if not {attempt_id_of(one, "dispatch"), attempt_id_of(one, "dry-run")} & tried
        if one.execution_id not in refused
    ]
    running = [
        (one.attempt_id, one.timestamp_utc, _why(one, hindrance_of, dials))
        for one in attempts
        if one.execution_mode == "dispatch" and one.attempt_id not in ended
    ]
    waits: Mapping[str, Sequence[tuple[str, datetime | None, str]]]
    waits = {"dispatch": decided, "approval": approving, "execution": queued, "runners": running}
    return [_queue(stage, found, now) for stage, found in waits.items()]


def _why(attempt: Attempt, hindrance_of: Callable[[str], Hindrance | None], dials: dict[str, Any]) -> str:
    if (by := hindrance_of(attempt.attempt_id)) is not None:
        return f"{by.word}: {by.message}"
    who = dials.get(attempt.attempt_id)
    return f"run open on {attempt.runner_ref}" + (f", followed by {who['host']}" if who else ", followed by nobody")


def _queue(stage: str, found: Sequence[tuple[str, datetime | None, str]], now: datetime) -> Queue:
    dated = sorted((at, name, why) for name, at, why in found if at is not None)
    oldest = Waiting(dated[0][1], round((now - dated[0][0]).total_seconds(), 1), dated[0][2]) if dated else None
    return Queue(stage, len(found), oldest)


def _over(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is not None and expires_at <= now


def _all(store: RecordStore, kind: type[R]) -> list[R]:
    found = []
    for name in store.ids():
        try:
            found.append(kind.read(store.read(name), source=name))
        except (KeyError, RecordError):
            continue  # the stage that reads it says so
    return found
