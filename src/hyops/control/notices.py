"""What of the loop's records people are told, and in which words: pure, and the same after every restart (UX-4).

A notice never answers anything: it names the request's digest and the one command with which somebody who holds a key
answers. There is no link, no token and no button that approves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta

from hyops.model.base import Record, iso_utc
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.notify import Event, Notice
from hyops.model.refusal import Refusal
from hyops.model.vocabulary import DecisionType, Outcome, RequestStatus

ENDS_TOLD = (Outcome.FAILED, Outcome.UNKNOWN, Outcome.REFUSED)
LINE_MAX = 600


def of_open_request(request: DispatchRequest, now: datetime, soon_s: float) -> Iterator[Notice]:
    """Of a request that nobody closed and that has not expired: that it waits, and that it will not for long."""
    if request.status not in (RequestStatus.AWAITING_APPROVAL, RequestStatus.QUEUED) or now >= request.expires_at:
        return
    command = f"hyops approval grant {request.dispatch_id} --key YOUR_KEY"
    yield _notice("waiting", request, request.timestamp_utc, f"waits for approval: {_what(request)}", request, command)
    if now >= request.expires_at - timedelta(seconds=soon_s):
        title = f"expires at {iso_utc(request.expires_at)[:19]}Z: {_what(request)}"
        yield _notice("expires-soon", request, now, title, request, command)


def of_denied(request: DispatchRequest) -> Iterator[Notice]:
    """Of a request that the dispatcher itself denied."""
    if request.status is RequestStatus.DENIED:
        title = f"denied: {_what(request)}: {request.reason or 'no reason given'}"
        yield _notice("denied", request, request.timestamp_utc, title, request)


def of_refusal(refusal: Refusal, request: DispatchRequest | None) -> Iterator[Notice]:
    """Of what the approval stage closed or could not go on with. One the dispatcher denied is told of already."""
    if refusal.subject_kind != "request" or request is None or request.status is RequestStatus.DENIED:
        return
    if refusal.subject_digest != request.digest():
        return
    event: Event = "held-up"
    if refusal.reason.startswith("rejected by "):
        event = "rejected"
    elif refusal.reason.startswith("the request expired"):
        event = "expired"
    title = f"{_what(request)}: {refusal.reason}"
    yield _notice(event, refusal, refusal.timestamp_utc, title, request)


def of_execution(execution: Execution) -> Iterator[Notice]:
    """That a request was approved and is on its way to its runner."""
    by = execution.approval
    mode = "" if by.mode == "signed" else f", {by.mode.upper()}"
    names = ", ".join(by.approved_by) or "nobody was asked"
    title = f"approved: {execution.decision_type} of {execution.service} (approved by {names}{mode})"
    lines = [
        f"request {execution.source_dispatch_id}",
        f"runner  {execution.runner_ref}",
        f"why     {execution.rationale}",
    ]
    lines += [f"note    {by.note}"] if by.note else []
    yield _made("executed", execution, execution.timestamp_utc, title, lines, digest=execution.source_request_digest)


def of_decision(decision: Decision) -> Iterator[Notice]:
    """That the loop decided to hold, where it might have moved."""
    if decision.decision_type is DecisionType.HOLD and decision.timestamp_utc is not None:
        title = f"hold: {decision.service or 'a service'}: {decision.rationale}"
        yield _made("hold", decision, decision.timestamp_utc, title, [f"decision {decision.decision_id}"])


def of_open_attempt(attempt: Attempt, now: datetime, limit_s: float) -> Iterator[Notice]:
    """That a run is open for longer than the service may be down."""
    if attempt.execution_mode == "dispatch" and (now - attempt.timestamp_utc).total_seconds() > limit_s:
        title = f"run of {attempt.service} open for more than {limit_s:g} s"
        lines = [f"run     {attempt.run_id} on {attempt.runner_ref}", f"look    hyops run follow {attempt.run_id}"]
        yield _made("open-run", attempt, now, title, lines)


def of_outcome(outcome: AttemptOutcome) -> Iterator[Notice]:
    """That a run did not end well, or that nobody knows how it ended."""
    if outcome.outcome in ENDS_TOLD:
        title = f"run of {outcome.service} ended {outcome.outcome}: {outcome.reason or f'exit {outcome.exit_code}'}"
        lines = [f"run     {outcome.run_id}", f"look    hyops run show {outcome.run_id}"]
        yield _made("ended", outcome, outcome.timestamp_utc, title, lines)


def _what(request: DispatchRequest) -> str:
    return f"{request.decision_type} of {request.service or 'no service'} ({request.occasion})"


def _notice(
    event: Event, record: Record, at: datetime, title: str, request: DispatchRequest, command: str | None = None
) -> Notice:
    lines = [
        f"request {request.dispatch_id}",
        f"digest  {request.digest()}",
        f"why     {request.rationale}",
        f"where   {request.runner_ref or 'no runner'}, {request.target_kind} {request.target_ref}",
        f"asked   by {request.requester}, needs {request.approvals_needed} or more as the policy says",
        f"until   {iso_utc(request.expires_at)}",
        *(f"WARNING {warning}" for warning in request.warnings),
    ]
    return _made(event, record, at, title, lines, command, request.digest())


def _made(
    event: Event,
    record: Record,
    at: datetime,
    title: str,
    lines: list[str],
    command: str | None = None,
    digest: str | None = None,
) -> Notice:
    short = hashlib.sha256(f"{event}\n{record.record_id}\n{record.digest()}".encode()).hexdigest()[:32]
    return Notice(
        notice_id=f"notice-{event}-{short}",
        event=event,
        about=record.record_id,
        at=at,
        title=_plain(title)[:300],
        lines=[_plain(line) for line in lines],
        command=command,
        request_digest=digest,
    )


def _plain(text: str) -> str:
    """One line that moves no cursor and breaks no header, whatever a record says."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split(" "))
    return line if len(line) <= LINE_MAX else f"{line[: LINE_MAX - 1]}…"
