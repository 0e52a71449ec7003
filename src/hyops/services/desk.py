"""The operator's desk: what waits, what it would run, and approvals put where the stage looks for them (APR-1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from hyops.control.approval import NO_MARKERS, Verdict, judge, slot_of
from hyops.control.giving_way import superseded
from hyops.control.hearing import NO, hear, unfit_signer
from hyops.control.weighing import idle
from hyops.errors import HyopsError, NotApprovedError, UnsafePlanError, UsageError, foreign, unforeseen
from hyops.model.approval import Approval, ApprovalPolicy, ApprovalStatement
from hyops.model.dispatch import DispatchRequest
from hyops.model.plan import Plan
from hyops.model.vocabulary import DecisionType, Occasion
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import ApprovalVerifier, ApproverSignature, Verifier
from hyops.services.approval import Speaking
from hyops.services.inbox import Inbox
from hyops.services.markers import markers_of, read_marker, request_of
from hyops.services.too_late import TooLate
from hyops.services.typed_words import refuse_unnamed, refuse_unsayable

ROLE = "ask one of the approvers, or have the role added to approvers.json"
CLOSED = "nothing was written; `hyops explain` says what became of it"
EXECUTED = "no further yes is needed; `hyops explain` says how far it has come"
SECURITY_KEY = "sign with a security key that the allowed signers file has for you, and touch it when it blinks"
StatementVerdict = Literal["grant", "reject", "withdraw", "break-glass"]


@dataclass(frozen=True)
class Waiting:
    """A request and where it stands now."""

    request: DispatchRequest
    state: Literal["waiting", "ready", "refused", "expired", "executed"]
    reason: str


class Desk:
    """Reads requests, plans and approvals; writes approvals only.

    `too_late`: why no word stops the run of an approved request any more; None while nothing of it was sent.
    """

    def __init__(
        self,
        *,
        requests: RecordStore,
        plans: RecordStore,
        approvals: RecordStore,
        executions: RecordStore,
        policy: ApprovalPolicy,
        approval_verifier: ApprovalVerifier,
        verifier: Verifier,
        clock: Clock,
        too_late: Callable[[DispatchRequest], TooLate | None] = lambda request: None,
    ) -> None:
        self._too_late = too_late
        self._inbox = Inbox(requests, DispatchRequest, verifier, role="dispatch")
        self._said = Inbox(approvals, Approval, verifier, role=None)
        self._speaking = Speaking(self._said)
        self._plans, self.approvals, self._executions = plans, approvals, executions
        self._policy, self._approval_verifier, self._clock = policy, approval_verifier, clock

    def requests(self) -> list[Waiting]:
        """Every request that verifies, oldest first, judged by the approval stage's own rule."""
        self._said.refresh()
        self._inbox.refresh()
        return [self._waiting(request) for request in self._inbox.records()]

    def find(self, dispatch_id: str) -> Waiting:
        """One request by its id or the end of it; UsageError when there is not exactly one."""
        if not dispatch_id.strip():
            raise UsageError("the id of the request is empty: is a variable not set?", hint="see `hyops approval list`")
        found = [w for w in self.requests() if w.request.dispatch_id.endswith(dispatch_id)]
        if len(found) != 1:
            raise UsageError(f"{len(found)} requests end with {dispatch_id!r}", hint="see `hyops approval list`")
        return found[0]

    def plan(self, request: DispatchRequest) -> Plan:
        """The plan a request would run, its digest checked; UnsafePlanError when it is not the one that is named."""
        if request.plan_digest is None:
            raise UnsafePlanError(f"{request.dispatch_id} names no plan")
        return self._plan(request.plan_digest)

    def _plan(self, plan_digest: str) -> Plan:
        name = plan_digest.removeprefix("sha256:")
        try:
            plan = Plan.read(self._plans.read(name), source=f"plan {name}")
        except (KeyError, HyopsError) as exc:
            raise UnsafePlanError(f"plan {plan_digest} is missing or damaged") from exc
        if plan.digest() != plan_digest:
            raise UnsafePlanError(f"plan {name} is not what its name says")
        return plan

    def statement(
        self,
        request: DispatchRequest,
        verdict: StatementVerdict,
        *,
        approver: str,
        valid_s: float,
        acknowledged: Sequence[str] = (),
        note: str | None = None,
        accepted_loss: str | None = None,
        absent: str | None = None,
        delegation: str | None = None,
    ) -> ApprovalStatement:
        """What the approver signs.

        Raises:
            NotApprovedError: a warning is not acknowledged.
            UsageError: a text is empty, endless, or no text.
        """
        refuse_unsayable(who=approver, note=note, accepted_loss=accepted_loss)
        if verdict in ("grant", "break-glass"):
            self.plan(request)
            if missing := sorted(set(request.warnings) - set(acknowledged)):
                raise NotApprovedError(
                    "warnings are not acknowledged: " + "; ".join(missing), hint="repeat them with --acknowledge"
                )
        now = self._clock.now()
        return ApprovalStatement(
            verdict=verdict,
            approver=approver,
            signed_at=now,
            expires_at=now + timedelta(seconds=valid_s),
            plan_digest=request.plan_digest,
            dispatch_id=request.dispatch_id,
            request_digest=request.digest(),
            acknowledged_warnings=[w for w in request.warnings if w in acknowledged],
            note=note,
            accepted_loss=accepted_loss,
            on_behalf_of=absent,
            delegation=delegation,
        )

    def standing(
        self,
        plan_digest: str,
        service: str,
        kinds: Sequence[DecisionType],
        occasions: Sequence[Occasion],
        *,
        approver: str,
        valid_s: float,
        note: str | None = None,
    ) -> ApprovalStatement:
        """A standing approval for one plan that was asked for before, and that can be the same one again.

        A plan holds the digest of the state that its steps keep (INV-4), and each run makes a new generation of it: a
        standing approval would carry one run at most, and be found void when it is needed.

        Raises:
            NotApprovedError: the policy allows none, or none for so long; the plan keeps state, or is for something
                else than what it would stand for.
            UnsafePlanError: nobody has seen this plan, so that nobody can tell.
            UsageError: a text or a name cannot be written.
        """
        refuse_unsayable(who=approver, note=note)
        refuse_unnamed("--service", service)
        if not self._policy.allow_standing:
            raise NotApprovedError("the policy allows no standing approvals")
        plan = self._plan(plan_digest)
        if plan.service != service or {*kinds} != {plan.decision_type}:
            raise NotApprovedError(
                f"plan {plan_digest} is for {plan.decision_type} of {plan.service}: it never runs as "
                f"{', '.join(kinds)} of {service}",
                hint="name the plan's own service and type, or another plan, as `hyops approval show` prints it",
            )
        if kept := [f"step {step.id} keeps {ref}" for step in plan.steps if (ref := step.state_ref())]:
            raise NotApprovedError(
                f"no standing approval can hold for {plan_digest}: {', '.join(kept)}, and with the next generation of "
                "that state it is another plan",
                hint="grant each request when it waits, or take the steps that keep state out of this blueprint",
            )
        now = self._clock.now()
        statement = ApprovalStatement(
            verdict="standing",
            approver=approver,
            signed_at=now,
            expires_at=now + timedelta(seconds=valid_s),
            plan_digest=plan_digest,
            service=service,
            decision_types=list(kinds),
            occasions=list(occasions),
            note=note,
        )
        if (too_long := self._policy.too_long(statement)) is not None:
            raise NotApprovedError(too_long, hint="sign for less with --valid-for, and renew it in time")
        return statement

    def put(self, statement: ApprovalStatement, ssh_signature: str) -> Approval:
        """Verify and hear it as the stage will, then write; what would count for nothing is not written.

        Raises:
            NotApprovedError: the signature, its role, or what became of the request meanwhile; says what to do instead.
        """
        by = self._believed(statement, ssh_signature)
        approval = Approval.signed(statement, ssh_signature)
        if statement.dispatch_id is not None:
            self._refuse_idle(approval, statement.dispatch_id)
        elif (why := unfit_signer(statement, by)) is not None:
            raise NotApprovedError(why, hint=ROLE)
        self.approvals.create(approval.approval_id, approval.encoded())
        return approval

    def _refuse_idle(self, approval: Approval, dispatch_id: str) -> None:
        """Return when it changes something. Others' grants are left out: a flood of them is no reason to be silent."""
        self._said.refresh()
        self._inbox.refresh()
        if (request := self._inbox.get(dispatch_id)) is None:
            raise NotApprovedError(f"there is no request {dispatch_id} any more", hint="see `hyops approval list`")
        no = approval.statement.verdict in NO
        if self._executed(request):
            if not no:
                raise NotApprovedError(f"{dispatch_id} was approved already: an execution was made", hint=EXECUTED)
            if (late := self._too_late(request)) is not None:
                raise NotApprovedError(f"{dispatch_id}: {late.why}, and no word stops it", hint=late.instead)
        elif (yields := superseded(request, self._inbox.records())) is not None:
            raise NotApprovedError(f"{dispatch_id} is closed already: {yields}", hint=CLOSED)
        now, said = self._clock.now(), self._speaking.of(request, [approval])
        told = [one for one in said if one is approval or one.statement.verdict in (*NO, "delegate")]
        heard = hear(request, told, self._approval_verifier, self._policy, now)
        others = [one for one in said if one is not approval]
        if (why := idle(request, approval, heard, others, self._policy, now)) is not None:
            raise NotApprovedError(f"{dispatch_id}: {why}", hint=ROLE if "no role" in why else CLOSED)

    def _believed(self, statement: ApprovalStatement, ssh_signature: str) -> ApproverSignature:
        now = self._clock.now()
        by = self._approval_verifier.verify(statement.approver, statement.signed_bytes(), ssh_signature, now)
        if statement.verdict not in NO and (unseen := self._policy.unseen(by.presence)) is not None:
            raise NotApprovedError(unseen, hint=SECURITY_KEY)
        return by

    def verify(self) -> list[tuple[str, str | None]]:
        """Every approval file with what is wrong with it (None: its signature is good, by one who may say that)."""
        self._inbox.refresh()
        faults: dict[str, str] = self.approvals.faults()
        found: list[tuple[str, str | None]] = [(name, why) for name, why in sorted(faults.items())]
        for approval_id in self.approvals.ids():
            try:
                self._verify(approval_id)
                found.append((approval_id, None))
            except HyopsError as exc:
                found.append((approval_id, exc.message))
        return found

    def _waiting(self, request: DispatchRequest) -> Waiting:
        if self._executed(request):
            return Waiting(request, "executed", "an execution was made")
        if (yields := superseded(request, self._inbox.records())) is not None:
            return Waiting(request, "refused", yields)
        try:
            with foreign():
                verdict = self._judged(request)
        except HyopsError as exc:
            if not unforeseen(exc):
                raise
            return Waiting(request, "waiting", f"it cannot be judged: {' '.join(exc.message.split())}")
        return Waiting(request, verdict.state, verdict.reason)

    def _judged(self, request: DispatchRequest) -> Verdict:
        now = self._clock.now()
        heard = hear(request, self._speaking.of(request), self._approval_verifier, self._policy, now)
        return judge(request, heard, self._policy, now, markers_of(self.approvals, request.dispatch_id))

    def _executed(self, request: DispatchRequest) -> bool:
        return self._executions.slot(slot_of(request)) is not None

    def _verify(self, approval_id: str) -> None:
        if (dispatch_id := request_of(approval_id)) is not None:
            self._verify_marker(approval_id, dispatch_id)
            return
        approval = Approval.read(self.approvals.read(approval_id), source=approval_id)
        if approval.approval_id != approval_id:
            raise NotApprovedError(f"{approval_id} is a copy of {approval.approval_id}")
        statement = approval.statement
        by = self._believed(statement, approval.ssh_signature)
        if (why := unfit_signer(statement, by) or approval.misnamed()) is not None:
            raise NotApprovedError(why)

    def _verify_marker(self, approval_id: str, dispatch_id: str) -> None:
        """Return when it counts, as far as one can tell who has only the file; nobody signed it."""
        marker = read_marker(self.approvals.read(approval_id), dispatch_id)
        if self._policy.mode != "marker":
            raise NotApprovedError(NO_MARKERS)
        if (request := self._inbox.get(dispatch_id)) is None:
            raise NotApprovedError(f"there is no request {dispatch_id}")
        if (lacks := marker.lacks(request)) is not None:
            raise NotApprovedError(lacks)
