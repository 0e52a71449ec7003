"""CI's side of a recovery: the records of one request, its approvals judged, and what came of it (RUN-12).

Everything is read from the control host's folders or from files that were handed over; nothing is dialled or written
there. Approvals are judged by the rule of the approval stage itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from hyops.control.approval import Verdict, judge
from hyops.control.gate import Case
from hyops.control.hearing import Unfit, hear
from hyops.errors import HyopsError, NotApprovedError, PrerequisiteError, RecordError
from hyops.evidence.chain import FILE
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.base import Part, Record
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.plan import Plan
from hyops.model.refusal import Refusal
from hyops.ports.records import RecordStore
from hyops.ports.signer import ApprovalVerifier, Verifier
from hyops.services.inbox import Inbox

P = TypeVar("P", bound=Part)
R = TypeVar("R", bound=Record)
T = TypeVar("T")
BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True)
class LoopStores:
    """What the four stages wrote, to be read; `evidence` is the folder of bundles by run id."""

    decisions: RecordStore
    requests: RecordStore
    plans: RecordStore
    approvals: RecordStore
    approval_refusals: RecordStore
    executions: RecordStore
    attempts: RecordStore
    outcomes: RecordStore
    execution_refusals: RecordStore
    evidence: Path


@dataclass(frozen=True)
class CaseFiles:
    """The same as files that somebody handed over."""

    decision: Path
    request: Path
    plan: Path
    approvals: tuple[Path, ...] = ()


def request_from_store(stores: LoopStores, dispatch_id: str) -> DispatchRequest:
    """The request alone, whatever has become of it; PrerequisiteError when there is none."""
    request = _stored(stores.requests, dispatch_id, DispatchRequest)
    if request.dispatch_id != dispatch_id:
        raise RecordError(f"{dispatch_id} is a copy of {request.dispatch_id}")
    return request


def case_from_store(stores: LoopStores, dispatch_id: str) -> Case:
    """One request with all that belongs to it.

    Raises:
        PrerequisiteError: there is no such request, or its decision or plan is gone. RecordError: one is damaged.
    """
    request = request_from_store(stores, dispatch_id)
    if request.plan_digest is None:
        raise PrerequisiteError(f"{dispatch_id} names no plan: nothing can be run from it")
    approvals, unfit = _approvals(stores.approvals, dispatch_id)
    return Case(
        decision=_stored(stores.decisions, request.source_decision_id, Decision),
        request=request,
        plan=_stored(stores.plans, request.plan_digest.removeprefix("sha256:"), Plan),
        approvals=tuple(approvals),
        unfit=tuple(unfit),
    )


def request_from_file(path: Path) -> DispatchRequest:
    """The request alone as a file."""
    return _file(path, DispatchRequest)


def case_from_files(files: CaseFiles) -> Case:
    """The records as files. What was not handed over cannot be seen: a rejection that is left out does not count.

    Raises:
        PrerequisiteError: a file cannot be read. RecordError: one is damaged.
    """
    return Case(
        decision=_file(files.decision, Decision),
        request=_file(files.request, DispatchRequest),
        plan=_file(files.plan, Plan),
        approvals=tuple(_file(path, Approval) for path in files.approvals),
    )


def judged(case: Case, policy: ApprovalPolicy, verifier: ApprovalVerifier, now: datetime) -> Verdict:
    """Where the request stands, by the approval stage's own rule."""
    verdict = judge(case.request, hear(case.request, case.approvals, verifier, policy, now), policy, now)
    return Verdict(verdict.state, verdict.reason, verdict.summary, verdict.expires_at, (*case.unfit, *verdict.unfit))


def bundle_of(stores: LoopStores, dispatch_id: str, verifier: Verifier) -> Path | None:
    """The evidence of a request's run; None while there is none yet.

    Raises:
        NotApprovedError: a stage refused it, so there never will be any. PrerequisiteError: the executor only
        rehearses.
    """
    if mine := attempts_of(stores, dispatch_id, verifier):
        if mine[-1].status == "dry-run-ready":
            raise PrerequisiteError(f"{mine[-1].attempt_id}: the executor is in dry-run mode, so nothing ran")
        bundle = stores.evidence / mine[-1].run_id
        try:
            return bundle if (bundle / FILE).is_file() else None
        except OSError as exc:
            raise PrerequisiteError(f"{bundle}: {exc.strerror}", hint="let CI's user read the evidence") from exc
    for refusal in refusals_of(stores, dispatch_id, verifier):
        raise NotApprovedError(f"{refusal.subject_id} was refused by the {refusal.stage} stage: {refusal.reason}")
    return None


def attempts_of(stores: LoopStores, dispatch_id: str, verifier: Verifier) -> list[Attempt]:
    """What the executor has tried for a request, oldest first."""
    tried = _trusted(stores.attempts, Attempt, verifier, "execution")
    return [attempt for attempt in tried if attempt.source_dispatch_id == dispatch_id]


def outcomes_of(stores: LoopStores, dispatch_id: str, verifier: Verifier) -> list[AttemptOutcome]:
    """How those ended that have, oldest first."""
    tried = {attempt.attempt_id for attempt in attempts_of(stores, dispatch_id, verifier)}
    ended = _trusted(stores.outcomes, AttemptOutcome, verifier, "execution")
    return [outcome for outcome in ended if outcome.attempt_id in tried]


def refusals_of(stores: LoopStores, dispatch_id: str, verifier: Verifier) -> list[Refusal]:
    """What the later stages said about a request, or its execution, that they did not act on."""
    subjects = {dispatch_id}
    for execution in _trusted(stores.executions, Execution, verifier, "approval"):
        if execution.source_dispatch_id == dispatch_id:
            subjects.add(execution.execution_id)
    return [
        refusal
        for store, role in ((stores.approval_refusals, "approval"), (stores.execution_refusals, "execution"))
        for refusal in _trusted(store, Refusal, verifier, role)
        if refusal.subject_kind in ("request", "execution") and refusal.subject_id in subjects
    ]


async def await_it(look: Callable[[], T | None], glances: AsyncIterator[None], limit_s: float) -> T | None:
    """What `look` finds first, asked at each glance; None when the limit has passed."""
    if limit_s <= 0:
        return look()
    try:
        async with asyncio.timeout(limit_s):
            async for _ in glances:
                if (found := look()) is not None:
                    return found
    except TimeoutError:
        return look()
    return None


def _approvals(store: RecordStore, dispatch_id: str) -> tuple[list[Approval], list[Unfit]]:
    """Those that may speak of the request; what cannot be read may have been meant for it, so it is named."""
    found: list[Approval] = []
    unfit = [Unfit(name, why) for name, why in store.faults().items()]
    for approval_id in store.ids():
        try:
            approval = Approval.read(store.read(approval_id), source=approval_id)
        except (KeyError, HyopsError) as exc:
            unfit.append(Unfit(approval_id, str(exc)))
            continue
        if approval.statement.dispatch_id not in (None, dispatch_id):
            continue
        if approval.approval_id == approval_id:
            found.append(approval)
        else:
            unfit.append(Unfit(approval_id, f"it is a copy of {approval.approval_id}"))
    return found, unfit


def _trusted(store: RecordStore, kind: type[R], verifier: Verifier, role: str) -> list[R]:
    inbox = Inbox(store, kind, verifier, role=role)
    inbox.refresh()
    return inbox.records()


def _stored(store: RecordStore, record_id: str, kind: type[P]) -> P:
    try:
        return kind.read(store.read(record_id), source=record_id)
    except KeyError:
        raise PrerequisiteError(
            f"{kind.__name__.lower()} {record_id}: not in the store", hint="check the id, and where --store leads"
        ) from None


def _file(path: Path, kind: type[P]) -> P:
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}") from exc
    return kind.read(data, source=str(path))
