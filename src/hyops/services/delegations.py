"""Delegations at the operator's desk: given, listed and taken back, each by the absent person's own key (APR-1).

A standing approval is taken back here too: it speaks for somebody who is not there, as they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from hyops.control.hearing import APPROVER, Delegating
from hyops.errors import NotApprovedError, UsageError
from hyops.model.approval import Approval, ApprovalPolicy, ApprovalStatement
from hyops.model.delegation import not_allowed
from hyops.model.dispatch import DispatchRequest
from hyops.model.vocabulary import DecisionType
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import ApprovalVerifier, Verifier
from hyops.services.desk import SECURITY_KEY
from hyops.services.inbox import Inbox
from hyops.services.typed_words import WHO_MAX, refuse_unnamed, refuse_unsayable, refuse_unwritable

SERVICES_MAX = 100  # as the statement has it


@dataclass(frozen=True)
class Delegation:
    """One that somebody gave, or a standing approval, and how it stands now: `in force`, or why not."""

    approval: Approval
    state: str


class Delegations:
    """Reads and writes approvals. `is_signer`: whether the allowed signers file knows a principal."""

    def __init__(
        self,
        approvals: RecordStore,
        *,
        policy: ApprovalPolicy,
        approval_verifier: ApprovalVerifier,
        is_signer: Callable[[str], bool],
        verifier: Verifier,
        clock: Clock,
    ) -> None:
        self._store = approvals
        self._inbox = Inbox(approvals, Approval, verifier, role=None)
        self._policy, self._verifier, self._is_signer, self._clock = policy, approval_verifier, is_signer, clock

    def give(
        self,
        *,
        approver: str,
        delegate: str,
        services: Sequence[str],
        kinds: Sequence[DecisionType],
        starts_at: datetime | None,
        lasts_s: float,
        note: str | None,
    ) -> ApprovalStatement:
        """What the absent person signs; NotApprovedError when it could never count."""
        refuse_unsayable(who=approver, note=note)
        refuse_unwritable("the delegate's name", delegate, WHO_MAX)
        for service in services:
            refuse_unnamed("--service", service)
        if len(services) > SERVICES_MAX:
            raise UsageError(f"--service {len(services)} times: one delegation names {SERVICES_MAX} at most")
        now = self._clock.now()
        begins = starts_at or now
        try:
            ends = begins + timedelta(seconds=lasts_s)
        except OverflowError as exc:
            raise UsageError("that delegation would end after the year 9999", hint="mend --from or --days") from exc
        if ends <= now or ends <= begins:
            raise UsageError("that delegation would be over already", hint="mend --from or --days")
        if approver == delegate:
            raise UsageError("a delegation is to somebody else")
        if not self._is_signer(delegate):
            raise NotApprovedError(
                f"{delegate} is not an allowed signer, so nobody could tell who acts",
                hint="have their key put into the allowed signers file first; they need no role",
            )
        statement = ApprovalStatement(
            verdict="delegate",
            approver=approver,
            signed_at=now,
            starts_at=begins,
            expires_at=ends,
            delegate=delegate,
            services=list(services),
            decision_types=list(kinds),
            note=note,
        )
        if (why := not_allowed(statement, self._policy)) is not None:
            raise NotApprovedError(why, hint="the policy's allow_delegation and delegation_max_s say what is allowed")
        return statement

    def take_back(self, approval_id: str, *, approver: str, note: str | None) -> ApprovalStatement:
        """What they sign to end one, or a standing approval. Of a copy it names what was signed, which ends them all.

        Raises:
            UsageError: it is not theirs, or there is none. NotApprovedError: it is over already, so nothing would end.
        """
        delegating, now = self._heard(), self._clock.now()
        given = self._inbox.get(approval_id)
        if given is None or given.statement.verdict not in ("delegate", "standing"):
            raise UsageError(
                f"{approval_id} is no delegation and no standing approval",
                hint="see `hyops approval delegations`; the approval of a request is taken back by the request's id",
            )
        if given.statement.approver != approver:
            raise UsageError(f"{approval_id} was given by {given.statement.approver}, who alone takes it back")
        if delegating.taken_back(given) or now >= given.statement.expires_at:
            raise NotApprovedError(f"{approval_id} is over or taken back already: nothing is left to end")
        refuse_unsayable(who=approver, note=note)
        return ApprovalStatement(
            verdict="withdraw",
            approver=approver,
            signed_at=now,
            expires_at=now + timedelta(days=1),
            delegation=given.statement.record_id(),
            note=note,
        )

    def put(self, statement: ApprovalStatement, ssh_signature: str) -> Approval:
        """Verify as the stage will, then write; what would count for nothing is not written."""
        now = self._clock.now()
        by = self._verifier.verify(statement.approver, statement.signed_bytes(), ssh_signature, now)
        if not statement.takes_back and APPROVER not in by.roles:
            raise NotApprovedError(f"{by.principal} has no role {APPROVER}, so there is nothing to delegate")
        if not statement.takes_back and (unseen := self._policy.unseen(by.presence)) is not None:
            raise NotApprovedError(unseen, hint=SECURITY_KEY)
        approval = Approval.signed(statement, ssh_signature)
        self._store.create(approval.approval_id, approval.encoded())
        return approval

    def listed(self) -> list[Delegation]:
        """Every one that lies there, and every standing approval, oldest first."""
        now, delegating = self._clock.now(), self._heard()
        found = []
        for approval in self._inbox.records():
            statement = approval.statement
            if statement.verdict not in ("delegate", "standing"):
                continue
            state = approval.misnamed() or self._not_allowed(statement) or "in force"
            if now >= statement.expires_at:
                state = "over"
            elif delegating.taken_back(approval):
                state = "taken back"
            elif statement.starts_at is not None and now < statement.starts_at:
                state = "not begun"
            found.append(Delegation(approval, state))
        return found

    def _not_allowed(self, statement: ApprovalStatement) -> str | None:
        if statement.verdict == "delegate":
            return not_allowed(statement, self._policy)
        return self._policy.too_long(statement) if self._policy.allow_standing else "the policy allows none"

    def under(self, request: DispatchRequest, *, approver: str, absent: str) -> str:
        """The id of the delegation under which one may act for another; NotApprovedError when there is none."""
        delegating = self._heard()
        reasons = []
        now = self._clock.now()
        for approval in self._inbox.records():
            given = approval.statement
            if given.verdict != "delegate" or (given.approver, given.delegate) != (absent, approver):
                continue
            grant = ApprovalStatement(
                verdict="grant",
                approver=approver,
                signed_at=now,
                expires_at=now + timedelta(seconds=1),
                dispatch_id=request.dispatch_id,
                request_digest=request.digest(),
                on_behalf_of=absent,
                delegation=approval.approval_id,
            )
            try:
                delegating.under(grant, request)
            except NotApprovedError as exc:
                reasons.append(exc.message)
                continue
            return approval.approval_id
        why = reasons[-1] if reasons else f"{absent} delegated nothing to {approver}"
        raise NotApprovedError(f"{approver} cannot act for {absent}: {why}", hint="see `hyops approval delegations`")

    def _heard(self) -> Delegating:
        self._inbox.refresh()
        delegating = Delegating(self._verifier, self._policy, self._clock.now())
        for approval in self._inbox.records():
            delegating.takes(approval)
        return delegating
