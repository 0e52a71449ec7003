"""Runs a plan: intent on disk before each effect, outcome after it, probe after a crash (BP-2, BP-4, GATE-1, EVD-4).

Kill it anywhere: a completed step is never run again, a step that was under way is asked for before it is, and what
nobody can tell stays `unknown` and stops the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hyops.engine.journal import Entry, Journal, JournalFullError
from hyops.engine.redact import Redactor
from hyops.engine.result import REASON_MAX
from hyops.engine.state import FAILED_EXIT, Finish, Reconcile, RunState, Start, next_action, replay
from hyops.engine.step import OUTPUTS_SUM_MAX, Ended, Retry, apply_step, probe_step
from hyops.errors import Effect, HyopsError, PrerequisiteError, StaleGenerationError, foreign
from hyops.model import canonical
from hyops.model.base import iso_utc
from hyops.model.plan import Step
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Outcome
from hyops.ports.clock import Clock
from hyops.ports.driver import Driver, StepContext, Unanswered

PREFLIGHT_S = 15.0


class SuspendedError(HyopsError):
    """The process was told to stop while its run goes on: it resumes when the host is back."""

    exit_code, effect, hint = 130, Effect.PARTIAL, "`hyops run resume` continues it, or the runner's next boot"


def _nothing(_: str) -> None:
    """The boundary hook of a run that nobody crashes on purpose."""


async def _as_it_is(finish: Finish) -> Finish:
    return finish


@dataclass
class Run:
    """One run under way. `at_boundary` is called by name at every point where a kill must be survived."""

    spec: RunSpec
    journal: Journal
    drivers: Mapping[str, Driver]
    clock: Clock
    secrets: Mapping[str, str] = field(default_factory=dict)
    log: Callable[[str], None] = _nothing
    on_outputs: Callable[[Mapping[str, Any]], None] = lambda outputs: None
    at_boundary: Callable[[str], None] = _nothing
    before_close: Callable[[Finish], Awaitable[Finish]] = _as_it_is
    """What is done at every end, and what the end is then."""

    def __post_init__(self) -> None:
        self.redactor = Redactor(self.secrets)
        self._cancel: str | None = None
        self._suspended = False
        self._wake = asyncio.Event()
        self._start_mono = self.clock.monotonic()
        self._start_t = self._lived()
        self._held = {step: len(canonical.encode(outputs)) for step, outputs in self.state.outputs().items()}

    def cancel(self, reason: str) -> None:
        """Let the effect under way end, then start nothing more."""
        self._cancel = reason
        self._wake.set()

    def suspend(self) -> None:
        """Let the effect under way end, then stop with the run left open: the host goes down and will resume it."""
        self._suspended = True
        self._wake.set()

    def hold(self, step_id: str, size: int) -> None:
        """Make room for a step's outputs in the result. At once, so that steps side by side do not take the same room.

        Raises:
            HyopsError: those of the other steps leave none; the result of the run would not come home.
        """
        others = sum(held for step, held in self._held.items() if step != step_id)
        if others + size > OUTPUTS_SUM_MAX:
            raise HyopsError(
                f"the driver's outputs have {size} bytes and those of the steps before {others}; a run's result holds "
                f"{OUTPUTS_SUM_MAX}",
                hint="have its modules put out less: what is large belongs into a file",
            )
        self._held[step_id] = size

    def say(self, line: str) -> None:
        """One line of the log, without secrets."""
        self.log(self.redactor.text(line))

    def append(self, kind: str, body: Mapping[str, Any], *, essential: bool = False) -> Entry:
        """One journal record, without secrets, stamped with both clocks."""
        t = self._start_t + self.clock.monotonic() - self._start_mono
        clean = self.redactor.value(body)
        return self.journal.append(kind, clean, at=iso_utc(self.clock.now()), t=t, essential=essential)

    @property
    def state(self) -> RunState:
        """What the journal says now."""
        return replay(self.journal.entries)

    async def execute(self) -> Finish:
        """Run to the end and close the journal; on a closed one, say how it ended."""
        state = self.state
        if state.closed is not None:
            return _closed(state.closed)
        try:
            self._note_cancel()
            if (finish := await self._preflight()) is None:
                finish = await self._steps()
        except JournalFullError as exc:
            finish = self._stopped_by_disk(exc)
        return self.close(await self.before_close(finish))

    async def may_go_on(self) -> None:
        """Return when a closed run may be reopened: what its steps did still stands, and the rest can be done now.

        Raises:
            StaleGenerationError: a step that succeeded would be refused by now: the service has moved on since.
            PrerequisiteError: something that a step yet to be done needs is not there, or whether what is done still
                stands cannot be asked: silence says of no generation that it has passed (UX-1).
        """
        found = await self._preflights()
        state = self.state
        done = [(s, more) for s, more in found if state.outcome(s.id) is Outcome.SUCCEEDED]
        if faults := [f"{s.id}: {fault}" for s, more in done for fault in more if not isinstance(fault, Unanswered)]:
            raise StaleGenerationError("what this run did does not stand any more: " + "; ".join(faults))
        if faults := [f"{s.id}: {fault}" for s, more in done for fault in more]:
            raise PrerequisiteError(
                "whether what this run did still stands cannot be asked now: " + "; ".join(faults),
                hint="bring back who does not answer, then `hyops run resume` again; the run stays as it ended",
            )
        if faults := [f"{s.id}: {f}" for s, more in found for f in more if not s.optional and (s, more) not in done]:
            raise PrerequisiteError(
                "the rest of this run cannot be done yet: " + "; ".join(faults),
                hint="mend what is named, then `hyops run resume` again; the run stays as it ended",
            )

    def close(self, finish: Finish) -> Finish:
        """Write the closing record."""
        self.at_boundary("close:before")
        reason = None if finish.reason is None else self.redactor.text(finish.reason)[:REASON_MAX]
        body = {"outcome": str(finish.outcome), "exit_code": finish.exit_code, "reason": reason}
        self.append("run-closed", {k: v for k, v in body.items() if v is not None}, essential=True)
        self.at_boundary("close:after")
        return finish

    async def _preflight(self) -> Finish | None:
        """Ask every step what would stop it, once, before anything is touched (GATE-1)."""
        if self.state.preflighted or self.state.cancel is not None:
            return None
        found = await self._preflights()
        faults = [f"{s.id}: {fault}" for s, more in found for fault in more if not s.optional]
        later = [f"{s.id}: {fault}" for s, more in found for fault in more if s.optional]
        self.append("note", {"preflight": "refused" if faults else "ok", "faults": faults, "optional_faults": later})
        return Finish(Outcome.REFUSED, 12, "preflight: " + "; ".join(faults)) if faults else None

    async def _preflights(self) -> list[tuple[Step, list[str]]]:
        steps = self.spec.plan.steps
        return list(zip(steps, await asyncio.gather(*(self._preflight_step(step) for step in steps)), strict=True))

    async def _preflight_step(self, step: Step) -> list[str]:
        try:
            async with asyncio.timeout(PREFLIGHT_S):
                with foreign():
                    return await self.drivers[step.module_ref].preflight(self.context(step))
        except TimeoutError:
            return [Unanswered(f"preflight gave no answer within {PREFLIGHT_S} s")]
        except StaleGenerationError as exc:
            return [exc.message]
        except HyopsError as exc:
            return [Unanswered(exc.message)]

    async def _steps(self) -> Finish:
        tasks: dict[str, asyncio.Task[Ended | Retry]] = {}
        full: JournalFullError | None = None
        try:
            while True:
                self._note_cancel()
                action = next_action(self.spec.plan, self.state, tasks.keys())
                if isinstance(action, Finish):
                    return action
                if isinstance(action, Reconcile):
                    for step in action.steps:
                        self._record(step, await probe_step(self, step, self.drivers[step.module_ref]))
                    continue
                if self._suspended and not tasks:
                    raise SuspendedError("stopped between two steps; the run is open")
                if isinstance(action, Start) and full is None and not self._suspended:
                    full = self._begin_all(action.steps, tasks)
                if full is not None and not tasks:
                    raise full
                if tasks:
                    await self._settle(tasks)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    def _begin_all(
        self, steps: tuple[Step, ...], tasks: dict[str, asyncio.Task[Ended | Retry]]
    ) -> JournalFullError | None:
        """Start what can be written down; a full disk starts nothing more, but what is under way may end."""
        try:
            for step in steps:
                tasks[step.id] = self._begin(step)
        except JournalFullError as exc:
            return exc
        return None

    def _begin(self, step: Step) -> asyncio.Task[Ended | Retry]:
        self.at_boundary(f"{step.id}:intent:before")
        attempt = self.state.attempts.get(step.id, 0) + 1
        self.append("intent", {"step": step.id, "module_ref": step.module_ref, "attempt": attempt})
        self.at_boundary(f"{step.id}:intent:after")
        self.say(f"{step.id}: {step.title or step.module_ref}" + (f" (attempt {attempt})" if attempt > 1 else ""))
        return asyncio.create_task(apply_step(self, step, self.drivers[step.module_ref], attempt))

    async def _settle(self, tasks: dict[str, asyncio.Task[Ended | Retry]]) -> None:
        """Wait for a step to end or for a cancellation, and record what ended.

        Every finished step is recorded before an error goes on: the effect has been made, so its outcome must stand.
        """
        wake = asyncio.create_task(self._wake.wait())
        await asyncio.wait({*tasks.values(), wake}, return_when=asyncio.FIRST_COMPLETED)
        wake.cancel()
        self._wake.clear()
        full: JournalFullError | None = None
        for step in self.spec.plan.steps:
            if (task := tasks.get(step.id)) is not None and task.done():
                del tasks[step.id]
                try:
                    self._record(step, task.result())
                except JournalFullError as exc:
                    full = exc
        if full is not None:
            raise full

    def _record(self, step: Step, ended: Ended | Retry) -> None:
        self.at_boundary(f"{step.id}:outcome:before")
        if isinstance(ended, Retry):
            self.append("note", {"step": step.id, "again": True, "reason": ended.reason})
            self.say(f"{step.id}: again: {ended.reason}")
        else:
            self.append("outcome", {"step": step.id, **ended.body()}, essential=True)
            self.on_outputs(ended.outputs)
            self.say(f"{step.id}: {ended.outcome}" + (f": {ended.reason}" if ended.reason else ""))
        self.at_boundary(f"{step.id}:outcome:after")

    def _note_cancel(self) -> None:
        if self._cancel is not None and self.state.cancel is None:
            self.append("note", {"cancel": self._cancel}, essential=True)

    def context(self, step: Step) -> StepContext:
        """What the driver of a step may know."""
        return StepContext(
            spec=self.spec,
            step_id=step.id,
            inputs=step.inputs,
            outputs=self.state.outputs(),
            secrets=self.secrets,
            deadline=self.clock.monotonic() + step.timeout_s,
            log=lambda line: self.say(f"{step.id}: {line}"),
        )

    def _stopped_by_disk(self, exc: JournalFullError) -> Finish:
        state = self.state
        reason = f"stopped before the next effect: {exc.message}"
        if state.intents:  # its outcome could not be written: the next process must ask
            raise exc
        touched = any(e.body.get("changed", True) for e in state.outcomes.values())
        return Finish(Outcome.FAILED, FAILED_EXIT, reason) if touched else Finish(Outcome.REFUSED, 12, reason)

    def _lived(self) -> float:
        """Seconds of the run's life before this process: the last record's, plus the gap on this host's own clock."""
        if not self.journal.entries:
            return 0.0
        last = self.journal.entries[-1]
        gap = (self.clock.now() - datetime.fromisoformat(last.at)).total_seconds()
        return last.t + max(gap, 0.0)


def _closed(entry: Entry) -> Finish:
    return Finish(Outcome(entry.body["outcome"]), int(entry.body["exit_code"]), entry.body.get("reason"))
