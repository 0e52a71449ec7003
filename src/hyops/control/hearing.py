"""What people said about a request: which approvals are worth a verification, and which then count (APR-1, APR-3).

Every no is heard, however many there are. A yes costs a verification only when its words fit the request; when more
fit than may be verified, none is believed and the request waits: a flood can hold a switch up, never let one through.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from hyops.errors import NotApprovedError
from hyops.model import ids
from hyops.model.approval import Approval, ApprovalPolicy, ApprovalStatement
from hyops.model.delegation import misfit, not_allowed
from hyops.model.dispatch import DispatchRequest
from hyops.model.quorum import unacknowledged
from hyops.model.vocabulary import Level
from hyops.ports.signer import ApprovalVerifier, ApproverSignature

APPROVER, BREAK_GLASS = "approver", "break-glass"
NO = ("reject", "withdraw")
FUTURE_MAX_S = 300.0  # an approver's own clock may be a little ahead of ours, not more
YES_MAX = 100  # to one request; each costs a verification, and more than this is a mistake or an attack


@dataclass(frozen=True)
class Verified:
    """An approval whose signature OpenSSH found good, with whose it is."""

    approval: Approval
    by: ApproverSignature
    under: Verified | None = None
    """The delegation that it acts under."""


@dataclass(frozen=True)
class Unfit:
    """An approval that does not count, and why."""

    approval_id: str
    reason: str


@dataclass(frozen=True)
class Heard:
    """What counts, what does not, and why no yes was believed when `too_many` said it."""

    verified: tuple[Verified, ...] = ()
    unfit: tuple[Unfit, ...] = ()
    too_many: str | None = None


def hear(
    request: DispatchRequest,
    approvals: Iterable[Approval],
    verifier: ApprovalVerifier,
    policy: ApprovalPolicy,
    now: datetime,
) -> Heard:
    """Verify what speaks of a request, now: a key that was revoked a moment ago does not count.

    Raises:
        PrerequisiteError, ConfigError: signatures cannot be verified here, so a no could be missed.
    """
    noes: list[Approval] = []
    yeses: list[Approval] = []
    unfit: list[Unfit] = []
    delegating = Delegating(verifier, policy, now)
    for approval in approvals:
        if delegating.takes(approval):
            continue
        if not _speaks_of(request, approval.statement):
            continue
        if (reason := _unfit(request, approval.statement, policy, now)) is not None:
            unfit.append(Unfit(approval.approval_id, reason))
        else:
            (noes if approval.statement.verdict in NO else yeses).append(approval)
    too_many = None
    if len(yeses) > YES_MAX:
        too_many = f"{len(yeses)} approvals say yes to it, more than {YES_MAX}: none is believed until some are removed"
        yeses = []
    verified = []
    for approval in (*noes, *yeses):
        statement = approval.statement
        try:
            by = verifier.verify(statement.approver, statement.signed_bytes(), approval.ssh_signature, now)
        except NotApprovedError as exc:
            unfit.append(Unfit(approval.approval_id, exc.message))
            continue
        under: Verified | None = None
        try:
            if statement.on_behalf_of is not None:
                under = delegating.under(statement, request)
        except NotApprovedError as exc:
            unfit.append(Unfit(approval.approval_id, exc.message))
            continue
        unseen = None if statement.verdict in NO else policy.unseen(by.presence)  # saying no needs no such key
        misnamed = None if statement.verdict in NO else approval.misnamed()  # who says no says it under any name
        if (reason := unfit_signer(statement, by) or unseen or misnamed) is not None:
            unfit.append(Unfit(approval.approval_id, reason))
        elif statement.verdict == "standing" and delegating.taken_back(approval):
            unfit.append(Unfit(approval.approval_id, f"{by.principal} took it back"))
        else:
            verified.append(Verified(approval, by, under))
    return Heard(tuple(verified), tuple(unfit), too_many)


class Names:
    """Under which names the same words of a delegation or a standing approval are filed.

    A signature covers the words and not the name: who takes one of these back takes the words back, wherever they lie.
    """

    def __init__(self) -> None:
        self._words: dict[str, str] = {}
        self._filed: defaultdict[str, set[str]] = defaultdict(set)

    def note(self, approval: Approval) -> None:
        """Remember what lies there under its name."""
        if approval.statement.verdict in ("delegate", "standing"):
            words = self._words[approval.approval_id] = approval.statement.record_id()
            self._filed[words].add(approval.approval_id)

    def of(self, name: str) -> set[str]:
        """This one, the one that its words give it, and every other under which they lie."""
        words = self._words.get(name, name)
        return {name, words}.union(self._filed.get(words, ()))


class Delegating:
    """The delegations among the approvals, and what took them back: verified when a grant names them, and only then.

    A standing approval is taken back by the same words, which name it.
    """

    def __init__(self, verifier: ApprovalVerifier, policy: ApprovalPolicy, now: datetime) -> None:
        self._verifier, self._policy, self._now = verifier, policy, now
        self._given: dict[str, Approval] = {}
        self._back: list[Approval] = []
        self._names = Names()

    def takes(self, approval: Approval) -> bool:
        """Keep it if it is a delegation, or takes one or a standing approval back; False when it is about a request."""
        self._names.note(approval)
        if approval.statement.takes_back:
            self._back.append(approval)
        elif approval.statement.verdict == "delegate":
            self._given[approval.approval_id] = approval
        else:
            return False
        return True

    def under(self, grant: ApprovalStatement, request: DispatchRequest) -> Verified:
        """The delegation that a grant names; NotApprovedError says why it does not cover it."""
        given = self._given.get(grant.delegation or "")
        if given is None:
            raise NotApprovedError(f"there is no delegation {grant.delegation}")
        why = misfit(
            grant, given.statement, service=request.service, decision_type=request.decision_type, at=self._now
        ) or not_allowed(given.statement, self._policy)
        if why is not None:
            raise NotApprovedError(why)
        by = self._signer(given)
        if (unfit := self._policy.unseen(by.presence) or given.misnamed()) is not None:
            raise NotApprovedError(f"its delegation: {unfit}")
        if self.taken_back(given):
            raise NotApprovedError(f"{by.principal} took its delegation back")
        return Verified(given, by)

    def taken_back(self, given: Approval) -> bool:
        """Whether who gave it took it back."""
        return self.back(given.approval_id, given.statement.approver) is not None

    def back(self, name: str, giver: str) -> Approval | None:
        """What the giver of this one said to take it back, under whatever name its words are filed; it may be gone.

        A word that is not good is none: a second name for the same words is the same delegation.
        """
        names = self._names.of(name)
        for back in self._back:
            said = back.statement
            if said.delegation not in names or said.approver != giver:
                continue
            with contextlib.suppress(NotApprovedError):
                self._signer(back)
                return back
        return None

    def _signer(self, approval: Approval) -> ApproverSignature:
        statement = approval.statement
        by = self._verifier.verify(statement.approver, statement.signed_bytes(), approval.ssh_signature, self._now)
        if (reason := unfit_signer(statement, by)) is not None:
            raise NotApprovedError(f"its delegation: {reason}")
        return by


def _speaks_of(request: DispatchRequest, statement: ApprovalStatement) -> bool:
    if statement.verdict == "standing":
        return statement.dispatch_id in (None, request.dispatch_id) and statement.service == request.service
    return statement.dispatch_id == request.dispatch_id


def unfit_signer(statement: ApprovalStatement, by: ApproverSignature) -> str | None:
    """Why who signed may not say this; None when he may."""
    needed = BREAK_GLASS if statement.verdict == BREAK_GLASS else APPROVER
    if statement.approver != by.principal:
        return f"it names {statement.approver} and was signed by {by.principal}"
    if statement.on_behalf_of is not None or statement.verdict == "withdraw":
        return None  # a known signer: the role is that of whom they act for, and their own yes is theirs to take back
    return None if needed in by.roles else f"{by.principal} has no role {needed}"


def _unfit(request: DispatchRequest, statement: ApprovalStatement, policy: ApprovalPolicy, now: datetime) -> str | None:
    """Why a statement does not count for this request, whoever signed it; None when it does."""
    if statement.verdict != "standing" and statement.request_digest != request.digest():
        return "it is for other bytes of this request"
    if statement.verdict in NO:
        return None  # saying no needs no freshness
    if statement.plan_digest is not None and statement.plan_digest != request.plan_digest:
        return "it is for another plan"
    if not statement.signed_at <= now + timedelta(seconds=FUTURE_MAX_S):
        return "it was signed in the future"
    if now >= statement.expires_at:
        return f"it expired at {ids.stamp(statement.expires_at)}"
    if (missing := unacknowledged(request.warnings, statement.acknowledged_warnings)) is not None:
        return missing
    if statement.verdict == "standing":
        return _unfit_standing(request, statement, policy)
    age_s = (now - statement.signed_at).total_seconds()
    return f"it is {age_s:.0f} s old, more than {policy.max_age_s:.0f}" if age_s > policy.max_age_s else None


def _unfit_standing(request: DispatchRequest, statement: ApprovalStatement, policy: ApprovalPolicy) -> str | None:
    if not policy.allow_standing:
        return "the policy allows no standing approvals"
    if (too_long := policy.too_long(statement)) is not None:
        return too_long
    if request.decision_type not in statement.decision_types or request.occasion not in statement.occasions:
        return f"it does not stand for {request.occasion} {request.decision_type}"
    if not request.source_decision_signed:
        return "a standing approval needs a signed decision"
    return "a standing approval needs level trigger" if request.level is not Level.TRIGGER else None
