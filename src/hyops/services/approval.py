"""The approval stage (`decision-consumer`): a request with valid approvals becomes one execution (APR-1 to APR-3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import partial

from hyops.control.approval import TOO_LATE, Marker, Verdict, execution_id_of, execution_of, judge, slot_of
from hyops.control.giving_way import superseded
from hyops.control.hearing import Names, hear
from hyops.errors import HyopsError, RecordError, StoreLostError, foreign, unforeseen
from hyops.model import canonical, ids
from hyops.model.approval import Approval, ApprovalPolicy
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Execution
from hyops.model.vocabulary import RequestStatus
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import ApprovalVerifier, Signer, Verifier
from hyops.services.already import Already
from hyops.services.inbox import Inbox, Refusals, Rejected, odd_slot, slot_for
from hyops.services.loop import LeftOpenError, log, run_stage
from hyops.services.markers import MARKER_SUFFIX, marker_id_of, read_marker
from hyops.services.noting import Notes


class Speaking:
    """Which approvals speak of a request: its own, what stands for its service, delegations, and what ends these."""

    def __init__(self, approvals: Inbox[Approval]) -> None:
        self._approvals = approvals
        self._removals, self._read = -1, 0
        self._by: defaultdict[tuple[str | None, str | None], list[Approval]] = defaultdict(list)
        self._delegations: defaultdict[str, list[Approval]] = defaultdict(list)
        self._names = Names()

    def of(
        self, request: DispatchRequest, also: Sequence[Approval] = (), names: Collection[str] = ()
    ) -> list[Approval]:
        """By id, so oldest first. `also`: as if it lay there too; `names`: and what ends these, there or not."""
        if self._removals != self._approvals.removals:
            self._removals, self._read = self._approvals.removals, 0
            self._by.clear()
            self._delegations.clear()
            self._names = Names()
        for approval in self._approvals.taken[self._read :]:
            statement = approval.statement
            self._names.note(approval)
            if statement.takes_back or statement.verdict == "delegate":
                self._delegations[statement.delegation or approval.approval_id].append(approval)
                continue
            own = statement.dispatch_id is not None
            self._by[statement.dispatch_id, None if own else statement.service].append(approval)
        self._read = len(self._approvals.taken)
        found = [*self._by[request.dispatch_id, None], *self._by[None, request.service], *also]
        named = {approval.statement.delegation or approval.approval_id for approval in found}.union(names)
        named = {alike for name in named for alike in self._names.of(name)}
        found += [approval for name in named for approval in self._delegations.get(name, ())]
        return sorted(found, key=lambda approval: approval.approval_id)


class ApprovalStage:
    """Reads `requests` and `approvals`; writes `executions` and `refusals`."""

    def __init__(
        self,
        *,
        requests: RecordStore,
        approvals: RecordStore,
        executions: RecordStore,
        refusals: RecordStore,
        policy: ApprovalPolicy,
        approval_verifier: ApprovalVerifier,
        signer: Signer,
        verifier: Verifier,
        clock: Clock,
    ) -> None:
        self._requests = Inbox(requests, DispatchRequest, verifier, role="dispatch")
        self._store = approvals
        self._approvals = Inbox(approvals, Approval, verifier, role=None)
        self._executions = executions
        self._already = Already(executions, Execution, verifier, "approval")
        self._refusals = Refusals(refusals, signer, "approval")
        self._policy, self._approval_verifier = policy, approval_verifier
        self._signer, self._clock = signer, clock
        self._speaking = Speaking(self._approvals)

    async def step(self, slow: bool = False) -> None:
        """Judge every request that is still open. One that cannot be judged holds up no other.

        What nobody foresaw is recorded once as a refusal, and the request waits: what stands beside it may be the
        cause, and nobody closes a request by writing something odd.

        Raises:
            LeftOpenError: of the first request that this host cannot judge now, after all the others.
        """
        self._clock.surely()  # a step is seen when it is made, not when something comes
        self._approvals.refresh()  # before the requests: an approval is always younger than its request
        self._requests.refresh()
        letters = self._requests.open_letters()
        if letters:
            self._already.refresh()
        stuck = [exc for letter in letters if (exc := self._stuck(letter.record)) is not None]
        self._refuse_bad(Notes(stuck), slow)
        if stuck:
            raise LeftOpenError(stuck[0]) from stuck[0]

    def _stuck(self, request: DispatchRequest) -> HyopsError | None:
        """Judge one request; returns why this host cannot do it now, or cannot say what is odd about it."""
        try:
            with foreign():
                self._judge(request)
        except StoreLostError:
            raise
        except HyopsError as exc:
            if not unforeseen(exc):
                return exc
            left = list[HyopsError]()
            Notes(left).write(partial(self._odd, request, " ".join(exc.message.split())))
            return left[0] if left else None
        return None

    def _odd(self, request: DispatchRequest, why: str) -> None:
        digest = request.digest()
        said = f"it waits, for it cannot be judged: {why}; remove what is odd beside it"
        self._refuse(odd_slot(request), "request", request.dispatch_id, digest, said)
        if self._clock.surely() >= request.expires_at:
            late = f"{TOO_LATE} {ids.stamp(request.expires_at)}"
            self._refuse(slot_for("closed", digest), "request", request.dispatch_id, digest, late)
            self._requests.settle(request.dispatch_id)

    def _refuse_bad(self, notes: Notes, slow: bool) -> None:
        """What may not be believed; with `slow` also files that are no records, and approvals of no request."""
        requests = [*self._requests.rejected(), *(self._requests.torn() if slow else [])]
        approvals = [bad for bad in self._approvals.rejected() if not bad.name.endswith(MARKER_SUFFIX)]
        approvals += self._misfits() if slow else []
        for kind, found in (("request", requests), ("approval", approvals)):
            for bad in found:
                slot = slot_for("bad", bad.name, bad.digest)
                notes.write(partial(self._refuse, slot, kind, bad.name, bad.digest, bad.reason))

    def _misfits(self) -> list[Rejected]:
        misfits = self._approvals.torn()
        for letter in self._approvals.letters():
            dispatch_id = letter.record.statement.dispatch_id
            if dispatch_id is not None and self._requests.get(dispatch_id) is None:
                misfits.append(Rejected(letter.name, letter.digest, f"there is no request {dispatch_id}"))
        return misfits

    def _judge(self, request: DispatchRequest) -> None:
        if self._executed(request) or self._refusals.has(slot_for("closed", request.digest())):
            self._requests.settle(request.dispatch_id)
            return
        now = self._clock.now()
        heard = hear(request, self._speaking.of(request), self._approval_verifier, self._policy, now)
        markers = list(self._marker(marker_id_of(request.dispatch_id), request))
        yields = superseded(request, (letter.record for letter in self._requests.letters()))
        verdict = Verdict("refused", yields) if yields else judge(request, heard, self._policy, now, markers)
        sure = self._clock.surely()
        if verdict.state == "expired" and request.status is not RequestStatus.EXPIRED and sure < request.expires_at:
            return  # it may be over, or not
        for unfit in verdict.unfit if sure >= now else ():  # of a time that nobody confirmed nothing is said for good
            if (data := self._bytes(unfit.approval_id)) is None:
                continue  # it is gone, or nobody can read it any more: then it is refused as that
            digest = canonical.digest_bytes(data)
            slot = slot_for("unfit", request.digest(), unfit.approval_id, digest)
            self._refuse(slot, "approval", unfit.approval_id, digest, f"{request.dispatch_id}: {unfit.reason}")
        if verdict.state == "ready":
            self._execute(request, verdict)
        elif verdict.state in ("refused", "expired"):
            self._refuse(
                slot_for("closed", request.digest()), "request", request.dispatch_id, request.digest(), verdict.reason
            )
            self._requests.settle(request.dispatch_id)
        elif heard.too_many is not None:  # it stays open: who mends the folder lets it go on
            slot = slot_for("flooded", request.digest())
            self._refuse(slot, "request", request.dispatch_id, request.digest(), heard.too_many)

    def _executed(self, request: DispatchRequest) -> bool:
        """Whether there is an execution of it, also one that came back without its slot: no approval counts twice."""
        if self._executions.known(slot_of(request)):
            return True
        digest = request.digest()
        like = execution_id_of(request, self._clock.now())
        return self._already.made(like, lambda one: one.source_request_digest == digest) is not None

    def _execute(self, request: DispatchRequest, verdict: Verdict) -> None:
        execution = sign_record(execution_of(request, verdict, self._clock.now()), self._signer)
        made = self._executions.create(execution.execution_id, execution.encoded(), slot=slot_of(request))
        self._requests.settle(request.dispatch_id)
        if made.made:
            by = ", ".join(execution.approval.approved_by)
            log("execution made", request_id=request.dispatch_id, execution_id=execution.execution_id, approved_by=by)

    def _marker(self, approval_id: str, request: DispatchRequest) -> Iterator[Marker]:
        data = self._bytes(approval_id) if self._approvals.readable(approval_id) else None
        if data is None:
            return  # there is none, or it is no document at all: one of `_misfits`
        try:
            yield read_marker(data, request.dispatch_id)
        except RecordError as exc:
            digest = canonical.digest_bytes(data)
            self._refuse(slot_for("bad", approval_id, digest), "approval", approval_id, digest, exc.message)

    def _bytes(self, approval_id: str) -> bytes | None:
        """None: it is gone, or cannot be read now."""
        try:
            return self._store.read(approval_id)
        except (KeyError, RecordError):
            return None

    def _refuse(self, slot: str, kind: str, subject: str, digest: str, reason: str) -> None:
        made = self._refusals.record(
            slot, kind=kind, subject=subject, digest=digest, reason=reason, now=self._clock.now()
        )
        if made:
            log(f"{kind} refused", subject=subject, reason=reason)


async def run(stage: ApprovalStage, requests: RecordStore, approvals: RecordStore) -> None:
    """Serve until told to stop."""
    await run_stage(stage.step, [requests, approvals], name="approval")
