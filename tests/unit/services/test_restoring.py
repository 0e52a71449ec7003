"""Going on after etcd was restored: every runner is asked, marks come before the epoch, and silence stops it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from hyops.control.execution import attempt_id_of
from hyops.errors import PrerequisiteError, RunnerUnreachableError, UsageError
from hyops.ports.records import RecordStore
from hyops.ports.transport import RunStatus
from hyops.services.restoring import MARGIN, Restored, restore
from hyops.testing.records import MemoryRecordStore
from hyops.testing.runs import noop_plan, spec_of


@dataclass
class Starts:
    """What was asked of it, in order."""

    calls: list[tuple[int, list[str]]] = field(default_factory=list)

    def restored(self, epoch: int, maybe_sent: Iterable[str]) -> int:
        """Note it."""
        self.calls.append((epoch, list(maybe_sent)))
        return epoch


class Runners:
    """`OperatorTransport`: runner -> its jobs, or the error with which it does not answer."""

    def __init__(self, answers: dict[str, list[RunStatus] | RunnerUnreachableError]) -> None:
        self._answers, self._asked = answers, ""

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str, look: object = None) -> AsyncIterator[Any]:
        """One of them."""
        answer = self._answers[runner_ref]
        if isinstance(answer, RunnerUnreachableError):
            raise answer
        yield Session(answer)


@dataclass
class Session:
    """`OperatorSession`, as far as it is asked."""

    told: list[RunStatus]

    async def differs(self) -> None:
        """It fits."""

    async def jobs(self) -> list[RunStatus]:
        """What it has."""
        return self.told


def job(epoch: int, seen: int | None) -> RunStatus:
    """A run that a runner still has."""
    facts = {"service": "pg", **({} if seen is None else {"epoch_seen": seen})}
    return RunStatus(run_id=f"run-{epoch}", state="finished", epoch=epoch, facts=facts)


def restored(runners: Runners, names: list[str], starts: Starts, lost: Iterable[str] = ()) -> Restored:
    """With one execution that has no outcome."""
    executions: RecordStore = MemoryRecordStore()
    execution = spec_of(noop_plan()).execution
    executions.create(execution.execution_id, execution.encoded())
    executions.create("damaged", b'{"schema":"x"}\n')
    done = asyncio.run(restore(runners, names, [*lost], executions, MemoryRecordStore(), starts))  # type: ignore[arg-type]
    assert done.marked == [attempt_id_of(execution, "dispatch")]
    return done


@pytest.mark.req("INV-3", "LOOP-3", "GEN-1")
def test_the_epoch_is_raised_past_all_that_any_runner_has_seen() -> None:
    """Also past that of runs that are gone; the open attempt is marked in the same call, before the number."""
    starts = Starts()
    done = restored(Runners({"a": [job(3, 9), job(8, 9)], "b": []}), ["b", "a"], starts)
    assert (done.seen, done.epoch, starts.calls) == ({"a": 9, "b": 0}, 9 + MARGIN, [(9 + MARGIN, done.marked)])


@pytest.mark.req("INV-3", "LOOP-3", "UX-1")
@pytest.mark.parametrize("silent", [RunnerUnreachableError("b: no route"), [job(3, None)]], ids=["away", "mute"])
def test_a_runner_that_does_not_say_stops_it_unless_it_is_named_as_lost(
    silent: list[RunStatus] | RunnerUnreachableError,
) -> None:
    """Nothing is changed, and the message names it; named as lost, it is not asked."""
    starts, runners = Starts(), Runners({"a": [job(3, 3)], "b": silent})
    with pytest.raises(PrerequisiteError, match=r"1 of 2 runners do not answer: b: .*; nothing was changed") as refused:
        restored(runners, ["a", "b"], starts)
    assert "--lost" in refused.value.hint
    assert starts.calls == []
    assert restored(runners, ["a", "b"], starts, lost=["b"]).seen == {"a": 3}


@pytest.mark.req("UX-1")
def test_a_lost_runner_that_nobody_knows_is_a_slip_of_the_pen() -> None:
    """Exit 2 with the names there are; nothing is asked."""
    starts = Starts()
    with pytest.raises(UsageError, match="--lost c: no such runner"):
        restored(Runners({}), ["a", "b"], starts, lost=["c"])
    assert starts.calls == []
