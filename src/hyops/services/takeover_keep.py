"""The executor's half of standby orders: each runner of a service holds the one that is current (INV-9).

It carries what the other stages signed; it signs nothing. What each runner holds is written down for `hyops status`,
which says when one holds none, or an old one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from hyops.control.mode import mode_of
from hyops.control.standby import mark_of, newest_decisions, newest_request, order_of, runners_of
from hyops.errors import HyopsError, PrerequisiteError, RecordError, foreign
from hyops.model.base import Part
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome
from hyops.model.observed import DecisionInputs, Mode
from hyops.model.plan import Plan
from hyops.model.policy import ServicePolicy
from hyops.model.takeover import StandbyOrder
from hyops.ports.bundle import BundleFile
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import Verifier
from hyops.ports.takeover import TakeoverTransport
from hyops.services.inbox import Inbox
from hyops.services.looking import each, looking
from hyops.services.loop import log
from hyops.services.standing import Standing

P = TypeVar("P", bound=Part)
STALE_S = 3600.0  # a look that is older than this says nothing of now


@dataclass(frozen=True)
class OrderStores:
    """Read, all of them."""

    decisions: RecordStore
    inputs: RecordStore
    requests: RecordStore
    plans: RecordStore
    attempts: RecordStore
    outcomes: RecordStore


@dataclass(frozen=True)
class Holding:
    """What one runner holds for one service, when it was last looked at."""

    service: str
    runner_ref: str
    state: Literal["held", "missing", "unreachable"]
    why: str
    looked_at: str
    generation: int
    order_id: str | None = None
    digest: str | None = None
    sealed_at: str | None = None
    expires_at: str | None = None

    def body(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


class OrderKeeper:
    """Works for all services of one executor. `note` keeps what was found."""

    def __init__(
        self,
        stores: OrderStores,
        *,
        policies: Mapping[str, ServicePolicy],
        initial_generations: Mapping[str, int],
        transport: TakeoverTransport,
        files: Callable[[Plan], Mapping[str, BundleFile]],
        verifier: Verifier,
        clock: Clock,
        note: Callable[[bytes], None] = lambda data: None,
    ) -> None:
        self._stores, self._policies, self._generations = stores, policies, initial_generations
        self._transport, self._files, self._clock, self._note = transport, files, clock, note
        self._decisions = Inbox(stores.decisions, Decision, verifier, role="decision")
        self._requests = Inbox(stores.requests, DispatchRequest, verifier, role="dispatch")
        self._standing = Standing(
            Inbox(stores.attempts, Attempt, verifier, role="execution"),
            Inbox(stores.outcomes, AttemptOutcome, verifier, role="execution"),
        )

    async def step(self) -> list[Holding]:
        """Look at every runner that is to hold an order, and bring it there; one that is away holds up no other."""
        self._decisions.refresh()
        self._requests.refresh()
        self._standing.refresh()
        wanted = [
            (policy, mode, runner_ref)
            for service, policy in sorted(self._policies.items())
            for mode in [mode_of(policy, self._generations.get(service, 1), *self._standing.telling(service))]
            for runner_ref in runners_of(policy, mode)
        ]
        runners = sorted({runner_ref for _, _, runner_ref in wanted})
        brought = await each(runners, lambda there: self._all_to(there, [w[:2] for w in wanted if w[2] == there]))
        found = {(holding.service, holding.runner_ref): holding for some in brought for holding in some}
        kept = [found[policy.service, runner_ref] for policy, _, runner_ref in wanted]
        self._note(json.dumps([holding.body() for holding in kept]).encode())
        return kept

    async def _all_to(self, runner_ref: str, wanted: Sequence[tuple[ServicePolicy, Mode]]) -> list[Holding]:
        """What one runner is to hold, one after the other; once it was silent it is asked no more in this pass."""
        found: list[Holding] = []
        away: str | None = None
        for policy, mode in wanted:
            found.append(await self._brought(policy, mode, runner_ref, away))
            if found[-1].state == "unreachable":
                away = found[-1].why
        return found

    async def _brought(self, policy: ServicePolicy, mode: Mode, runner_ref: str, away: str | None) -> Holding:
        now = self._clock.now()
        blank = Holding(policy.service, runner_ref, "missing", "", _at(now), mode.generation)
        try:
            with foreign():  # whatever one order is made of, the other runners and services get theirs
                order = self._current(policy, mode, runner_ref, now)
                named = _named(blank, order)
        except HyopsError as exc:
            return _with(blank, why=exc.message)
        if away is not None:
            return _with(named, state="unreachable", why=away)
        try:
            with foreign():
                await self._ship(order, runner_ref)
        except HyopsError as exc:
            state = "unreachable" if exc.exit_code == 22 else "missing"
            log("standby order not there", runner_ref=runner_ref, order_id=order.order_id, message=exc.message)
            return _with(named, state=state, why=exc.message)
        return _with(named, state="held", why="it is the current one")

    async def _ship(self, order: StandbyOrder, runner_ref: str) -> None:
        """Have the runner hold exactly this order; the files of its plan go first, so that it could run at once."""
        data = order.encoded()
        async with looking(self._transport, runner_ref, acts=True) as session:
            if order.digest() in {held.digest for held in await session.orders()}:
                return
            await session.stage(order.order_id, self._files(order.plan))
            await session.keep_order(data)
        log(
            "standby order is there",
            runner_ref=runner_ref,
            order_id=order.order_id,
            generation=order.request.generation,
        )

    def _current(self, policy: ServicePolicy, mode: Mode, runner_ref: str, now: datetime) -> StandbyOrder:
        mark = mark_of(policy, mode, runner_ref)
        decision = next((d for d in newest_decisions(self._decisions.records(), now) if d.incident == mark), None)
        if decision is None:
            raise PrerequisiteError(
                f"the decision stage has sealed nothing for generation {mode.generation} with primary {mode.primary}",
                hint="see that hyops-decision-service runs with the same policy file as the executor",
            )
        request = newest_request(self._requests.records(), decision)
        if request is None:
            raise PrerequisiteError(
                f"the dispatcher has made no request of {decision.decision_id}",
                hint="see that hyops-decision-dispatcher runs, and that a route fits",
            )
        inputs = self._read(self._stores.inputs, decision.inputs_digest, DecisionInputs)
        plan = self._read(self._stores.plans, request.plan_digest, Plan) if request.plan_digest else None
        if plan is None:
            raise PrerequisiteError(f"{request.dispatch_id} has no plan: {request.reason or request.status}")
        return order_of(decision, inputs, request, plan)

    def _read(self, store: RecordStore, digest: str | None, kind: type[P]) -> P:
        name = (digest or "").removeprefix("sha256:")
        try:
            return kind.read(store.read(name), source=name)
        except KeyError:
            raise RecordError(f"{kind.__name__} {name} is gone") from None


def holdings(data: bytes) -> list[Holding]:
    """What `note` was given, read again; RecordError when it cannot be."""
    try:
        return [Holding(**told) for told in json.loads(data)]
    except (ValueError, TypeError, RecursionError) as exc:
        raise RecordError(f"what runners hold: {exc}") from exc


def concern(holding: Holding, now: datetime) -> str | None:
    """Why nobody should rest on it; None when it is all right."""
    age_s = (now - datetime.fromisoformat(holding.looked_at)).total_seconds()
    if holding.state != "held":
        return f"{holding.runner_ref} holds no current standby order: {holding.why}"
    if holding.expires_at is not None and datetime.fromisoformat(holding.expires_at) <= now:
        return f"the standby order of {holding.runner_ref} has expired"
    return f"{holding.runner_ref} was last looked at {age_s / 60:.0f} minutes ago" if age_s > STALE_S else None


def _named(holding: Holding, order: StandbyOrder) -> Holding:
    return _with(
        holding,
        order_id=order.order_id,
        digest=order.digest(),
        sealed_at=_at(order.request.timestamp_utc),
        expires_at=_at(order.request.expires_at),
    )


def _with(holding: Holding, **change: Any) -> Holding:
    return Holding(**{**asdict(holding), **change})


def _at(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
