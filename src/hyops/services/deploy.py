"""A blueprint on a runner, by the loop's own way: decision, request, approval, execution, and the run to its end.

This command is one more executor, for its own decision alone (`Starts.dialling` keeps the others from it): it holds the
secrets and the one connection. It approves nothing; when it is killed, the executor of this host goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from hyops.control.approval import slot_of as execution_slot
from hyops.control.dispatch import slot_of as request_slot
from hyops.control.execution import attempt_id_of, outcome_id_of
from hyops.errors import (
    DeadlineError,
    HyopsError,
    NotApprovedError,
    PrerequisiteError,
    RecordError,
    RunnerUnreachableError,
)
from hyops.model.approval import ApprovalPolicy
from hyops.model.base import Record
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record, verify_record
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.plan import Plan
from hyops.model.refusal import Refusal
from hyops.model.vocabulary import RequestStatus
from hyops.ports.bundle import BundleFile
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import Signer, Verifier
from hyops.ports.starts import Hindrance, Starts
from hyops.ports.transport import RunEvent, RunnerTransport
from hyops.services import deploy_checks as checks
from hyops.services.asking import record_once
from hyops.services.ci import await_it
from hyops.services.deploy_checks import Finding
from hyops.services.deploy_plan import Asked, Rules, Wanted, wanted
from hyops.services.deploy_record import DeployRecord
from hyops.services.deploy_refusals import refused_by
from hyops.services.deploy_secrets import SyncEnv
from hyops.services.execution import ExecutionStage
from hyops.services.execution_parts import Bundles, ExecutionStores
from hyops.services.following import RETRY_S
from hyops.services.held_link import HeldLink
from hyops.services.inbox import slot_for

R = TypeVar("R", bound=Record)
TRIES_MAX = 40  # dials of one run, ten minutes at least; a job that dies whenever it is started never ends by itself
REQUEST_LIMIT_S = 30.0  # the dispatcher takes milliseconds; one that says nothing for so long is not there


class StageFor(Protocol):
    """An executor for one decision."""

    def __call__(
        self,
        transport: RunnerTransport,
        bundles: Bundles,
        on_event: Callable[[Attempt, RunEvent], None],
        claimed: Collection[str],
    ) -> ExecutionStage:
        """Made when there is something to execute."""


class Bootstraps(Protocol):
    """Runs the command that makes a runner."""

    async def __call__(self, command: list[str], write: Callable[[bytes], None]) -> None:
        """Return when it ended well; TargetError otherwise. `write` gets its output in pieces of any size."""


@dataclass(frozen=True)
class Loop:
    """Where the stages of this control host keep their records, and what this command works with."""

    stores: ExecutionStores
    inputs: RecordStore
    files: Callable[[Plan], Mapping[str, BundleFile]]
    dispatch_refusals: RecordStore
    approval_refusals: RecordStore
    approval_policy: ApprovalPolicy
    approvers: Callable[[], Collection[str]]
    signer: Signer
    verifier: Verifier
    clock: Clock
    starts: Starts
    transport: RunnerTransport
    stage: StageFor
    glances: Callable[[], AsyncIterator[None]]
    bootstraps: Bootstraps
    never_made: checks.NeverMade = lambda place: None


@dataclass(frozen=True)
class How:
    """What was said about the way. `wait_s` None: as long as the request lives."""

    wait_s: float | None = None
    bypass_reason: str | None = None
    keep: bool = False
    bootstrap: bool = False


Tell = Callable[[str, Mapping[str, Any]], None]


@dataclass
class Deployment:
    """One blueprint, once. `tell` gets what happens as it happens, by name."""

    asked: Asked
    rules: Rules
    loop: Loop
    secrets: SyncEnv
    tell: Tell
    how: How = field(default_factory=How)
    phases_s: dict[str, float] = field(default_factory=dict)
    unproven: HyopsError | None = None
    """Why the evidence of a run that ended could not be made."""

    def plan(self) -> Wanted:
        """What the loop will make of it."""
        return wanted(self.asked, self.rules, self.loop.clock.now())

    async def check(self, want: Wanted, link: RunnerTransport) -> list[Finding]:
        """Every check at once; changes nothing."""
        plan, proved = want.plan, self.asked.proof is not None
        found = [
            Finding("plan", "ok", f"{plan.blueprint_ref}, {len(plan.steps)} steps, {plan.digest()}"),
            checks.approvers(self.loop.approval_policy, self.loop.approvers, self.asked.by, proved=proved),
            checks.fencing(plan),
        ]
        if self.how.bypass_reason is not None:
            return found + [Finding(name, "bypassed", self.how.bypass_reason) for name in checks.BYPASSED]
        (stands, _), secrets = await asyncio.gather(
            checks.runner(link, want.runner_ref, want.place, plan, self.loop.never_made),
            checks.secrets(self._keys, plan),
        )
        return [*found, *stands, checks.access(plan), checks.data_source(plan), secrets]

    async def preflight(self, want: Wanted) -> list[Finding]:
        """Every check over one connection; the authority is asked, and nothing of what it says is kept."""
        async with HeldLink(self.loop.transport) as link:
            try:
                await self.secrets.refresh(dry_run=True)
            except HyopsError as exc:
                return [*await self.check(want, link), checks.bad("authority", exc)]
            return await self.check(want, link)

    async def deploy(self, want: Wanted, record: DeployRecord) -> AttemptOutcome:
        """Bring it to its end; the refusal of whoever refused it otherwise.

        `record` has begun: what was asked for, and why a check was left out, is on disk before anything is done.
        """
        async with HeldLink(self.loop.transport) as link:
            if (refreshed := await self.secrets.refresh(dry_run=False)) is not None:
                record.add(secrets=refreshed)
                self.tell("secrets", refreshed)
            with self._timed("preflight"):
                await self._checked(want, link, record)
            with self.loop.starts.dialling(want.decision.decision_id) as mine:
                return await self._through(want, link, record, mine)

    async def _checked(self, want: Wanted, link: HeldLink, record: DeployRecord) -> None:
        found = await self.check(want, link)
        if self.how.bootstrap and want.place.bootstrap and any(finding.absent for finding in found):
            record.add(bootstrap=want.place.bootstrap)
            self.tell("bootstrap", {"runner_ref": want.runner_ref, "command": want.place.bootstrap})
            self._guard(record)
            with self._timed("bootstrap"), record.output() as write:
                await self.loop.bootstraps(want.place.bootstrap, write)
            found = await self.check(want, link)
        record.add(findings=[finding.body() for finding in found])
        self.tell("preflight", {"findings": [finding.body() for finding in found]})
        if (fault := checks.refusal(found)) is not None:
            raise fault
        self._guard(record)

    def _guard(self, record: DeployRecord) -> None:
        """Keep every value of the run out of the record: before anything that may know one writes into it.

        Raises:
            SecretsError: the cache cannot be read, so what is in it could not be kept out.
        """
        if self.secrets.origins():
            record.redactor = self.secrets.redactor()

    async def _through(self, want: Wanted, link: HeldLink, record: DeployRecord, mine: bool) -> AttemptOutcome:
        with self._timed("request"):
            request = await self._requested(want)
        record.requested(dispatch_id=request.dispatch_id, request_digest=request.digest())
        self.tell("request", request.body())
        with self._timed("approval"):
            execution = await self._approved(request)
        record.add(execution_id=execution.execution_id, approval=execution.approval.body())
        record.named(execution.run_id())
        self.tell("execution", {"run_id": execution.run_id(), **execution.approval.body()})
        with self._timed("run"):
            return await self._executed(want, execution, link, record, mine)

    async def _requested(self, want: Wanted) -> DispatchRequest:
        """Record the decision, and wait for the dispatcher's request; it must be what was shown."""
        loop = self.loop
        signed = sign_record(want.decision, loop.signer)
        decision = record_once(loop.stores.decisions, loop.inputs, signed, want.inputs, loop.verifier)
        self.tell("decision", {"decision_id": decision.decision_id})

        def look() -> DispatchRequest | None:
            if (ignored := loop.dispatch_refusals.slot(request_slot(decision, "ignored"))) is not None:
                raise refused_by(self._one(loop.dispatch_refusals, ignored, Refusal, "dispatch"))
            found = loop.stores.requests.slot(request_slot(decision))
            return None if found is None else self._one(loop.stores.requests, found, DispatchRequest, "dispatch")

        request = await await_it(look, loop.glances(), REQUEST_LIMIT_S)
        if request is None:
            raise PrerequisiteError(
                f"the dispatcher made no request of {decision.decision_id} within {REQUEST_LIMIT_S:g} s",
                hint="start hyops-decision-dispatcher; the decision stands until it expires, and waits for approval",
            )
        if request.status is RequestStatus.DENIED:
            raise NotApprovedError(f"{request.dispatch_id} was denied: {request.reason}", hint="mend what it names")
        told, shown = (request.plan_digest, request.runner_ref), (want.plan.digest(), want.runner_ref)
        if told != shown:
            raise refused_by(None, f"{request.dispatch_id} is for {told}, and {shown} was checked here")
        return request

    async def _approved(self, request: DispatchRequest) -> Execution:
        """Wait for people, and for nothing else (APR-3)."""
        loop = self.loop

        def look() -> Execution | None:
            if (made := loop.stores.executions.slot(execution_slot(request))) is not None:
                return self._one(loop.stores.executions, made, Execution, "approval")
            if (closed := loop.approval_refusals.slot(slot_for("closed", request.digest()))) is not None:
                raise refused_by(self._one(loop.approval_refusals, closed, Refusal, "approval"))
            return None

        lives_s = (request.expires_at - loop.clock.now()).total_seconds() + 2 * RETRY_S[1]
        wait_s = lives_s if self.how.wait_s is None else min(self.how.wait_s, lives_s)
        execution = await await_it(look, loop.glances(), wait_s)
        if execution is None:
            raise NotApprovedError(
                f"{request.dispatch_id} was not approved within {wait_s:g} s",
                hint=f"it is still open, and runs when it is approved; `hyops approval reject {request.dispatch_id}` "
                "ends it",
            )
        if execution.plan_digest != request.plan_digest or execution.source_request_digest != request.digest():
            raise refused_by(None, f"{execution.execution_id} is not for {request.dispatch_id}")
        return execution

    async def _executed(
        self, want: Wanted, execution: Execution, link: HeldLink, record: DeployRecord, mine: bool
    ) -> AttemptOutcome:
        """Dial until it is closed; where another executor has the attempt, watch it."""
        loop = self.loop
        bundles = Bundles(
            files=loop.files,
            secrets=lambda _: self.secrets.handed(want.runner_ref, want.place),
            keep=self.how.keep,
        )

        def heard(_: Attempt, event: RunEvent) -> None:
            if event.stream == "log":
                record.line(str(event.body.get("line", "")))
            self.tell("event", {"stream": event.stream, "offset": event.offset, "body": event.body})

        hindrance: Hindrance | None = None
        stage = loop.stage(link, bundles, heard, {want.decision.decision_id}) if mine else None
        pause_s = RETRY_S[0]
        for _ in range(TRIES_MAX):
            if stage is not None:
                await self._dialled(stage, execution)
            if (outcome := self._outcome(execution)) is not None:
                return outcome
            if stage is None:
                await self._watched(execution, link, heard)
            hindrance = self._hindered(execution, hindrance)
            if (outcome := await await_it(lambda: self._outcome(execution), loop.glances(), pause_s)) is not None:
                return outcome
            pause_s = min(pause_s * 2, RETRY_S[1])
        run_id = execution.run_id()
        why = "the runner cannot be reached, or the job dies at each start" if hindrance is None else hindrance.message
        raise DeadlineError(
            f"{run_id} has no end after {TRIES_MAX} tries: {why}",
            hint=f"`hyops run show {run_id}`, and job.err of the run on {want.runner_ref}, say which; it stays open",
        )

    def _hindered(self, execution: Execution, before: Hindrance | None) -> Hindrance | None:
        """Why the last try stopped short, told when it is news."""
        now = self.loop.starts.hindrance(attempt_id_of(execution, "dispatch"))
        if now is not None and (before is None or now.message != before.message):
            self.tell("hindered", now.body())
        return now

    async def _dialled(self, stage: ExecutionStage, execution: Execution) -> None:
        """One pass. Evidence that could not be made is no reason to say that the run did not end."""
        for attempt in await stage.step():
            try:
                await stage.dial(attempt)
            except HyopsError as exc:
                if self._outcome(execution) is None:
                    raise
                self.unproven = exc
                self.tell("evidence", exc.as_json())
        stage.refuse_stuck()

    async def _watched(self, execution: Execution, link: HeldLink, heard: Callable[[Attempt, RunEvent], None]) -> None:
        """See a run that another executor has started, as far as the link lets us."""
        if (attempt := self._attempt(execution)) is None:
            return
        try:
            async with link.connect(attempt.runner_ref) as session:
                async for event in session.attach(attempt.run_id, 0):
                    heard(attempt, event)
        except RunnerUnreachableError as exc:
            self.tell("link", {"message": exc.message})

    def _attempt(self, execution: Execution) -> Attempt | None:
        try:
            return self._one(self.loop.stores.attempts, attempt_id_of(execution, "dispatch"), Attempt, "execution")
        except KeyError:
            return None

    def _outcome(self, execution: Execution) -> AttemptOutcome | None:
        """How it ended; the refusal when the executor will never run it."""
        stores = self.loop.stores
        if (attempt := self._attempt(execution)) is None:
            if (closed := stores.refusals.slot(slot_for("closed", execution.digest()))) is not None:
                raise refused_by(self._one(stores.refusals, closed, Refusal, "execution"))
            return None
        try:
            return self._one(stores.outcomes, outcome_id_of(attempt), AttemptOutcome, "execution")
        except KeyError:
            return None

    def _one(self, store: RecordStore, record_id: str, kind: type[R], role: str) -> R:
        """One record that may be believed; KeyError when there is none."""
        record = kind.read(store.read(record_id), source=record_id)
        keyid = verify_record(record, self.loop.verifier)
        if record.record_id != record_id or role not in self.loop.verifier.roles(keyid):
            raise RecordError(f"{record_id}: a copy, or signed by a key that may not speak for {role}")
        return record

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = self.loop.clock.monotonic()
        try:
            yield
        finally:
            self.phases_s[phase] = round(self.loop.clock.monotonic() - began, 6)

    async def _keys(self) -> Collection[str]:
        return self.secrets.values().keys() if self.secrets.origins() else ()
