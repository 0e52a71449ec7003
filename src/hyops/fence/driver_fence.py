"""`native/fence`: ask the old primary to hand over (planned; the target first), raise the generation, prove the fence.

Where the lease counts as proof, the generation is raised first, because that is what ends the renewals. Where only an
observation counts, it is raised after the observation: a fence that cannot be proved then leaves a service that its
old primary can still serve. So it is where the old primary is unguarded: the end of its lease proves nothing.
Repeating this step is safe at every point, so its probe always says `not-done`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hyops.errors import (
    DeadlineError,
    Effect,
    HyopsError,
    NotFencedError,
    PrerequisiteError,
    StaleGenerationError,
    TargetError,
)
from hyops.fence.again import LOOK_S, RESERVE_S, for_a_look, within_step
from hyops.fence.agent import STOP_LIMIT_S
from hyops.fence.inputs import FenceInputs
from hyops.fence.ladder import HEAD_START_S, Ladder, Proof
from hyops.fence.prepare import prepare_target, too_old
from hyops.fence.quorum import ELECTION_S, heard
from hyops.fence.readmit import READMIT
from hyops.fence.verbs import VerbLimits, lsn_value
from hyops.model import ids
from hyops.model.base import Part
from hyops.model.dsse import sign_record
from hyops.model.fence import DemotionReceipt, FenceReceipt, LeaseState, Observation
from hyops.model.policy import Lease, Member
from hyops.model.vocabulary import Occasion, ReceiptClass
from hyops.ports.clock import Clock
from hyops.ports.driver import Reconciled, StepContext, StepResult, Unanswered
from hyops.ports.hostagent import HostAgent
from hyops.ports.lease import LeaseStore, QuorumLostError
from hyops.ports.power import PowerSwitch
from hyops.ports.probe import WriteProbe
from hyops.ports.signer import Signer

REPLAY_LIMIT_S = 10.0
REPLAY_LOOK_S = 0.02
LAG_BYTES_MAX = 64 * 1024 * 1024  # a planned switch waits for this much to replay; more is an afternoon's work


@dataclass(frozen=True)
class FencePorts:
    """What the drivers of this package need from outside."""

    store: Callable[[Lease], LeaseStore]
    agent: Callable[[Member], HostAgent]
    probe: WriteProbe
    signer: Signer
    clock: Clock
    runner_ref: str
    power: PowerSwitch | None = None
    power_head_start_s: float = HEAD_START_S


class FenceDriver:
    """`native/fence`."""

    inputs: type[Part] = FenceInputs

    def __init__(self, ports: FencePorts) -> None:
        self._ports = ports

    async def preflight(self, context: StepContext) -> list[str]:
        """The quorum answers and agrees on who is primary; planned: the standby is close enough."""
        inputs, spec, raised = _inputs(context), context.spec, False
        faults = self._unprovable(context, inputs)
        try:
            store, clock = self._ports.store(inputs.lease), self._ports.clock
            now = await heard(lambda: store.state(spec.service), clock, clock.monotonic() + LOOK_S, context.log)
            raised = _raised(now, context, inputs)
            if not raised and _readmitted(now, context, inputs):
                return faults  # `apply` says so before any effect, and the loop learns the generation from it
            if not faults and _unguarded(now, context, inputs):
                faults = self._unprovable(context, inputs, guarded=False)
            if not raised and not _may_begin(now, context, inputs):
                faults.append(f"the service is at generation {now.generation} with primary {now.primary}")
        except (QuorumLostError, HyopsError) as exc:
            faults.append(Unanswered(f"the lease store does not answer: {exc}"))
        if spec.occasion is Occasion.PLANNED and not faults and not raised:
            faults += await self._planned_faults(context, inputs)
        return faults

    async def apply(self, context: StepContext) -> StepResult:
        """Returns the signed receipt, and the demotion receipt of a planned switch."""
        inputs, spec = _inputs(context), context.spec
        store = self._ports.store(inputs.lease)
        now = await self._state(store, context)
        if not _raised(now, context, inputs) and not _may_begin(now, context, inputs):
            raise _moved_on(now, context, inputs)
        demotion = None
        if spec.occasion is Occasion.PLANNED:
            demotion = await self._demote(context, inputs, raised=_raised(now, context, inputs))
        first = ReceiptClass.LEASE_EXPIRED in inputs.receipts and not _unguarded(now, context, inputs)
        if first:
            now = await self._raise(context, inputs, store)
        ladder = self._ladder(context, inputs, store, now)
        try:
            proof = await self._prove(ladder, context)
        except HyopsError as exc:
            if _raised(now, context, inputs):
                exc.facts["generation_after"] = spec.generation + 1  # all the same: the loop goes on from there
            raise
        if not first:
            await self._raise(context, inputs, store)
            proof = await ladder.off_still(proof)
        return self._result(context, inputs, proof, demotion)

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """Every part of `apply` is idempotent for one run: do it again."""
        return Reconciled.NOT_DONE, None

    async def _planned_faults(self, context: StepContext, inputs: FenceInputs) -> list[str]:
        faults, run_id = [], context.spec.run_id
        to, off = (self._ports.agent(inputs.member(host)) for host in (inputs.target, inputs.source))
        try:
            target = await for_a_look(to, self._ports.clock, context).status()
            source = await for_a_look(off, self._ports.clock, context).status()
        except HyopsError as exc:
            return [f"a planned switch needs both fence agents: {exc.message}"]
        holder = source.facts.get("hold_run")
        if source.facts.get("hold") == "demoted" and holder == run_id:  # this run, resumed
            return []
        if holder:
            faults.append(
                f"{inputs.source} is {source.facts.get('hold')} by {holder}: resume that run, or on {inputs.source}: "
                f"hyops fence readmit --run {holder} --generation {source.facts.get('hold_generation')}"
            )
        faults += [*too_old(target), *too_old(source)]
        if fault := source.facts.get("edge_fault"):
            faults.append(f"the edge of {inputs.source} fails: {fault}")
        if target.role != "standby" or not target.facts.get("streaming"):
            faults.append(f"{inputs.target} is {target.role} and not streaming")
        if source.role != "primary":
            faults.append(f"{inputs.source} is {source.role}, not primary")
        if source.lsn and target.replay_lsn and lsn_value(source.lsn) - lsn_value(target.replay_lsn) > LAG_BYTES_MAX:
            faults.append(f"{inputs.target} is more than {LAG_BYTES_MAX} bytes behind")
        return faults

    async def _state(self, store: LeaseStore, context: StepContext) -> LeaseState:
        clock = self._ports.clock
        until = min(context.deadline - RESERVE_S, clock.monotonic() + ELECTION_S)
        try:
            return await heard(lambda: store.state(context.spec.service), clock, until, context.log)
        except QuorumLostError as exc:
            hint = "two of its members must live"
            raise PrerequisiteError(f"the lease store does not answer: {exc}", hint=hint) from exc

    async def _demote(self, context: StepContext, inputs: FenceInputs, *, raised: bool) -> DemotionReceipt:
        """Hand over; when the standby does not get everything, take it back before anything else was changed."""
        spec = context.spec
        undo_s = 0.0 if raised else undo_limit_s(inputs.lease)
        source, target = (
            within_step(self._ports.agent(inputs.member(host)), self._ports.clock, context, undo_s=undo_s)
            for host in (inputs.source, inputs.target)
        )
        back = within_step(self._ports.agent(inputs.member(inputs.source)), self._ports.clock, context)
        if not raised:
            await prepare_target(target, back, context, (inputs.source, inputs.target))
        try:
            demotion = await source.demote(generation=spec.generation, run_id=spec.run_id)
        except (TargetError, DeadlineError) as exc:
            if not raised:
                await back.undo_demote(generation=spec.generation, run_id=spec.run_id)
                raise TargetError(
                    f"{inputs.source} could not hand over and serves again: {exc.message}",
                    effect=Effect.NONE,
                    hint="mend what is named, then plan the switch again",
                ) from exc
            raise
        context.log(f"{inputs.source} handed over at {demotion.last_lsn} on timeline {demotion.timeline}")
        if raised or await self._replayed(target, demotion):
            return demotion
        await back.undo_demote(generation=spec.generation, run_id=spec.run_id)
        raise NotFencedError(
            f"{inputs.target} did not replay up to {demotion.last_lsn} within {REPLAY_LIMIT_S:g} s; "
            f"{inputs.source} serves again",
            hint="mend the replication, then plan the switch again",
        )

    async def _replayed(self, target: HostAgent, demotion: DemotionReceipt) -> bool:
        end = self._ports.clock.monotonic() + REPLAY_LIMIT_S
        while True:
            try:
                async with asyncio.timeout(REPLAY_LIMIT_S):
                    status = await target.status()
            except (TargetError, DeadlineError, TimeoutError):  # gone meanwhile: then it is not promoted either
                pass
            else:
                if status.replay_lsn is not None and lsn_value(status.replay_lsn) > lsn_value(demotion.last_lsn):
                    return True
            if self._ports.clock.monotonic() >= end:
                return False
            await self._ports.clock.sleep(REPLAY_LOOK_S)

    async def _raise(self, context: StepContext, inputs: FenceInputs, store: LeaseStore) -> LeaseState:
        spec, clock = context.spec, self._ports.clock

        def ask() -> Awaitable[LeaseState]:
            return store.raise_generation(
                spec.service, expected=spec.generation, primary=inputs.target, run_id=spec.run_id
            )

        try:  # whoever was demoted does not serve any more: nothing is better than to wait for the quorum
            raised = await heard(ask, clock, context.deadline - RESERVE_S, context.log)
        except QuorumLostError as exc:
            raise DeadlineError(f"no quorum while raising the generation: {exc}", hint="resume the run") from exc
        except StaleGenerationError as exc:
            raise _moved_on(await self._state(store, context), context, inputs) from exc
        context.log(f"generation {raised.generation} belongs to {raised.primary}")
        return raised

    async def _prove(self, ladder: Ladder, context: StepContext) -> Proof:
        """The ladder, or the loss that named people accepted (INV-2)."""
        try:
            return await ladder.prove()
        except NotFencedError as exc:
            accepted = [a.statement for a in context.spec.approvals if a.statement.verdict == "break-glass"]
            if ReceiptClass.BREAK_GLASS not in ladder.receipts or not accepted:
                raise
            saw = f"accepted by {accepted[0].approver}: {accepted[0].accepted_loss}; {exc.message}"
            broken = Observation(
                by=self._ports.runner_ref, how="break-glass", saw=saw[:4000], at=self._ports.clock.now(), facts={}
            )
            return Proof(
                ReceiptClass.BREAK_GLASS, [*ladder.asked, broken], limits="nothing was proved; people accepted the loss"
            )

    def _ladder(self, context: StepContext, inputs: FenceInputs, store: LeaseStore, told: LeaseState) -> Ladder:
        source = inputs.member(inputs.source)
        return Ladder(
            service=context.spec.service,
            source=source,
            generation=context.spec.generation,
            run_id=context.spec.run_id,
            lease=inputs.lease,
            receipts=inputs.receipts,
            vantage=self._ports.runner_ref,
            agent=within_step(self._ports.agent(source), self._ports.clock, context),
            store=store,
            probe=self._ports.probe,
            clock=self._ports.clock,
            log=context.log,
            power=self._power(context),
            told=told,
            head_start_s=self._ports.power_head_start_s,
        )

    def _power(self, context: StepContext) -> PowerSwitch | None:
        """A planned switch is an orderly one: it never cuts anybody's power."""
        return self._ports.power if context.spec.occasion is Occasion.UNPLANNED else None

    def _unprovable(self, context: StepContext, inputs: FenceInputs, *, guarded: bool = True) -> list[str]:
        """Nothing that the policy accepts can be had here: said before anything is stopped."""
        ways = {ReceiptClass.OBSERVED}
        if inputs.lease.on_loss != "stay" and guarded:
            ways.add(ReceiptClass.LEASE_EXPIRED)
        if self._power(context) is not None:
            ways.add(ReceiptClass.POWERED_OFF)
        if any(a.statement.verdict == "break-glass" for a in context.spec.approvals):
            ways.add(ReceiptClass.BREAK_GLASS)
        accepted = ", ".join(inputs.receipts)
        if ways & set(inputs.receipts):
            return []
        why = "" if guarded else f": {inputs.source} is unguarded, so the end of its lease proves nothing"
        return [f"of the accepted receipts ({accepted}) none can be had here{why}"]

    def _result(
        self, context: StepContext, inputs: FenceInputs, proof: Proof, demotion: DemotionReceipt | None
    ) -> StepResult:
        spec, issued_at = context.spec, self._ports.clock.now()
        receipt = FenceReceipt(
            receipt_id=ids.derived("fence", issued_at, f"{spec.run_id} {spec.generation}"),
            receipt_class=proof.receipt_class,
            service=spec.service,
            host=inputs.source,
            generation=spec.generation,
            next_generation=spec.generation + 1,
            target=inputs.target,
            run_id=spec.run_id,
            issued_at=issued_at,
            observations=proof.observations,
            margin_s=proof.margin_s,
            limits=proof.limits,
        )
        outputs: dict[str, Any] = {
            "receipt": sign_record(receipt, self._ports.signer).body(),
            "receipt_class": str(proof.receipt_class),
            "generation_after": spec.generation + 1,
        }
        if demotion is not None:
            outputs["demotion"] = demotion.body()
        return StepResult(outputs, note=f"{inputs.source} fenced: {proof.receipt_class}")


def _inputs(context: StepContext) -> FenceInputs:
    return FenceInputs.of(dict(context.inputs), source=f"step {context.step_id}")


def _unguarded(now: LeaseState, context: StepContext, inputs: FenceInputs) -> bool:
    """The old primary has said that its edge does not close by itself: no lease of its own is waited for."""
    return now.unguarded_under(inputs.source, context.spec.generation)


def _may_begin(now: LeaseState, context: StepContext, inputs: FenceInputs) -> bool:
    """The generation to end is the present one, and the source's.

    Or the target's: an earlier run raised it and ended before it promoted anybody. Then nobody serves, and an unplanned
    run may fence the source again and go on; the target itself is on neither side of what could be lost.
    """
    owners = {inputs.source} | ({inputs.target} if context.spec.occasion is Occasion.UNPLANNED else set())
    return now.generation == context.spec.generation and now.primary in owners


def undo_limit_s(lease: Lease, limits: VerbLimits | None = None) -> float:
    """How long it may take to find a demotion wanting and to take it back, by the limits of what that does: the standby
    replays, the old primary is stopped and started, and gets its lease again."""
    limits = limits or VerbLimits()
    return REPLAY_LIMIT_S + STOP_LIMIT_S + limits.start_s + max(limits.lease_s, 2 * lease.ttl_s)


def _readmitted(now: LeaseState, context: StepContext, inputs: FenceInputs) -> bool:
    """An operator gave the source its place back under a newer generation (`readmit`, or after a restore)."""
    later = now.generation > context.spec.generation and now.primary == inputs.source
    return later and ((now.changed_by or "").startswith(READMIT) or now.reinstated)


def _moved_on(now: LeaseState, context: StepContext, inputs: FenceInputs) -> StaleGenerationError:
    """The refusal of a run that is too late. After a readmission it carries what the control loop goes on from."""
    spec, hint = context.spec, None
    facts: dict[str, Any] = {"found": now.generation}
    if _readmitted(now, context, inputs):
        facts["generation_after"] = spec.generation + 1
        hint = f"{inputs.source} was readmitted ({now.changed_by}) and serves; ask for the switch again if it is wanted"
    return StaleGenerationError(
        f"{spec.service} is at generation {now.generation} with primary {now.primary}, "
        f"not at {spec.generation} with {inputs.source}",
        hint=hint,
        **facts,
    )


def _raised(now: LeaseState, context: StepContext, inputs: FenceInputs) -> bool:
    """This very run has raised the generation before (a resumed run)."""
    spec = context.spec
    return (now.generation, now.changed_by, now.primary) == (spec.generation + 1, spec.run_id, inputs.target)
