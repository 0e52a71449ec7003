"""The dispatcher: every decision becomes one request or one recorded refusal. It runs nothing (DSP-1 to DSP-4)."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from hyops.control.dispatch import Ignored, PlanFor, Routed, ahead, dispatch_id_of, held_up, over_at, route, slot_of
from hyops.errors import HyopsError, PrerequisiteError, RecordError, StoreLostError, foreign, of_this_host
from hyops.model import canonical
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest, Route
from hyops.model.dsse import sign_record
from hyops.model.plan import Plan
from hyops.model.routes import Routes
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import Signer, Verifier
from hyops.services.already import Already
from hyops.services.inbox import Inbox, Letter, Refusals, Rejected, slot_for
from hyops.services.loop import LeftOpenError, log, run_stage
from hyops.services.noting import Notes
from hyops.services.steady_clock import ALONE_S

REQUEST_BYTES_MAX = 1_500_000  # what etcd takes; a loop on files may move there


class DispatchStage:
    """Reads `decisions`; writes `plans`, `requests` and `refusals`."""

    def __init__(
        self,
        *,
        decisions: RecordStore,
        requests: RecordStore,
        plans: RecordStore,
        refusals: RecordStore,
        routes: Routes,
        plan_for: PlanFor,
        signer: Signer,
        verifier: Verifier,
        clock: Clock,
        max_age_s: float = 3600.0,
    ) -> None:
        self._inbox = Inbox(decisions, Decision, verifier, role="decision", unsigned_allowed=True)
        self._requests, self._plans, self._plans_seen = requests, plans, 0
        self._already = Already(requests, DispatchRequest, verifier, "dispatch")
        self._refusals = Refusals(refusals, signer, "dispatch")
        self._routes, self._plan_for, self._max_age_s = routes, plan_for, max_age_s
        self._signer, self._clock = signer, clock
        self._ahead_since: dict[str, float] = {}

    async def step(self, slow: bool = False) -> None:
        """Route everything that has neither a request nor a refusal. One that cannot be recorded holds up no other.

        Nor does one that nobody foresaw: what goes wrong with it is recorded as its refusal, and that closes it. Where
        other bytes stand in the place of its plan or request, a refusal says so, once for these bytes. The decision
        stays open: whoever mends the folder lets it go on.

        Raises:
            LeftOpenError: of the first that cannot be recorded, or routed by this host now, after all the others.
        """
        self._clock.surely()  # a step is seen when it is made, not when something comes
        self._inbox.refresh()
        stuck: list[HyopsError] = []
        letters = self._inbox.open_letters()
        if self._ahead_since:
            open_ones = {letter.name for letter in letters}
            self._ahead_since = {name: at_s for name, at_s in self._ahead_since.items() if name in open_ones}
        if letters:
            self._already.refresh()
        for letter in letters:
            try:
                with foreign():
                    routed = self._route(letter)
            except StoreLostError:
                raise
            except HyopsError as exc:
                stuck.append(exc)
                continue
            if routed:
                self._inbox.settle(letter.name)
        notes = Notes(stuck)
        for bad in [*self._inbox.rejected(), *(self._inbox.torn() if slow else [])]:
            notes.write(partial(self._refuse, bad))
        if stuck:
            raise LeftOpenError(stuck[0]) from stuck[0]

    def _refuse(self, bad: Rejected) -> None:
        slot = slot_for("bad", bad.name, bad.digest)
        made = self._refusals.record(
            slot, kind="decision", subject=bad.name, digest=bad.digest, reason=bad.reason, now=self._clock.now()
        )
        if made:
            log("decision refused", decision=bad.name, reason=bad.reason)

    def _route(self, letter: Letter[Decision]) -> bool:
        """Whether it is answered; False: its answer has no place, or nobody knows what time it is."""
        decision = letter.record
        if self._asked(decision) or any(self._refusals.has(slot_of(decision, one)) for one in ("ignored", "bad")):
            return True
        now = self._clock.now()
        if (until := over_at(decision, self._max_age_s)) is not None and self._clock.surely() < until <= now:
            return False
        try:
            with foreign():  # whatever one record does to the code that judges it, the others must be routed
                found = self._found(letter, now)
        except HyopsError as exc:
            if of_this_host(exc):  # not of the record: it stays open
                raise RecordError(f"{letter.name}: {exc.message}", hint="it is tried again by itself") from exc
            return self._close(decision, "bad", f"cannot be routed: {' '.join(exc.message.split())}", now)
        if (known := self._dated(letter, found, now)) is None:
            return False
        found = known
        if isinstance(found, Ignored):
            return self._close(decision, "ignored", found.reason, now)
        return self._record(decision, found)

    def _dated(self, letter: Letter[Decision], found: Routed | Ignored, now: datetime) -> Routed | Ignored | None:
        """What is found of it; None: it is dated ahead of this host's clock, and nobody knows yet which clock is wrong.

        That shows when this one is set. Time that only passes makes no decision good that was made by a wrong clock.
        """
        if isinstance(found, Ignored) and found.reason != ahead(letter.record, now):
            return found
        now_s, since_s = self._clock.monotonic(), self._ahead_since.get(letter.name)
        if since_s is None:
            if isinstance(found, Ignored):
                self._ahead_since[letter.name] = now_s
                log("decision waits", decision_id=letter.record.decision_id, reason=found.reason)
                return None
            return found
        dated = ahead(letter.record, now - timedelta(seconds=now_s - since_s))
        if dated is None:
            return found
        return Ignored(dated) if now_s - since_s >= ALONE_S else None

    def _found(self, letter: Letter[Decision], now: datetime) -> Routed | Ignored:
        """What becomes of it, the request signed; nothing is written yet.

        Raises:
            PrerequisiteError: the planner lacks something here now, which is no reason to deny it for good.
        """
        missing: list[PrerequisiteError] = []

        def plan_for(chosen: Route, decision: Decision) -> Plan:
            try:
                return self._plan_for(chosen, decision)
            except PrerequisiteError as exc:
                missing.append(exc)
                raise

        found = route(
            letter.record,
            source_file=f"{letter.name}.json",
            signed=letter.signed,
            routes=self._routes,
            plan_for=plan_for,
            now=now,
            max_age_s=self._max_age_s,
        )
        if missing:
            raise missing[0]
        if isinstance(found, Ignored):
            return found
        request = sign_record(found.request, self._signer)
        if (size := len(request.encoded())) > REQUEST_BYTES_MAX:
            raise RecordError(f"its request has {size} bytes, more than {REQUEST_BYTES_MAX}: let its checks say less")
        return Routed(request, found.plan)

    def _close(self, decision: Decision, slot: Literal["ignored", "bad"], reason: str, now: datetime) -> bool:
        made = self._refusals.record(
            slot_of(decision, slot),
            kind="decision",
            subject=decision.decision_id,
            digest=decision.digest(),
            reason=reason,
            now=now,
        )
        if made:
            word = "ignored" if slot == "ignored" else "refused"
            log(f"decision {word}", decision_id=decision.decision_id, reason=reason)
        return True

    def _asked(self, decision: Decision) -> bool:
        """Whether there is a request of it, also one that came back without its slot."""
        if self._requests.known(slot_of(decision)):
            return True
        digest = decision.digest()
        like = dispatch_id_of(decision, self._clock.now())
        return self._already.made(like, lambda one: one.source_decision_digest == digest) is not None

    def _record(self, decision: Decision, found: Routed) -> bool:
        request, plan = found.request, found.plan
        if plan is not None:
            name = plan.digest().removeprefix("sha256:")
            try:
                self._keep(plan, name)
            except RecordError as exc:
                return self._held_up(decision, "plan", self._plans, name, exc)
        try:
            made = self._requests.create(request.dispatch_id, request.encoded(), slot=slot_of(decision))
        except RecordError as exc:
            return self._held_up(decision, "request", self._requests, request.dispatch_id, exc)
        if made.made:
            log(
                "request made",
                decision_id=decision.decision_id,
                request_id=request.dispatch_id,
                status=request.status,
                reason=request.reason,
            )
        return True

    def _keep(self, plan: Plan, name: str) -> None:
        """Keep the plan under its digest. One that stands is only read: a creation costs a write even if refused."""
        data = canonical.encode(plan.body()) + b"\n"
        self._plans_seen, _ = self._plans.changed(self._plans_seen)  # what is looked at is read without a request
        with contextlib.suppress(KeyError):
            if self._plans.read(name) == data:
                return
        self._plans.create(name, data)

    def _held_up(self, decision: Decision, kind: str, store: RecordStore, name: str, exc: RecordError) -> bool:
        """Say what stands where the decision's plan or request belongs: a refusal of that file, not of the decision."""
        try:
            there = canonical.digest_bytes(store.read(name))
        except (KeyError, RecordError):  # no file, or too large
            there = canonical.digest_bytes(exc.message.encode())
        reason = held_up(decision, f"{exc.message}; it goes on when that is mended or moved away")
        slot = slot_for("stands", decision.digest(), name, there)
        if self._refusals.record(slot, kind=kind, subject=name, digest=there, reason=reason, now=self._clock.now()):
            log("decision held up", decision_id=decision.decision_id, reason=exc.message)
        return False


async def run(stage: DispatchStage, decisions: RecordStore) -> None:
    """Serve until told to stop."""
    await run_stage(stage.step, [decisions], name="dispatch")
