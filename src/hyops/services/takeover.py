"""A takeover on a surviving runner: judge the order, ask the quorum, make the intent durable, start the job (INV-9).

Nothing here reaches a control host. Killed at any moment and begun again it finds what it wrote down: a run that has
begun is gone on with, whoever approves it by then, and one that has not binds nobody who brings approvals. A runner
starts one run of a service at a time. Whether the run may make effects is judged again by its job.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from hyops.control.standby import order_of
from hyops.errors import (
    HyopsError,
    NotApprovedError,
    RecordError,
    StaleGenerationError,
    UnsafePlanError,
)
from hyops.model import canonical
from hyops.model.approval import Approval
from hyops.model.dsse import Signs
from hyops.model.execution import Takeover
from hyops.model.fence import LeaseState
from hyops.model.policy import Lease
from hyops.model.run import RunResult, RunSpec
from hyops.model.takeover import StandbyOrder, TakenOver
from hyops.ports.clock import Clock
from hyops.ports.lease import LeaseStore, QuorumLostError
from hyops.ports.signer import ApprovalVerifier, Verifier
from hyops.runner import orders, takeover, telling
from hyops.runner.admission import admissible, admit
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import FILE_MAX, Folders, State, read_file
from hyops.runner.takeover_rules import refuse_a_strangers_beginning
from hyops.services.own_trust import refuse_own_trust, rules_of
from hyops.services.takeover_paper import Paper, approval_of
from hyops.services.typed_words import refuse_unwritable

AGAIN = ("refused", "failed", "cancelled")  # ended so, and no generation raised: the order may be tried once more


class Starts(Protocol):
    """Begins a run on this runner, as a dispatch would."""

    def __call__(self, spec: bytes) -> Literal["started", "existing"]:
        """Return once the job has admitted it; its refusal otherwise."""


@dataclass(frozen=True)
class Parts:
    """What a takeover works with. `boundary` is told how far it got, for tests that end it there."""

    verifier: Verifier
    approvals: ApprovalVerifier
    signer: Signs
    clock: Clock
    quorum: Callable[[Lease], LeaseStore]
    start: Starts
    boundary: Callable[[str], None] = lambda name: None


@dataclass(frozen=True)
class Standing:
    """One order as it stands here: `fault` says why it could not be run now, whoever approved.

    `begun`: a run of it has begun, or nobody can tell; `run_id` where it is known.
    """

    order: StandbyOrder | None
    told: dict[str, Any]
    fault: HyopsError | None = None
    run_id: str | None = None
    begun: bool = False

    def body(self) -> dict[str, Any]:
        """For programs."""
        return {**self.told, "fault": self.fault.message if self.fault else None, "run_id": self.run_id}


@dataclass(frozen=True)
class _Known:
    """`number`: of the next try. `bound`: the run that has begun, and binds. `waiting`: the last that never began."""

    number: int
    bound: TakenOver | None
    waiting: TakenOver | None


class RunnerTakeover:
    """`hyops takeover` on one runner."""

    def __init__(self, config: RunnerConfig, parts: Parts) -> None:
        self._config, self._parts = config, parts
        self._folders = Folders(config.root, config.secrets_dir)
        self._folders.make()
        self.rules = rules_of(config, parts.verifier, parts.approvals)

    def standing(self) -> list[Standing]:
        """Every order that lies here, the newest last, with what is wrong with it."""
        found = sorted(orders.held(self._folders), key=lambda told: (told.get("sealed_s", 0.0), told["order_id"]))
        return [self._look(told) for told in found]

    def chosen(self, order_id: str | None, service: str | None) -> Standing:
        """The order that is meant: by its id, or the newest of the service that can be run.

        A newest one that has begun is gone on with, and where it is damaged, one of its generation that has begun: the
        same words find the same run again. One that cannot be run is meant where there is nothing else.

        Raises:
            RecordError: there is none, or more than one service has some and none was named.
        """
        found = self.standing()
        mine = [s for s in found if order_id in (None, s.told["order_id"]) and service in (None, s.told.get("service"))]
        if order_id is None:
            mine = [s for s in mine if "service" in s.told]  # a damaged one hides no other
        if order_id is None and len({s.told.get("service") for s in mine}) > 1:
            raise RecordError("orders of several services lie here", hint="name one with --service")
        if not mine:
            raise RecordError(
                f"{self._config.runner_ref} holds no such standby order",
                hint="`hyops takeover list` shows what is here; without one, only a control host can run a switch",
            )
        newest = mine[-1]
        if newest.begun:
            return newest
        again = None if isinstance(newest.fault, StaleGenerationError) else newest.told.get("generation")
        fit = (s for s in reversed(mine) if s.fault is None or (s.begun and s.told.get("generation") == again))
        return next(fit, newest)

    def _beside(self, standing: Standing) -> HyopsError:
        """Why an order cannot be run, with those of its service that can."""
        fault = standing.fault or UnsafePlanError(f"order {standing.told['order_id']} cannot be read")
        service = standing.told.get("service")
        sound = [
            str(one.told["order_id"])
            for one in self.standing()
            if one.fault is None and service in (None, one.told.get("service"))
        ]
        if sound:
            fault.hint = f"can be run once it is approved: {', '.join(sound)}; or {fault.hint}"
        return fault

    def run(
        self, order_id: str | None, service: str | None, papers: Sequence[Paper], *, by: str, reason: str
    ) -> RunSpec:
        """Start the order's run, or the one that was started before; returns its spec once its job admitted it.

        `papers`: the approvals as they were carried here; without any, what was written down and never began is begun.

        Raises:
            HyopsError: the refusal; nothing was touched. What has begun already is gone on with, whatever is given.
        """
        refuse_own_trust(self._config)
        standing = self.chosen(order_id, service)
        order = standing.order
        if order is None:
            raise self._beside(standing)
        known = self._known(order.order_id)
        begun = known.bound or (None if papers else known.waiting)
        if begun is None:
            if standing.fault is not None:
                raise self._beside(standing)
            if not papers:
                raise NotApprovedError("no approval was given", hint="`hyops takeover show` prints how people sign")
            approvals = [approval_of(paper) for paper in papers]
            begun = self._intent(order, approvals, known.number, by, reason)
        self._parts.boundary("intent")
        self._parts.start(canonical.encode(begun.spec.body()))
        self._parts.boundary("started")
        return begun.spec

    def _look(self, told: dict[str, Any]) -> Standing:
        if "fault" in told:
            return Standing(None, told, RecordError(str(told["fault"])))
        try:
            data = orders.read(self._folders, told["order_id"])
            order = StandbyOrder.read(data, source=f"order {told['order_id']}")
        except HyopsError as exc:
            return Standing(None, told, exc)
        try:
            bound = self._known(order.order_id).bound
        except HyopsError as exc:
            return Standing(order, told, exc, begun=True)
        run_id, begun = bound.spec.run_id if bound else None, bound is not None
        try:
            self._sound(order, self._parts.clock.now())
        except HyopsError as exc:
            return Standing(order, told, exc, run_id, begun)
        return Standing(order, told, None, run_id, begun)

    def _sound(self, order: StandbyOrder, now: datetime) -> None:
        """Return when the order itself could be run here and now, approvals apart: that is what refuses last."""
        order_of(order.decision, order.inputs, order.request, order.plan)
        note = Takeover(by="nobody", reason="a look", generation_seen=order.request.generation)
        unapproved = takeover.taken_over(order, [], note, self.rules, self._parts.signer, epoch=1, now=now)
        seen = self._folders.seen(unapproved.service).generation
        admissible(unapproved, self.rules, now=now, generation_seen=seen)

    def _known(self, order_id: str) -> _Known:
        """What earlier calls have written down and made of an order.

        Raises:
            RecordError: a file of it is damaged, and named: nobody knows then whether a run has begun.
        """
        bound = waiting = None
        tries = orders.tries(self._folders, order_id)
        for name, data in tries:
            taken = TakenOver.read(data, source=name)
            run_id = taken.spec.run_id
            if self._never_began(run_id):
                waiting = taken
            elif not self._ended_without_effect(run_id):
                bound = taken
            else:
                waiting = None
        return _Known(len(tries) + 1, bound, waiting)

    def _never_began(self, run_id: str) -> bool:
        """Whether its start left nothing, not even the memory of a run that was removed."""
        return self._state(run_id) == "absent" and not os.path.lexists(self._folders.tombstone(run_id))

    def _ended_without_effect(self, run_id: str) -> bool:
        if self._state(run_id) != "finished":
            return False
        path = self._folders.run(run_id) / "result.json"
        try:
            result = RunResult.read(read_file(path, FILE_MAX), source=str(path))
        except OSError as exc:
            raise RecordError(f"{path}: {exc.strerror}") from exc
        raised = result.generation_after not in (None, result.generation_before)
        return str(result.outcome) in AGAIN and not raised

    def _state(self, run_id: str) -> State:
        try:
            return self._folders.state(run_id)
        except OSError as exc:
            raise RecordError(f"{self._folders.runs / run_id}: {exc.strerror}") from exc

    def _intent(self, order: StandbyOrder, approvals: list[Approval], number: int, by: str, reason: str) -> TakenOver:
        """Everything that must hold, then the intent on disk."""
        now, service = self._parts.clock.now(), str(order.request.service)
        telling.refuse_beside_open(self._folders, service)
        loss = takeover.accepted_loss(approvals)
        note = _note(by, reason, order.request.generation, loss)
        seen = self._folders.seen(service)

        def spec_with(said: Takeover) -> RunSpec:
            made = takeover.taken_over(
                order, approvals, said, self.rules, self._parts.signer, epoch=seen.epoch + 1, now=now
            )
            admit(made, self.rules, now=now, generation_seen=seen.generation)
            refuse_a_strangers_beginning(made)
            return made

        spec_with(note)  # before the quorum is asked: what people have not approved asks nobody anything
        told = self._generation(order, loss)
        spec = spec_with(note.model_copy(update={"generation_seen": told}))
        taken = TakenOver(spec=spec, inputs=order.inputs)
        self._parts.boundary("checked")
        stands = orders.write_taken(self._folders, order.order_id, number, taken.encoded())
        return TakenOver.read(stands, source=f"takeover of {order.order_id}")

    def _generation(self, order: StandbyOrder, loss: str | None) -> int | None:
        """What the quorum says; None where nobody answers and a break-glass accepts what that may cost.

        Raises:
            StaleGenerationError: the service has moved on, or nobody knows and nobody accepts it.
        """
        lease = Lease.of(order.plan.inputs.get("lease"), source=f"plan of {order.order_id}: lease")
        service, generation = str(order.request.service), order.request.generation
        try:
            now = _asked(self._parts.quorum(lease), service) if lease.endpoints else None
        except QuorumLostError as exc:
            now, why = None, str(exc)
        else:
            why = "the plan names no quorum"
        if now is None:
            if loss is not None:
                return None
            raise StaleGenerationError(
                f"no quorum tells at which generation {service} is: {why}",
                hint="bring a second of the lease's etcd members back; or have it approved with --break-glass, which "
                "names the loss that is accepted",
            )
        if now.generation != generation:
            raise StaleGenerationError(
                f"STALE: the order is for generation {generation}, and {service} is at {now.generation} with primary "
                f"{now.primary}",
                hint="another run moved the service on: look whether it serves; `hyops takeover list` shows the orders",
            )
        return now.generation


def _note(by: str, reason: str, generation: int | None, loss: str | None) -> Takeover:
    """What the runner writes down of who began it and why; UsageError where it is left out or no text."""
    for name, text, most in (("--by", by, 256), ("--reason", reason, 4096)):
        refuse_unwritable(name, text, most)
    return Takeover(by=by, reason=reason, generation_seen=generation, accepted_loss=loss)


def _asked(store: LeaseStore, service: str) -> LeaseState:
    async def ask() -> LeaseState:
        try:
            return await store.state(service)
        finally:
            await store.close()

    return asyncio.run(ask())
