"""`native/noop`: a step that does nothing, for measuring everything around it."""

from __future__ import annotations

from hyops.model.base import Part, Text
from hyops.ports.driver import Reconciled, StepContext, StepResult


class NoopInputs(Part):
    """A note that comes back as the step's output."""

    note: Text = ""


class NoopDriver:
    """Changes nothing and says so."""

    inputs: type[Part] = NoopInputs

    async def preflight(self, context: StepContext) -> list[str]:
        """Nothing can stop it."""
        return []

    async def apply(self, context: StepContext) -> StepResult:
        """Hand the note back."""
        inputs = NoopInputs.of(dict(context.inputs), source=context.step_id)
        return StepResult({"note": inputs.note}, changed=False)

    async def probe(self, context: StepContext) -> tuple[Reconciled, StepResult | None]:
        """Doing nothing twice is the same."""
        return Reconciled.NOT_DONE, None
