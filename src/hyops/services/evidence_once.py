"""Evidence that several executors could make is made by one of them, and a record says by which (EVD-1, LOOP-3).

The record is created after the bundle, while the right to dial for the attempt is held: an executor that dies in
between leaves the evidence to be made by the next one, which is better than a record of a bundle that nobody has. One
that was frozen and comes late may leave a bundle on its own disk; the record names the host whose bundle counts.
"""

from __future__ import annotations

import hashlib
import json

from hyops.model.execution import Attempt, AttemptOutcome
from hyops.ports.records import RecordStore
from hyops.ports.transport import RunReturn
from hyops.services.execution_parts import ClosedHook


class MadeOnce:
    """`ClosedHook` over one whose bundles lie on this host; `made` is shared by all hosts."""

    def __init__(self, hook: ClosedHook, made: RecordStore, host: str) -> None:
        self._hook, self._made, self._host = hook, made, host

    def done(self, outcome: AttemptOutcome) -> bool:
        """Whether some host has it."""
        return self._where(outcome) is not None

    async def closed(self, attempt: Attempt, outcome: AttemptOutcome, returned: RunReturn | None) -> None:
        """Make it, unless another host has it."""
        if self._where(outcome) is not None:
            return
        if not self._hook.done(outcome):
            await self._hook.closed(attempt, outcome, returned)
        said = json.dumps({"host": self._host, "outcome_id": outcome.outcome_id, "run_id": outcome.run_id})
        self._made.create(self._record_id(outcome), f"{said}\n".encode(), slot=f"evidence-{outcome.outcome_id}")

    def _record_id(self, outcome: AttemptOutcome) -> str:
        """A name of its own for each host and outcome that any store takes; a host's name alone may be as long as one.

        Which host that is stands in the record, and the slot finds it: also what older releases called otherwise.
        """
        told = hashlib.sha256(f"{outcome.outcome_id}\n{self._host}".encode(errors="surrogateescape")).hexdigest()
        return f"evidence-{told[:32]}"

    def _where(self, outcome: AttemptOutcome) -> str | None:
        return self._made.slot(f"evidence-{outcome.outcome_id}")
