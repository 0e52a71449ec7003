"""`native/count-loss`: acknowledged minus surviving rows, measured, never guessed (EVD-1, DR step 6)."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import Field, model_validator

from hyops.errors import TargetError
from hyops.model.base import Name, Part
from hyops.model.policy import Member
from hyops.ports.driver import Reconciled, StepContext, StepResult
from hyops.ports.ledger import Ledger, LossCount, RowCounter


class CountLossInputs(Part):
    """The member that serves after the switch."""

    target: Name
    members: list[Member] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> CountLossInputs:
        if self.target not in {member.host for member in self.members}:
            raise ValueError(f"target {self.target!r} is not a member")
        return self


async def count(ledger: Ledger, counter: RowCounter, address: str, port: int) -> LossCount:
    """Read the ledger first, then count: a row acknowledged in between is in neither number."""
    ranges = await ledger.acknowledged()
    acknowledged = sum(last - first + 1 for first, last in ranges)
    surviving, missing = await counter.surviving(address, port, ranges)
    return LossCount("exact", acknowledged, surviving, acknowledged - surviving, tuple(missing))


class CountLoss:
    """Changes nothing, so after a crash it is simply done again."""

    inputs: type[Part] = CountLossInputs

    def __init__(self, ledger: Ledger, counter: RowCounter) -> None:
        self._ledger, self._counter = ledger, counter

    async def preflight(self, context: StepContext) -> list[str]:
        """The ledger must be readable, or the loss of this run can never be told."""
        try:
            await self._ledger.acknowledged()
        except TargetError as exc:
            return [exc.message]
        return []

    async def apply(self, context: StepContext) -> StepResult:
        """Count; the outputs stand under `loss`."""
        inputs = CountLossInputs.of(dict(context.inputs), source=f"step {context.step_id}")
        member = next(m for m in inputs.members if m.host == inputs.target)
        loss = await count(self._ledger, self._counter, member.address, member.port)
        context.log(f"{loss.acknowledged} acknowledged, {loss.surviving} surviving, {loss.lost} lost ({loss.how})")
        return StepResult(outputs={"loss": {**asdict(loss), "lost_ids": list(loss.lost_ids)}}, changed=False)

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """Counting again is harmless."""
        return Reconciled.NOT_DONE, None
