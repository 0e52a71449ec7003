"""A control host learns of takeovers from the runners that made them, and never runs any of it again (INV-9, DEC-6).

What a runner tells is believed as far as signatures carry it: the stages' under decision and request, the approvers'
under the request, the runner's under execution and result. The records of the other stages are kept as they came, in
one place of the executor's own, for no stage can write what another signs; attempt and outcome are the executor's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hyops.control.execution import attempt_of, closed_by_result, outcome_id_of
from hyops.engine.journal import read as read_journal
from hyops.errors import (
    EvidenceError,
    HyopsError,
    PrerequisiteError,
    RecordError,
    RefusedError,
    RunnerUnreachableError,
    StoreLostError,
    UnsafePlanError,
    foreign,
    unforeseen,
)
from hyops.model import canonical
from hyops.model.approval import ApprovalPolicy
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome, outcome_slot
from hyops.model.policy import ServicePolicy
from hyops.model.takeover import TakenOver
from hyops.model.vocabulary import Outcome
from hyops.ports.clock import Clock
from hyops.ports.records import Created, RecordStore
from hyops.ports.signer import ApprovalVerifier, Signer, Verifier
from hyops.ports.takeover import Epochs, TakeoverSession, TakeoverTransport
from hyops.ports.transport import RunReturn, RunStatus
from hyops.runner.admission import Rules, admit
from hyops.runner.folders import EPOCH_STEP_MAX
from hyops.services.epochs_behind import Seen, behind, note_seen
from hyops.services.inbox import Inbox, Refusals, slot_for
from hyops.services.looking import each, looking
from hyops.services.loop import log

FIRST_EPOCH = 1  # beside the mark that something was sent an executor's count must stand, however low


@dataclass(frozen=True)
class Adopted:
    """What became of one takeover; `run_id` is None of a runner that could not be asked, and of a service there whose
    next runs it refuses. `failed`: it could not be looked at or recorded now, which proves nothing about it."""

    runner_ref: str
    run_id: str | None
    state: Literal["adopted", "known", "open", "refused", "failed", "unreachable", "behind"]
    detail: str

    def body(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class AdoptStores:
    """`taken`: what takeovers ran, by run id, as the runners handed it over."""

    taken: RecordStore
    attempts: RecordStore
    outcomes: RecordStore
    refusals: RecordStore


@dataclass(frozen=True)
class Trust:
    """Whose records and approvals count on this control host."""

    verifier: Verifier
    approvals: ApprovalVerifier
    policy: ApprovalPolicy
    takeover_approvals: int


class Adopter:
    """Asks every runner; may run beside another one, for all that it writes has the same name each time."""

    def __init__(
        self,
        stores: AdoptStores,
        *,
        policies: Mapping[str, ServicePolicy],
        runners: Sequence[str],
        transport: TakeoverTransport,
        epochs: Epochs,
        trust: Trust,
        signer: Signer,
        clock: Clock,
        boundary: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._stores, self._policies, self._runners, self._transport = stores, policies, runners, transport
        self._epochs, self._trust, self._signer, self._clock = epochs, trust, signer, clock
        self._attempts = Inbox(stores.attempts, Attempt, trust.verifier, role="execution")
        self._outcomes = Inbox(stores.outcomes, AttemptOutcome, trust.verifier, role="execution")
        self._refusals = Refusals(stores.refusals, signer, "execution")
        self._boundary = boundary
        self._warned: set[str] = set()

    async def step(self) -> list[Adopted]:
        """Record every takeover that is not known yet; a runner that is away holds up no other, a bad run neither."""
        self._attempts.refresh()
        self._outcomes.refresh()
        seen: Seen = {}
        told = await each(self._runners, lambda runner_ref: self._asked(runner_ref, seen))
        return [one for found in told for one in found] + self._behind(seen)

    async def _asked(self, runner_ref: str, seen: Seen) -> list[Adopted]:
        found: list[Adopted] = []
        try:
            with foreign():  # whatever one runner tells, the others must be asked
                async with looking(self._transport, runner_ref, acts=True) as session:
                    site = (await session.hello()).site
                    for job in await session.jobs():
                        note_seen(seen, runner_ref, job.facts, self._policies)
                        if "taken_over_by" in job.facts:
                            found.append(await self._told_of(session, runner_ref, site, job))
        except HyopsError as exc:
            if unforeseen(exc):
                self._warn(f"{runner_ref} {exc.message}", "runner not asked", runner_ref=runner_ref, reason=exc.message)
            found.append(Adopted(runner_ref, None, "failed" if unforeseen(exc) else "unreachable", exc.message))
        return found

    async def _told_of(self, session: TakeoverSession, runner_ref: str, site: str, job: RunStatus) -> Adopted:
        """One takeover; whatever is wrong with it or here, the next one is looked at.

        Raises:
            RunnerUnreachableError: nothing more can be asked there.
        """
        try:
            with foreign():
                return await self._one(session, runner_ref, site, job)
        except RunnerUnreachableError:
            raise
        except HyopsError as exc:
            kind = f"{job.run_id} {type(exc).__name__}"
            self._warn(kind, "takeover not adopted", runner_ref=runner_ref, run_id=job.run_id, reason=exc.message)
            return Adopted(runner_ref, job.run_id, "failed", exc.message)

    def _behind(self, seen: Seen) -> list[Adopted]:
        """Told at every pass to who asks, and once to the log."""
        found = [Adopted(where[0], None, "behind", why) for where, why in behind(seen, self._epochs).items()]
        for one in found:
            self._warn(one.detail, "epochs behind", runner_ref=one.runner_ref, reason=one.detail)
        return found

    def _warn(self, once: str, event: str, **facts: str) -> None:
        if once not in self._warned:
            self._warned.add(once)
            log(event, **facts)

    async def _one(self, session: TakeoverSession, runner_ref: str, site: str, job: RunStatus) -> Adopted:
        known = next((a for a in self._attempts.records() if a.run_id == job.run_id), None)
        if known is not None and self._outcomes.get(outcome_id_of(known)) is not None:
            return Adopted(runner_ref, job.run_id, "known", "recorded before")
        data = b""
        try:
            data = await session.taken(job.run_id)
            taken = TakenOver.read(data, source=f"{job.run_id} on {runner_ref}")
            self._believed(taken, runner_ref, site, job.run_id)
            home = await session.collect(job.run_id, confirm=False) if job.state == "finished" else None
            self._at_odds(taken, home)
            self._follow_epoch(taken, home)
        except StoreLostError:
            raise  # nothing is known of it, least of all that it is wrong
        except (RefusedError, EvidenceError) as exc:
            return self._refused(runner_ref, job.run_id, data, exc)
        return self._recorded(taken, home, runner_ref, job)

    def _refused(self, runner_ref: str, run_id: str, data: bytes, exc: HyopsError) -> Adopted:
        """On record once per kind of error, however often it tells another story."""
        self._refusals.record(
            slot_for("takeover", run_id, type(exc).__name__),
            kind="takeover",
            subject=run_id,
            digest=canonical.digest_bytes(data),
            reason=exc.message,
            now=self._clock.now(),
            error=type(exc).__name__,
        )
        return Adopted(runner_ref, run_id, "refused", exc.message)

    def _believed(self, taken: TakenOver, runner_ref: str, site: str, run_id: str) -> None:
        """Return when it is what people approved, by the rules by which its runner admitted it then."""
        spec, trust = taken.spec, self._trust
        if spec.run_id != run_id or spec.execution.takeover is None:
            raise UnsafePlanError(f"{runner_ref} told of another run than {run_id}, or of none that is a takeover")
        if (policy := self._policies.get(spec.service)) is None:
            raise PrerequisiteError(f"service {spec.service} has no policy here")
        if spec.decision.inputs_digest != canonical.digest(taken.inputs.body()):
            raise UnsafePlanError(f"{run_id}: the decision was computed from other inputs")
        sites = {member.host: member.site for member in policy.members}
        rules = Rules(runner_ref, site, trust.verifier, trust.approvals, trust.policy, sites, trust.takeover_approvals)
        admit(spec, rules, now=spec.execution.timestamp_utc, generation_seen=0)

    def _at_odds(self, taken: TakenOver, home: RunReturn | None) -> None:
        """Return when no other run made the same generation: the quorum gives it to one (GEN-1)."""
        if home is None or home.result.primary_after is None:
            return
        for other in self._outcomes.records():
            same = (other.service, other.generation_after) == (taken.spec.service, home.result.generation_after)
            if same and other.primary_after is not None and other.run_id != taken.spec.run_id:
                raise UnsafePlanError(
                    f"{taken.spec.run_id} and {other.run_id} both promoted under generation {other.generation_after}",
                    hint="look at both runs and at the quorum before anything else is done",
                )

    def _follow_epoch(self, taken: TakenOver, home: RunReturn | None) -> None:
        """A rebuilt executor must not count from below what its runners have seen: as far as that is proved.

        What they tell besides, of other services, is told to people (see `epochs_behind`).
        """
        epoch = max(_proved_epoch(taken, home), FIRST_EPOCH)
        self._epochs.at_least(epoch, leap_max=EPOCH_STEP_MAX)

    def _recorded(self, taken: TakenOver, home: RunReturn | None, runner_ref: str, job: RunStatus) -> Adopted:
        """Each record create-only, and the outcome last: a crash before it leaves a run that is visibly open."""
        execution = taken.spec.execution
        attempt = sign_record(attempt_of(execution, "dispatch", execution.timestamp_utc), self._signer)
        self._stores.taken.create(job.run_id, taken.encoded())
        self._boundary("taken")
        self._epochs.note(attempt.attempt_id)
        self._boundary("noted")
        if self._attempts.get(attempt.attempt_id) is None:
            self._stores.attempts.create(attempt.attempt_id, attempt.encoded())
            log("takeover found", run_id=job.run_id, runner_ref=runner_ref, state=job.state)
        self._boundary("attempt")
        self._attempts.refresh()
        if home is None:
            return Adopted(runner_ref, job.run_id, "open", f"it is {job.state} on {runner_ref}")
        stands = self._attempts.get(attempt.attempt_id) or attempt
        outcome = closed_by_result(stands, home.result, self._trust.verifier, self._clock.now())
        signed = sign_record(outcome, self._signer)
        self._stores.outcomes.create(signed.outcome_id, signed.encoded(), slot=outcome_slot(attempt.attempt_id))
        self._boundary("outcome")
        self._outcomes.refresh()
        log("takeover adopted", run_id=job.run_id, runner_ref=runner_ref, outcome=outcome.outcome)
        after = f", generation {outcome.generation_after}" if outcome.generation_after else ""
        return Adopted(runner_ref, job.run_id, "adopted", f"{outcome.outcome}{after}")


def _proved_epoch(taken: TakenOver, home: RunReturn | None) -> int:
    """The epoch of a run as its journal carries it, which its runner signed; 0 while there is none, or none was taken.

    It is above all that the runner had seen of the service. What runners tell of epochs besides is signed by nobody.

    Raises:
        UnsafePlanError: the journal was opened for other bytes than those that are told.
    """
    if home is None or home.result.outcome is Outcome.REFUSED:
        return 0
    told = canonical.digest_bytes(canonical.encode(taken.spec.body()))
    entries, _, _ = read_journal(home.journal, source=f"journal of {taken.spec.run_id}")
    if not entries or entries[0].body.get("spec_digest") != told:
        raise UnsafePlanError(f"{taken.spec.run_id}: its signed journal was opened for another spec than it tells")
    return taken.spec.epoch


class WithTaken:
    """A stage's records, and beside them what takeovers brought home in its place; those are only read."""

    def __init__(self, base: RecordStore, taken: RecordStore, part: Callable[[TakenOver], Mapping[str, bytes]]) -> None:
        self._base, self._taken, self._part = base, taken, part

    def read(self, record_id: str) -> bytes:
        """Its own record, else the one that a takeover brought; what one brought that nobody can read hides no other's.

        Raises:
            KeyError: nobody has it. RecordError: nor has who can be read; and somebody cannot.
        """
        try:
            return self._base.read(record_id)
        except KeyError as exc:
            missing: KeyError | RecordError = exc
        for run_id in self._taken.ids():
            try:
                brought = self._part(TakenOver.read(self._taken.read(run_id), source=run_id))
            except KeyError:
                continue  # it was removed meanwhile
            except RecordError as exc:
                missing = exc
                continue
            if record_id in brought:
                return brought[record_id]
        raise missing

    def create(self, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
        """As the base."""
        return self._base.create(record_id, data, slot=slot)

    def slot(self, slot: str) -> str | None:
        """As the base."""
        return self._base.slot(slot)

    def known(self, slot: str) -> str | None:
        """As the base."""
        return self._base.known(slot)

    def complete(self) -> None:
        """As the base."""
        self._base.complete()

    def ids(self) -> list[str]:
        """As the base."""
        return self._base.ids()

    def changed(self, since: int) -> tuple[int, list[str]]:
        """As the base."""
        return self._base.changed(since)

    def faults(self) -> dict[str, str]:
        """As the base."""
        return self._base.faults()

    def changes(self, rescan_s: float) -> AsyncIterator[list[str]]:
        """As the base."""
        return self._base.changes(rescan_s)


def decisions_in(taken: TakenOver) -> dict[str, bytes]:
    """The decision, by its id."""
    return {taken.spec.decision.decision_id: taken.spec.decision.encoded()}


def requests_in(taken: TakenOver) -> dict[str, bytes]:
    """The request, by its id."""
    return {taken.spec.request.dispatch_id: taken.spec.request.encoded()}


def plans_in(taken: TakenOver) -> dict[str, bytes]:
    """The plan, by the hex of its digest."""
    return {taken.spec.plan.digest().removeprefix("sha256:"): canonical.encode(taken.spec.plan.body()) + b"\n"}


def inputs_in(taken: TakenOver) -> dict[str, bytes]:
    """What the decision was computed from, by the hex of its digest."""
    return {canonical.digest(taken.inputs.body()).removeprefix("sha256:"): taken.inputs.encoded()}


def approvals_in(taken: TakenOver) -> dict[str, bytes]:
    """The approvals, by id."""
    return {approval.approval_id: approval.encoded() for approval in taken.spec.approvals}


def executions_in(taken: TakenOver) -> dict[str, bytes]:
    """The execution that the runner signed, by its id."""
    return {taken.spec.execution.execution_id: taken.spec.execution.encoded()}
