"""Sealing standby orders in advance: the decision stage's half and the dispatcher's half of it (INV-9).

Each signs its own record with its own key, in a store of its own that no other stage acts on. Nothing is sealed while
nobody knows where a service is; what was sealed before stands until it lapses, and is stale by its generation.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from hyops.control.dispatch import PlanFor, Routed, route
from hyops.control.mode import mode_of
from hyops.control.standby import (
    RENEWED_S,
    VALID_S,
    due,
    mark_of,
    newest_decisions,
    newest_request,
    runners_of,
    sealable,
    standby_decision,
    standby_inputs,
)
from hyops.errors import HyopsError, foreign
from hyops.model import canonical
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.policy import ServicePolicy
from hyops.model.routes import Routes
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import Signer, Verifier
from hyops.services.inbox import Inbox, slot_for
from hyops.services.loop import ERROR_PAUSE_S, log
from hyops.services.standing import Standing

OWN = {"dispatch_id", "timestamp_utc", "expires_at", "signature"}  # of each request; the rest is what it says


class DecisionSealer:
    """Reads `attempts` and `outcomes`; writes `inputs` and `standby` of the decision stage, for all of its services.

    `services`: each policy with the generation that its service had when it was set up.
    """

    def __init__(
        self,
        services: Sequence[tuple[ServicePolicy, int]],
        *,
        standby: RecordStore,
        inputs: RecordStore,
        attempts: RecordStore,
        outcomes: RecordStore,
        signer: Signer,
        verifier: Verifier,
        clock: Clock,
    ) -> None:
        self._services, self._store, self._inputs = services, standby, inputs
        self._known = Inbox(standby, Decision, verifier, role="decision")
        self._standing = Standing(
            Inbox(attempts, Attempt, verifier, role="execution"),
            Inbox(outcomes, AttemptOutcome, verifier, role="execution"),
        )
        self._signer, self._clock = signer, clock

    async def step(self) -> int:
        """Seal what is due; returns how many decisions were made."""
        self._known.refresh()
        self._standing.refresh()
        known: defaultdict[str | None, list[Decision]] = defaultdict(list)
        for decision in self._known.records():
            known[decision.service].append(decision)
        return sum([self._seal(policy, first, known[policy.service]) for policy, first in self._services])

    def _seal(self, policy: ServicePolicy, first: int, known: list[Decision]) -> int:
        now = self._clock.now()
        mode = mode_of(policy, first, *self._standing.telling(policy.service))
        if not sealable(mode):
            return 0
        made = 0
        for runner_ref in runners_of(policy, mode):
            if not due(known, policy, mode, runner_ref, now):
                continue
            inputs = standby_inputs(policy, mode, runner_ref, now)
            decision = sign_record(standby_decision(inputs), self._signer)
            self._inputs.create((decision.inputs_digest or "").removeprefix("sha256:"), inputs.encoded())
            slot = slot_for("standby", mark_of(policy, mode, runner_ref), str(int(now.timestamp() // RENEWED_S)))
            if self._store.create(decision.decision_id, decision.encoded(), slot=slot).made:
                made += 1
                log("standby decision sealed", decision_id=decision.decision_id, runner_ref=runner_ref)
        return made


class RequestSealer:
    """Reads the decision stage's `standby`; writes `plans` and `standby` of the dispatcher."""

    def __init__(
        self,
        *,
        decisions: RecordStore,
        standby: RecordStore,
        plans: RecordStore,
        routes: Routes,
        plan_for: PlanFor,
        signer: Signer,
        verifier: Verifier,
        clock: Clock,
    ) -> None:
        self._decisions = Inbox(decisions, Decision, verifier, role="decision")
        self._known = Inbox(standby, DispatchRequest, verifier, role="dispatch")
        self._store, self._plans, self._routes, self._plan_for = standby, plans, routes, plan_for
        self._signer, self._clock = signer, clock
        self._ignored: set[str] = set()

    async def step(self) -> int:
        """Make a request of each decision that has none, or whose route or plan has changed; returns how many."""
        self._decisions.refresh()
        self._known.refresh()
        return sum(
            [self._seal(decision) for decision in newest_decisions(self._decisions.records(), self._clock.now())]
        )

    def _seal(self, decision: Decision) -> bool:
        found = route(
            decision,
            source_file=f"{decision.decision_id}.json",
            signed=True,
            routes=self._routes,
            plan_for=self._plan_for,
            now=self._clock.now(),
            max_age_s=VALID_S,
            standby=True,
        )
        if not isinstance(found, Routed):
            if decision.decision_id not in self._ignored:
                log("standby decision not routed", decision_id=decision.decision_id, reason=found.reason)
            self._ignored.add(decision.decision_id)
            return False
        known = [r for r in self._known.records() if r.source_decision_digest == decision.digest()]
        newest = newest_request(known, decision)
        if newest is not None and _says(newest) == _says(found.request):
            return False
        if found.plan is not None:
            self._plans.create(found.plan.digest().removeprefix("sha256:"), canonical.encode(found.plan.body()) + b"\n")
        request = sign_record(found.request, self._signer)
        slot = slot_for("standby", decision.digest(), str(len(known)))
        made = self._store.create(request.dispatch_id, request.encoded(), slot=slot).made
        if made:
            log("standby request sealed", request_id=request.dispatch_id, status=request.status, reason=request.reason)
        return made


def _says(request: DispatchRequest) -> dict[str, object]:
    return {key: value for key, value in request.body().items() if key not in OWN}


async def beside(main: Awaitable[None], *others: Awaitable[None]) -> None:
    """Run `main` to its end, and the others for as long as it lives."""
    tasks = [asyncio.ensure_future(other) for other in others]
    try:
        await main
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def whenever(
    step: Callable[[], Awaitable[object]], stores: Sequence[RecordStore], *, name: str, rescan_s: float
) -> None:
    """Call `step` now, on every change of `stores`, and every `rescan_s`; what fails is logged and tried again.

    A store that cannot be watched is looked at by the rescan alone: the loop beside this goes on whatever happens here.
    """
    wake = asyncio.Event()
    wake.set()

    async def watch(changes: AsyncIterator[list[str]]) -> None:
        async for _ in changes:
            wake.set()

    watches = [asyncio.create_task(watch(store.changes(rescan_s))) for store in stores]
    try:
        while True:
            wake.clear()
            try:
                with foreign():
                    await step()
            except HyopsError as exc:
                log("step failed", stage=name, error=type(exc).__name__, message=exc.message)
                await asyncio.sleep(ERROR_PAUSE_S[1])
                wake.set()
            try:
                async with asyncio.timeout(rescan_s):
                    await wake.wait()
            except TimeoutError:
                continue
    finally:
        for task in watches:
            task.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
