"""Whether a request may run: a pure judge over what was heard about it (APR-1 to APR-4, INV-4).

The strictest of request, route and policy wins. Rejection and withdrawal always win. What is not a valid grant for
exactly this request counts as nothing (see `hearing`), and is reported so that the stage records its refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from hyops.control.hearing import BREAK_GLASS, Heard, Unfit, Verified
from hyops.errors import NotApprovedError
from hyops.model import ids
from hyops.model.approval import ApprovalPolicy
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import ApprovalSummary, Delegated, Execution
from hyops.model.quorum import Absent, Yes, carriers, marked, unacknowledged
from hyops.model.vocabulary import Level, RequestStatus

TOO_LATE = "the request expired at"
NO_MARKERS = "markers count only where the policy says mode: marker"
ACKNOWLEDGE = "write each as it stands into acknowledged_warnings of the marker, or sign with `hyops approval grant`"


@dataclass(frozen=True)
class Marker:
    """An unsigned marker file (APR-2): counts only where the policy says `mode: marker`."""

    approval_id: str
    dispatch_id: str
    approved_by: str
    note: str | None = None
    acknowledged_warnings: tuple[str, ...] = ()

    def lacks(self, request: DispatchRequest) -> str | None:
        """Why it does not count although markers do; None when it does."""
        missing = unacknowledged(request.warnings, self.acknowledged_warnings)
        return f"{missing}; {ACKNOWLEDGE}" if missing else None


@dataclass(frozen=True)
class Verdict:
    """Where the request stands; `execution` is there when it may run."""

    state: Literal["ready", "waiting", "refused", "expired"]
    reason: str
    summary: ApprovalSummary | None = None
    expires_at: datetime | None = None
    unfit: tuple[Unfit, ...] = ()


@dataclass
class _Tally:
    grants: list[Verified] = field(default_factory=list)
    standing: list[Verified] = field(default_factory=list)
    glass: list[Verified] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)
    rejected: list[Verified] = field(default_factory=list)


def judge(
    request: DispatchRequest,
    heard: Heard,
    policy: ApprovalPolicy,
    now: datetime,
    markers: Sequence[Marker] = (),
) -> Verdict:
    """Judge one request by what was heard about it, under the same policy and at the same time."""
    tally = _sorted(heard)
    unfit = (*heard.unfit, *_unfit_markers(request, markers, policy))
    if request.condition is not None:  # a standby order that was put here: it runs without any stage, or not at all
        return Verdict("refused", f"it is for a {request.condition} alone", unfit=unfit)
    if request.status is RequestStatus.DENIED:
        return Verdict("refused", request.reason or "denied", unfit=unfit)
    if tally.rejected:
        first = tally.rejected[0]
        return Verdict(
            "refused", f"rejected by {first.by.principal}: {first.approval.statement.note or ''}", unfit=unfit
        )
    if now >= request.expires_at or request.status is RequestStatus.EXPIRED:
        return Verdict("expired", f"{TOO_LATE} {ids.stamp(request.expires_at)}", unfit=unfit)
    if (lacks := lacking(request)) is not None:
        return Verdict("waiting", lacks, unfit=unfit)
    if heard.too_many is not None:
        return Verdict("waiting", heard.too_many, unfit=unfit)
    found = _carried(request, tally, markers, policy)
    if isinstance(found, str):
        return Verdict("waiting", found, unfit=unfit)
    summary, chosen = found
    ends = [v.approval.statement.expires_at for verified in chosen for v in (verified, verified.under) if v is not None]
    return Verdict("ready", summary.mode, summary, min([request.expires_at, *ends]), unfit)


def lacking(request: DispatchRequest) -> str | None:
    """Why no approval makes anything run; None when it says all that a run needs."""
    missing = [n for n in ("service", "generation", "runner_ref", "plan_digest") if getattr(request, n) is None]
    return f"the request names no {', '.join(missing)}: nothing can be run from it" if missing else None


def _carried(
    request: DispatchRequest, tally: _Tally, markers: Sequence[Marker], policy: ApprovalPolicy
) -> tuple[ApprovalSummary, list[Verified]] | str:
    """The approvals that carry the request, or what is still missing, in words."""
    needed = max(policy.required, request.approvals_needed)
    signed = _signed(request, tally, needed, policy.doubts(request))
    if not isinstance(signed, str) and signed[0].mode == BREAK_GLASS:
        return signed
    mine = [m for m in markers if m.dispatch_id == request.dispatch_id and m.approved_by != request.requester]
    if policy.mode == "marker" and mine:
        lacks = next((lacks for m in mine if (lacks := m.lacks(request)) is not None), None)
        try:
            by = marked([m.approved_by for m in mine], required=needed, requester=request.requester)
        except NotApprovedError as exc:
            return exc.message if isinstance(signed, str) else signed
        if lacks is not None:
            return f"its marker: {lacks}" if isinstance(signed, str) else signed
        return _marked(request, [m.approval_id for m in mine], by, needed), []
    freed = not request.requires_approval and request.level is Level.TRIGGER and request.source_decision_signed
    if freed and policy.allow_unapproved and not request.warnings:
        return ApprovalSummary(required=False, needed=0, mode="none"), []
    return signed


def _signed(
    request: DispatchRequest, tally: _Tally, needed: int, doubted: bool
) -> tuple[ApprovalSummary, list[Verified]] | str:
    """The signed approvals that carry the request, by the rule that the runner keeps too, or what is missing."""
    said = (*tally.glass, *tally.grants, *tally.standing)
    usable = {v.approval.approval_id: v for v in said if not _names(v) & tally.withdrawn}
    try:
        carried = carriers(
            map(_yes, usable.values()),
            required=needed,
            requester=request.requester,
            key=request.requester_key,
            unknown=doubted,
        )
    except NotApprovedError as exc:
        return exc.message
    chosen = [usable[yes.approval_id] for yes in carried]
    verdicts = {v.approval.statement.verdict for v in chosen}
    if BREAK_GLASS in verdicts:
        return _summary("break-glass", chosen, needed), chosen
    return _summary("standing" if verdicts == {"standing"} else "signed", chosen, needed), chosen


def _yes(verified: Verified) -> Yes:
    glass = verified.approval.statement.verdict == BREAK_GLASS
    under = verified.under.by if verified.under else None
    acts_for = Absent(under.principal, under.key_fingerprint) if under else None
    return Yes(verified.approval.approval_id, verified.by.principal, verified.by.key_fingerprint, glass, acts_for)


def _names(verified: Verified) -> set[str]:
    """Who may take it back: who signed it, and for whom it was signed."""
    return {verified.by.principal} | ({verified.under.by.principal} if verified.under else set())


def _summary(
    mode: Literal["signed", "standing", "break-glass"], chosen: list[Verified], needed: int
) -> ApprovalSummary:
    notes = [v.approval.statement.note for v in chosen if v.approval.statement.note]
    losses = [v.approval.statement.accepted_loss for v in chosen if v.approval.statement.accepted_loss]
    given = [
        Delegated(approval_id=v.under.approval.approval_id, delegate=v.by.principal, on_behalf_of=v.under.by.principal)
        for v in chosen
        if v.under is not None
    ]
    acting = [f"{one.delegate} for {one.on_behalf_of}" for one in given]
    note = "; ".join([*acting, *notes, *(f"accepted loss: {loss}" for loss in losses)])[:4096]
    return ApprovalSummary(
        required=True,
        needed=needed,
        approval_ids=[v.approval.approval_id for v in chosen],
        approved_by=[v.by.principal for v in chosen],
        mode=mode,
        note=note or None,
        delegations=given or None,
    )


def _sorted(heard: Heard) -> _Tally:
    tally = _Tally()
    for verified in sorted(heard.verified, key=lambda v: v.approval.approval_id):
        verdict = verified.approval.statement.verdict
        if verdict == "withdraw":
            tally.withdrawn.add(verified.by.principal)
        else:
            {"grant": tally.grants, "standing": tally.standing, "break-glass": tally.glass, "reject": tally.rejected}[
                verdict
            ].append(verified)
    tally.glass = [v for v in tally.glass if v.by.principal not in tally.withdrawn]
    return tally


def _marked(request: DispatchRequest, named: list[str], by: list[str], needed: int) -> ApprovalSummary:
    """What is not acknowledged carries nothing, so the warnings of the request are what they acknowledge."""
    return ApprovalSummary(
        required=True,
        needed=needed,
        approval_ids=named,
        approved_by=by,
        mode="marker",
        acknowledged_warnings=sorted(set(request.warnings)) or None,
    )


def _unfit_markers(request: DispatchRequest, markers: Sequence[Marker], policy: ApprovalPolicy) -> list[Unfit]:
    mine = [m for m in markers if m.dispatch_id == request.dispatch_id]
    if policy.mode == "marker":
        return [Unfit(m.approval_id, lacks) for m in mine if (lacks := m.lacks(request)) is not None]
    return [Unfit(m.approval_id, NO_MARKERS) for m in mine]


def execution_of(request: DispatchRequest, verdict: Verdict, now: datetime) -> Execution:
    """The execution of a request that is ready."""
    if verdict.state != "ready" or verdict.summary is None or verdict.expires_at is None:
        raise NotApprovedError(f"request {request.dispatch_id}: {verdict.reason}")
    if not (request.service and request.runner_ref and request.plan_digest) or request.generation is None:
        raise NotApprovedError(f"request {request.dispatch_id} does not say what to run")
    return Execution(
        execution_id=execution_id_of(request, now),
        timestamp_utc=now,
        expires_at=verdict.expires_at,
        source_dispatch_id=request.dispatch_id,
        source_request_digest=request.digest(),
        decision_type=request.decision_type,
        occasion=request.occasion,
        service=request.service,
        generation=request.generation,
        execution_plane=request.execution_plane,
        runner_ref=request.runner_ref,
        target_kind=request.target_kind,
        target_ref=request.target_ref,
        target_env=request.target_env,
        plan_digest=request.plan_digest,
        rationale=request.rationale,
        approval=verdict.summary,
    )


def execution_id_of(request: DispatchRequest, at: datetime) -> str:
    """The id of the execution of one request that is made at `at`."""
    return ids.derived("execution", at, request.digest(), request.decision_type)


def slot_of(request: DispatchRequest) -> str:
    """The slot that makes one execution of one request, with any number of approval stages."""
    return f"execution-{request.digest().removeprefix('sha256:')}"
