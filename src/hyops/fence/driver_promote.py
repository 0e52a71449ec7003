"""`native/postgresql-promote`, `native/verify-write`, `native/postgresql-follow`: the database's part of a switch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hyops.errors import (
    DeadlineError,
    HyopsError,
    NotFencedError,
    NotVerifiedError,
    RecordError,
    StaleGenerationError,
    TargetError,
)
from hyops.fence.again import for_a_look, within_step
from hyops.fence.driver_fence import FenceDriver, FencePorts
from hyops.fence.inputs import SwitchInputs
from hyops.fence.prepare import too_old
from hyops.model.base import Part
from hyops.model.fence import DemotionReceipt, FenceReceipt
from hyops.model.plan import StepId
from hyops.model.vocabulary import Occasion
from hyops.ports.driver import Driver, Reconciled, StepContext, StepResult, Unanswered
from hyops.ports.hostagent import AgentStatus
from hyops.ports.probe import WriteVerdict

WRITE_LIMIT_S = 3.0


class PromoteInputs(SwitchInputs):
    """`fence_step` names the step whose receipt is used."""

    fence_step: StepId = "fence"


class VerifyWriteInputs(SwitchInputs):
    """`promote_step` names the step whose timeline must be the one that is written on."""

    promote_step: StepId = "promote"
    limit_s: float = Field(default=WRITE_LIMIT_S, gt=0, le=60)


class PromoteDriver:
    """`native/postgresql-promote`: the agent on the target verifies the receipt for itself."""

    inputs: type[Part] = PromoteInputs

    def __init__(self, ports: FencePorts) -> None:
        self._ports = ports

    async def preflight(self, context: StepContext) -> list[str]:
        """The target's agent answers, on a standby."""
        inputs = PromoteInputs.of(dict(context.inputs), source=context.step_id)
        agent = for_a_look(self._ports.agent(inputs.member(inputs.target)), self._ports.clock, context)
        try:
            status = await agent.status()
        except HyopsError as exc:
            return [Unanswered(f"the fence agent on {inputs.target} does not answer: {exc.message}")]
        if status.role == "primary" and status.generation == context.spec.generation + 1:
            return []  # this run, resumed
        faults = [] if status.role == "standby" else [f"{inputs.target} is {status.role}, not a standby"]
        return [*faults, *too_old(status)]

    async def apply(self, context: StepContext) -> StepResult:
        """Hand over the receipt; returns the new primary's place in history. By now nobody else can serve, so a host
        that cannot be reached is worth the whole time of the step."""
        inputs = PromoteInputs.of(dict(context.inputs), source=context.step_id)
        receipt, demotion = _receipts(context, inputs.fence_step)
        target = self._ports.agent(inputs.member(inputs.target))
        status = await within_step(target, self._ports.clock, context, unreached=True).promote(
            receipt=receipt, generation=context.spec.generation + 1, run_id=context.spec.run_id, demotion=demotion
        )
        if not _promoted(status, context):
            raise TargetError(
                f"{inputs.target} says after the promotion: role {status.role}, edge {status.edge}, "
                f"generation {status.generation}"
            )
        return _promotion(status, inputs)

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """The agent knows; when it does not answer, nobody does."""
        inputs = PromoteInputs.of(dict(context.inputs), source=context.step_id)
        agent = for_a_look(self._ports.agent(inputs.member(inputs.target)), self._ports.clock, context)
        try:
            status = await agent.status()
        except HyopsError:
            return Reconciled.UNKNOWN, None
        if _promoted(status, context):
            return Reconciled.DONE, _promotion(status, inputs)
        return Reconciled.NOT_DONE, None  # the verb is idempotent for this run: it completes what was begun


class VerifyWriteDriver:
    """`native/verify-write`: a row commits on the target, on the timeline that the promotion began."""

    inputs: type[Part] = VerifyWriteInputs

    def __init__(self, ports: FencePorts) -> None:
        self._ports = ports

    async def preflight(self, context: StepContext) -> list[str]:
        """Nothing to look at before the promotion."""
        VerifyWriteInputs.of(dict(context.inputs), source=context.step_id)
        return []

    async def apply(self, context: StepContext) -> StepResult:
        """Write, then ask on which timeline."""
        inputs = VerifyWriteInputs.of(dict(context.inputs), source=context.step_id)
        member, generation = inputs.member(inputs.target), context.spec.generation + 1
        result = await self._ports.probe.try_write(
            address=member.address, port=member.port, generation=generation, timeout_s=inputs.limit_s
        )
        if result.verdict is not WriteVerdict.ACCEPTED:
            raise NotVerifiedError(
                f"a write on the promoted {inputs.target} was {result.verdict}: {result.saw}", address=member.address
            )
        status = await within_step(self._ports.agent(member), self._ports.clock, context).status()
        promoted_on = context.outputs.get(inputs.promote_step, {}).get("timeline")
        if status.role != "primary" or status.timeline is None or status.timeline != promoted_on:
            raise NotVerifiedError(f"{inputs.target} is {status.role} on timeline {status.timeline}, not {promoted_on}")
        return StepResult({"written_s": result.elapsed_s, "timeline": status.timeline}, changed=True)

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """A second probe row does no harm."""
        return Reconciled.NOT_DONE, None


class FollowDriver:
    """`native/postgresql-follow`: the old primary comes back as a standby, rewound where needed."""

    inputs: type[Part] = SwitchInputs

    def __init__(self, ports: FencePorts) -> None:
        self._ports = ports

    async def preflight(self, context: StepContext) -> list[str]:
        """In an outage the old host may be gone; that stops nothing."""
        SwitchInputs.of(dict(context.inputs), source=context.step_id)
        return []

    async def apply(self, context: StepContext) -> StepResult:
        """Unplanned and unreachable is a no-op with its reason: that host comes up fenced."""
        inputs = SwitchInputs.of(dict(context.inputs), source=context.step_id)
        reached = self._ports.agent(inputs.member(inputs.source))
        agent = within_step(reached, self._ports.clock, context)
        try:
            before = await for_a_look(reached, self._ports.clock, context).status()
        except (DeadlineError, TargetError) as exc:
            if context.spec.occasion is Occasion.PLANNED:
                raise
            note = f"{inputs.source} is unreachable ({exc.message}); when it returns it comes up fenced"
            return StepResult({"rejoined": False}, changed=False, note=note)
        status = await agent.follow(
            primary=inputs.target, generation=context.spec.generation + 1, run_id=context.spec.run_id
        )
        if status.role != "standby":
            raise NotVerifiedError(f"{inputs.source} is {status.role} after it was told to follow {inputs.target}")
        return StepResult({"rejoined": True, "was": before.role, "timeline": status.timeline})

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """Following again is safe."""
        return Reconciled.NOT_DONE, None


def fence_drivers(ports: FencePorts) -> dict[str, Driver]:
    """The native modules of this package, by module reference."""
    return {
        "native/fence": FenceDriver(ports),
        "native/postgresql-promote": PromoteDriver(ports),
        "native/verify-write": VerifyWriteDriver(ports),
        "native/postgresql-follow": FollowDriver(ports),
    }


def _receipts(context: StepContext, step: str) -> tuple[FenceReceipt, DemotionReceipt | None]:
    outputs = context.outputs.get(step, {})
    if "receipt" not in outputs:
        raise NotFencedError(f"step {step!r} left no fence receipt")
    try:
        receipt = FenceReceipt.of(outputs["receipt"], source="fence receipt")
        demotion = outputs.get("demotion")
        planned = DemotionReceipt.of(demotion, source="demotion receipt") if demotion is not None else None
    except RecordError as exc:
        raise NotFencedError(f"the fence receipt cannot be read: {exc.message}") from exc
    if (receipt.generation, receipt.run_id) != (context.spec.generation, context.spec.run_id):
        raise StaleGenerationError(f"the fence receipt is of run {receipt.run_id}, generation {receipt.generation}")
    if context.spec.occasion is Occasion.PLANNED and planned is None:
        raise NotFencedError("a planned switch needs the demotion receipt of the old primary")
    return receipt, planned


def _promoted(status: AgentStatus, context: StepContext) -> bool:
    return status.role == "primary" and status.edge == "open" and status.generation == context.spec.generation + 1


def _promotion(status: AgentStatus, inputs: PromoteInputs) -> StepResult:
    outputs: dict[str, Any] = {
        "timeline": status.timeline,
        "lsn": status.lsn,
        "primary_after": inputs.target,
        "generation_after": status.generation,
    }
    return StepResult(outputs, note=f"{inputs.target} is the primary of generation {status.generation}")
