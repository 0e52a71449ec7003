"""From a closed attempt to its bundle: fetch every record that led to it, and assemble (EVD-1, INV-7).

What cannot be fetched any more leaves a gap that the verifier shows; evidence is made all the same. Calling it again
after a crash is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from hyops.errors import EvidenceError, RecordError
from hyops.evidence.assemble import Story, assemble, bundle_name
from hyops.evidence.chain import FILE
from hyops.model.approval import Approval
from hyops.model.base import Part
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.observed import DecisionInputs
from hyops.model.plan import Plan
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import Signer
from hyops.ports.transport import RunReturn

P = TypeVar("P", bound=Part)


class Sources(Protocol):
    """Where the records of the earlier stages are read; plans are named by the hex of their digest."""

    @property
    def decisions(self) -> RecordStore:
        """Of the decision service."""

    @property
    def requests(self) -> RecordStore:
        """Of the dispatcher."""

    @property
    def plans(self) -> RecordStore:
        """Of the dispatcher."""

    @property
    def approvals(self) -> RecordStore:
        """Of the approvers."""

    @property
    def executions(self) -> RecordStore:
        """Of the approval stage."""


def nothing_attached(outcome: AttemptOutcome) -> Mapping[str, bytes]:
    """No more files."""
    return {}


class Assembler:
    """What the execution stage calls for each closed attempt. `inputs` are named by the hex of their digest too.

    `attachments` gives more files that belong to an outcome, by name.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        inputs: RecordStore,
        directory: Path,
        signer: Signer,
        clock: Clock,
        attachments: Callable[[AttemptOutcome], Mapping[str, bytes]] = nothing_attached,
    ) -> None:
        self._attachments = attachments
        self._sources, self._inputs, self._directory, self._signer = sources, inputs, directory, signer
        self._clock = clock

    def done(self, outcome: AttemptOutcome) -> bool:
        """Whether the bundle is there; it appears whole or not at all."""
        return (self._directory / bundle_name(outcome) / FILE).is_file()

    async def closed(self, attempt: Attempt, outcome: AttemptOutcome, returned: RunReturn | None) -> None:
        """Assemble the bundle, off the event loop, since it waits for the disk.

        Raises:
            EvidenceError: it cannot be written, or the request that all of it answers is gone.
        """
        story = self.story(attempt, outcome, returned)
        await asyncio.to_thread(assemble, story, directory=self._directory, signer=self._signer, now=self._clock.now())

    def story(self, attempt: Attempt, outcome: AttemptOutcome, returned: RunReturn | None) -> Story:
        """Everything that led to the attempt, and what came of it."""
        s = self._sources
        request = _read(s.requests, attempt.source_dispatch_id, DispatchRequest)
        if request is None:
            raise EvidenceError(
                f"request {attempt.source_dispatch_id} is gone, so {attempt.attempt_id} has no story",
                hint="restore the dispatcher's records, then restart the execution stage",
            )
        execution = _read(s.executions, attempt.source_execution_id, Execution)
        decision = _read(s.decisions, request.source_decision_id, Decision)
        digest = decision.inputs_digest if decision else None
        named = execution.approval.record_ids if execution else []
        approvals = [found for one in named if (found := _read(s.approvals, one, Approval)) is not None]
        return Story(
            request=request,
            decision=decision,
            inputs=_read(self._inputs, _hex(digest), DecisionInputs) if digest else None,
            plan=_read(s.plans, _hex(attempt.plan_digest), Plan),
            approvals=approvals,
            execution=execution,
            attempt=attempt,
            run_return=returned,
            outcome=outcome,
            attachments=self._attachments(outcome),
        )


def _read(store: RecordStore, name: str, kind: type[P]) -> P | None:
    try:
        return kind.read(store.read(name), source=name)
    except (KeyError, RecordError):
        return None  # the verifier names the gap


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
