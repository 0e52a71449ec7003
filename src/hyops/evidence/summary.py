"""A verified (or merely read) bundle as a reader wants it: verdict, numbers, events; no markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from hyops.evidence.actuals import first_failed, traffic_verified_at
from hyops.evidence.contents import Contents
from hyops.model.access import ResolvedAccess
from hyops.model.approval import Approval
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.evidence import Actuals, Loss
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.fence import FenceReceipt
from hyops.model.observed import DecisionInputs
from hyops.model.plan import Plan
from hyops.model.run import RunResult, StepOutcome
from hyops.model.vocabulary import CheckStatus, DecisionType, Occasion, Outcome, Phase

Tone = Literal["good", "warn", "bad", "plain"]
Lane = Literal["signals", "control", "runner", "database", "dns", "client"]
LANES: tuple[Lane, ...] = ("signals", "control", "runner", "database", "dns", "client")

CONTROLS = (
    ("INV-1", "Two places never acknowledge writes under one generation.", ("fence-receipt", "run-result")),
    ("INV-2", "No promotion without a valid fence receipt.", ("fence-receipt",)),
    ("INV-3", "Effects happen only under the current generation.", ("step", "run-result")),
    ("INV-4", "Nothing ran that was not approved byte for byte.", ("plan", "request", "approval", "execution")),
    ("INV-5", "The decision stands on confirmed, complete input.", ("decision", "inputs")),
    ("INV-7", "The attempt ended in a closed, signed record.", ("attempt", "outcome", "sealed")),
    ("DNS-3", "The new address serves, the old one is silent.", ("step",)),
    ("EVD-1", "Recovery time and loss were measured.", ("actuals", "loss")),
    ("EVD-2", "The record is complete and unaltered.", ("opened", "sealed")),
)


@dataclass(frozen=True)
class Event:
    """A point (`end` None) or a stretch of the timeline, on its own host's clock."""

    lane: Lane
    start: datetime
    end: datetime | None
    label: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Control:
    """A rule and the records that prove it; none when the bundle has nothing to say."""

    rule: str
    statement: str
    seqs: Sequence[int]


@dataclass(frozen=True)
class Summary:
    """Everything a page or a table shows."""

    name: str
    service: str
    headline: str
    verdict: str
    tone: Tone
    reason: str | None
    occasion: str
    generation: tuple[int, int] | None
    actuals: Actuals | None
    loss: Loss | None
    receipts: Sequence[FenceReceipt]
    approvals: Sequence[Approval]
    endpoints: dict[str, Any]
    access: ResolvedAccess | None
    events: Sequence[Event]
    origin: datetime | None
    failed: bool
    served_at: datetime | None
    controls: Sequence[Control]
    digests: Sequence[tuple[str, str]]


def summarise(found: Contents) -> Summary:
    """Tell the story of a bundle in one value."""
    outcome, result, request = found.get(AttemptOutcome), found.get(RunResult), found.get(DispatchRequest)
    plan, decision, attempt = found.get(Plan), found.get(Decision), found.get(Attempt)
    actuals, loss, execution = found.get(Actuals), found.get(Loss), found.get(Execution)
    ended = outcome.record.outcome if outcome else None
    verdict, tone = _verdict(ended, actuals.record if actuals else None)
    receipts = [placed.record for placed in found.all(FenceReceipt)]
    after = result.record.generation_after if result else None
    failed_at = actuals.record.first_failed_at if actuals else first_failed(decision.record if decision else None, None)
    reason = outcome.record.reason if outcome else request.record.reason if request else None
    return Summary(
        name=str(found.links[0].entry.content.get("bundle", "")),
        service=str(found.links[0].entry.content.get("service", "")) or "(no service)",
        headline=_headline(found, receipts),
        verdict=verdict,
        tone=tone,
        reason=reason,
        occasion=str(execution.record.occasion) if execution else "",
        generation=(result.record.generation_before, after) if result and after is not None else None,
        actuals=actuals.record if actuals else None,
        loss=loss.record if loss else None,
        receipts=receipts,
        approvals=[placed.record for placed in found.all(Approval)],
        endpoints=dict(result.record.endpoints) if result else {},
        access=result.record.access if result else None,
        events=sorted(_events(found), key=lambda event: (LANES.index(event.lane), event.start)),
        origin=failed_at or (attempt.record.timestamp_utc if attempt else None),
        failed=failed_at is not None,
        served_at=traffic_verified_at(plan.record if plan else None, result.record if result else None),
        controls=[_control(found, *control) for control in CONTROLS],
        digests=list(_digests(found)),
    )


def _verdict(outcome: Outcome | None, actuals: Actuals | None) -> tuple[str, Tone]:
    if outcome is None:
        return "nothing ran", "warn"
    if outcome is Outcome.SUCCEEDED:
        missed = actuals is not None and "missed" in {actuals.rto, actuals.rpo}
        return ("succeeded, objective missed", "warn") if missed else ("succeeded", "good")
    words = {
        Outcome.FAILED: "failed",
        Outcome.REFUSED: "refused: nothing was touched",
        Outcome.CANCELLED: "cancelled",
        Outcome.UNKNOWN: "outcome unknown: look before retrying",
    }
    return words[outcome], "warn" if outcome is Outcome.REFUSED else "bad"


def _headline(found: Contents, receipts: Sequence[FenceReceipt]) -> str:
    request, result, execution = found.get(DispatchRequest), found.get(RunResult), found.get(Execution)
    if request is None:
        return "An attempt without a request"
    service = request.record.service or "a service"
    if request.record.target_kind == "module":  # it moves nothing, whatever decision it answers
        ran = result is not None and result.record.outcome is Outcome.SUCCEEDED
        ref = request.record.target_ref
        return f"{service}: {ref} ran by itself" if ran else f"{service}: a run of {ref} that did not complete"
    planned = execution is not None and execution.record.occasion is Occasion.PLANNED
    verbs = {
        DecisionType.FAILOVER: ("switched over", "a switchover") if planned else ("failed over", "a failover"),
        DecisionType.FAILBACK: ("failed back", "a failback"),
        DecisionType.BURST: ("burst out", "a burst"),
        DecisionType.HOLD: ("held", "a hold"),
    }
    done, wanted = verbs[request.record.decision_type]
    moved = result.record.primary_after if result else None
    if result is not None and result.record.outcome is Outcome.SUCCEEDED and moved:
        source = next((r.host for r in receipts if r.host != moved), None)
        return f"{service} {done}" + (f" from {source}" if source else "") + f" to {moved}"
    return f"{service}: {wanted} that did not complete"


def _events(found: Contents) -> Iterator[Event]:
    decision, request, execution = found.get(Decision), found.get(DispatchRequest), found.get(Execution)
    attempt, outcome, loss = found.get(Attempt), found.get(AttemptOutcome), found.get(Loss)
    yield from _signal_events(found)
    if decision is not None and decision.record.timestamp_utc is not None:
        yield Event("control", decision.record.timestamp_utc, None, f"decided: {decision.record.decision_type}")
    if request is not None:
        yield Event("control", request.record.timestamp_utc, None, f"request {request.record.status}")
    for approval in found.all(Approval):
        s = approval.record.statement
        tone: Tone = "bad" if s.verdict in {"reject", "withdraw"} else "good"
        yield Event("control", s.signed_at, None, f"{s.verdict} by {s.approver}", tone)
    if execution is not None:
        yield Event("control", execution.record.timestamp_utc, None, "approved, ready")
    if attempt is not None:
        yield Event("control", attempt.record.timestamp_utc, None, f"dispatched to {attempt.record.runner_ref}")
    if outcome is not None:
        done = outcome.record.outcome is Outcome.SUCCEEDED
        yield Event("control", outcome.record.timestamp_utc, None, "collected and closed", "good" if done else "bad")
    yield from _run_events(found)
    if loss is not None and loss.record.last_ack_at and loss.record.first_ack_at:
        gap = loss.record.client_gap_s
        label = "no write acknowledged" + (f" for {span(gap)}" if gap is not None else "")
        yield Event("client", loss.record.last_ack_at, loss.record.first_ack_at, label, "bad")
        yield Event("client", loss.record.first_ack_at, None, "writes acknowledged again", "good")


def _signal_events(found: Contents) -> Iterator[Event]:
    decision, known = found.get(Decision), found.get(DecisionInputs)
    if known is not None:
        i = known.record
        for series in i.series:
            stretch = series.spans[-1]
            if stretch.status is CheckStatus.BAD:
                start = i.at - timedelta(seconds=max(0.0, i.now_s - stretch.since_s))
                yield Event("signals", start, i.at, f"{series.vantage}: {series.signal} bad", "bad")
        return
    for check in decision.record.checks if decision else []:
        if check.sampled_at is not None and check.status is CheckStatus.BAD:
            yield Event("signals", check.sampled_at, None, f"{check.vantage or 'query'}: {check.name} bad", "bad")


def _run_events(found: Contents) -> Iterator[Event]:
    result, plan = found.get(RunResult), found.get(Plan)
    if result is None:
        return
    r = result.record
    yield Event("runner", r.started_at, r.ended_at, f"run on {r.runner_ref}", _tone(r.outcome))
    phases = {step.id: step.phase for step in plan.record.steps} if plan else {}
    for placed in found.all(StepOutcome):
        step = placed.record
        lane = _lane(phases.get(step.step_id))
        label = f"{step.step_id} {span(step.elapsed_s)}" + ("" if step.changed else " (no change)")
        yield Event(lane, step.started_at, step.ended_at, label, _tone(step.outcome))
    for receipt in found.all(FenceReceipt):
        yield Event("database", receipt.record.issued_at, None, f"fenced: {receipt.record.receipt_class}", "good")


def _lane(phase: Phase | None) -> Lane:
    if phase is Phase.TRAFFIC:
        return "dns"
    return "database" if phase in {Phase.PREPARE, Phase.DATA, Phase.BACKUP} else "runner"


def _tone(outcome: Outcome) -> Tone:
    return "good" if outcome is Outcome.SUCCEEDED else "warn" if outcome is Outcome.UNKNOWN else "bad"


def _control(found: Contents, rule: str, statement: str, kinds: tuple[str, ...]) -> Control:
    return Control(rule, statement, [link.entry.seq for link in found.links if link.entry.kind in kinds])


def _digests(found: Contents) -> Iterator[tuple[str, str]]:
    for kind in ("decision", "plan", "request", "execution", "attempt", "run-result", "outcome"):
        placed = found.placed.get(kind)
        if placed is not None:
            yield kind, next(iter(placed.link.subjects.values()))
    yield "head of the chain", found.links[-1].digest


def span(seconds: float | None) -> str:
    """A duration for people: `0.04 s`, `3.80 s`, `43.2 s`, `4 min 12 s`, `2 h 05 min`."""
    if seconds is None:
        return "not measured"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
