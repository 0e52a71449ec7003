"""Executors dial again on a store that was restored from a snapshot: no epoch that a runner has seen comes twice.

A snapshot is of the past: epochs were handed out since, and marks of starts are missing. So every runner is asked for
the highest epoch that it has seen, all executions that have no outcome are marked as possibly started, and only then
the epoch is raised (INV-3). A runner that is asked about a run by its name says whether it has it, and starts none
twice. What a runner has seen in runs that it has removed since is covered by `MARGIN`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from hyops.control.execution import attempt_id_of
from hyops.errors import HyopsError, PrerequisiteError, RecordError, UsageError
from hyops.model.execution import AttemptOutcome, Execution
from hyops.ports.records import RecordStore
from hyops.ports.transport import OperatorTransport

ASK_LIMIT_S = 30.0
MARGIN = 100  # far below the leap that a runner takes for a mistake


class RestoredStarts(Protocol):
    """What is raised."""

    def restored(self, epoch: int, maybe_sent: Iterable[str]) -> int:
        """From now on nothing below `epoch`, and these may have been sent; returns the epoch that stands."""


@dataclass(frozen=True)
class Restored:
    """What was found and done. `seen`: runner -> its highest epoch."""

    seen: dict[str, int]
    lost: list[str]
    marked: list[str]
    epoch: int


async def restore(
    transport: OperatorTransport,
    runners: Collection[str],
    lost: Collection[str],
    executions: RecordStore,
    outcomes: RecordStore,
    starts: RestoredStarts,
) -> Restored:
    """Ask all, then mark, then raise; repeated, it changes nothing more.

    Raises:
        UsageError: a lost runner is none of these. PrerequisiteError: one does not answer; nothing was changed.
    """
    if unknown := sorted(set(lost) - set(runners)):
        raise UsageError(f"--lost {unknown[0]}: no such runner", hint=f"the runners are {', '.join(sorted(runners))}")
    asked = [name for name in sorted(runners) if name not in lost]
    answers = await asyncio.gather(*(_highest(transport, name) for name in asked))
    if silent := [f"{name}: {told}" for name, told in zip(asked, answers, strict=True) if isinstance(told, str)]:
        raise PrerequisiteError(
            f"{len(silent)} of {len(asked)} runners do not answer: {'; '.join(silent)}; nothing was changed",
            hint="an epoch below what a runner has seen is refused there: reach it, or name it with --lost RUNNER if "
            "it is gone for good",
        )
    seen = {name: told for name, told in zip(asked, answers, strict=True) if isinstance(told, int)}
    marked = open_attempts(executions, outcomes)
    epoch = starts.restored(max(seen.values(), default=0) + MARGIN, marked)
    return Restored(seen, sorted(lost), marked, epoch)


def open_attempts(executions: RecordStore, outcomes: RecordStore) -> list[str]:
    """The attempts that any execution without an outcome has or would have."""
    ended = set()
    for name in outcomes.ids():
        ended.add(AttemptOutcome.read(outcomes.read(name), source=f"outcome {name}").attempt_id)
    found = []
    for name in executions.ids():
        try:
            execution = Execution.read(executions.read(name), source=f"execution {name}")
        except RecordError:
            continue  # nobody starts what cannot be read
        found.append(attempt_id_of(execution, "dispatch"))
    return sorted(set(found) - ended)


async def _highest(transport: OperatorTransport, runner_ref: str) -> int | str:
    """The highest epoch that a runner has seen, or why it does not say."""
    try:
        async with asyncio.timeout(ASK_LIMIT_S), transport.connect(runner_ref) as session:
            if (differs := await session.differs()) is not None:
                return differs.message
            jobs = await session.jobs()
    except TimeoutError:
        return f"no answer within {ASK_LIMIT_S:g} s"
    except HyopsError as exc:
        return exc.message
    if mute := [job.run_id for job in jobs if "service" in job.facts and "epoch_seen" not in job.facts]:
        return f"it cannot say which epoch it has seen of the service of {mute[0]}"
    told = [n for job in jobs for n in (job.epoch, job.facts.get("epoch_seen")) if type(n) is int]
    return max(told, default=0)
