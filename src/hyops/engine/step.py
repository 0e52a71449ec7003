"""One step through its driver: bounded in time, errors judged by what they touched, the probe asked when in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from hyops.engine.result import REASON_MAX
from hyops.errors import DeadlineError, Effect, HyopsError, RefusedError, foreign
from hyops.model import canonical
from hyops.model.base import iso_utc
from hyops.model.plan import Step
from hyops.model.vocabulary import Outcome
from hyops.ports.clock import Clock
from hyops.ports.driver import Driver, Reconciled, StepContext, StepResult

PROBE_S = 15.0
STOP_S = 5.0  # how long a driver may take to let go after its time limit; an ssh channel closes in milliseconds
RETRY_PAUSE_MAX_S = 5.0
OUTPUTS_MAX = 256 * 1024
OUTPUTS_SUM_MAX = 2 * 1024 * 1024
"""Of all steps of a run. With 200 reasons beside them they fit into a result, which is a record of at most
`canonical.BYTES_MAX`, and result and journal into the one frame that brings them home."""


@dataclass(frozen=True)
class Ended:
    """A step's outcome, as the journal keeps it."""

    outcome: Outcome
    started_at: datetime
    elapsed_s: float
    changed: bool = True
    reason: str | None = None
    exit_code: int = 0
    error: str | None = None
    by: str = "apply"
    outputs: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON value."""
        body = {
            "outcome": str(self.outcome),
            "started_at": iso_utc(self.started_at),
            "elapsed_s": round(self.elapsed_s, 6),
            "changed": self.changed,
            "reason": None if self.reason is None else self.reason[:REASON_MAX],
            "exit_code": self.exit_code,
            "error": self.error,
            "by": self.by,
            "outputs": dict(self.outputs),
        }
        return {k: v for k, v in body.items() if v is not None}


@dataclass(frozen=True)
class Retry:
    """It certainly took no effect, so it may start again."""

    reason: str


class Around(Protocol):
    """What a step needs of its run."""

    clock: Clock

    def context(self, step: Step) -> StepContext:
        """What the driver may know."""

    def at_boundary(self, name: str, /) -> None:
        """A point at which a kill must be survived."""

    def hold(self, step_id: str, size: int, /) -> None:
        """Make room for so many bytes of outputs in the result; HyopsError when those of the other steps leave none."""


class _StillRunningError(DeadlineError):
    """The driver did not let go: its effect may still come, so no probe could be believed."""


async def apply_step(around: Around, step: Step, driver: Driver, attempt: int) -> Ended | Retry:
    """Make the effect once and say how that ended; never raises for what a driver may do."""
    started_at, started = around.clock.now(), around.clock.monotonic()
    try:
        with foreign():
            result = await _bounded(around, driver, step)
    except RefusedError as exc:
        if exc.effect is Effect.NONE:
            return _ended(around, started_at, started, Outcome.REFUSED, error=exc, changed=False)
        error: HyopsError = exc
    except HyopsError as exc:
        error = exc
    else:
        around.at_boundary(f"{step.id}:effect:after")
        return _ended(around, started_at, started, Outcome.SUCCEEDED, result=result)
    around.at_boundary(f"{step.id}:effect:after")
    return await _after_error(around, step, driver, attempt, error, (started_at, started))


async def probe_step(around: Around, step: Step, driver: Driver) -> Ended | Retry:
    """Find out about a step whose process died: done, to be started again, or unknown (RUN-5)."""
    started_at, started = around.clock.now(), around.clock.monotonic()
    verdict, result, why = await _ask(around, step, driver)
    if verdict is Reconciled.DONE:
        return _ended(around, started_at, started, Outcome.SUCCEEDED, result=result or StepResult(), by="probe")
    if verdict is Reconciled.NOT_DONE:
        return Retry("interrupted; the probe says that it took no effect")
    reason = HyopsError(f"interrupted, and the probe cannot tell whether it took effect{why}", hint="")
    reason.effect = Effect.UNKNOWN
    return _ended(around, started_at, started, Outcome.UNKNOWN, error=reason, by="probe", exit_code=20)


async def _after_error(
    around: Around, step: Step, driver: Driver, attempt: int, error: HyopsError, since: tuple[datetime, float]
) -> Ended | Retry:
    """An error that may have touched something: ask the probe, and start again only what certainly did nothing."""
    again = attempt <= step.retries
    if error.effect is Effect.PARTIAL and not again:
        return _ended(around, *since, Outcome.FAILED, error=error)
    if isinstance(error, _StillRunningError):
        return _ended(around, *since, Outcome.UNKNOWN, error=error)
    verdict, result, why = await _ask(around, step, driver)
    if verdict is Reconciled.DONE:
        return _ended(around, *since, Outcome.SUCCEEDED, result=result or StepResult(), by="probe")
    if verdict is Reconciled.NOT_DONE and again:
        await around.clock.sleep(min(0.2 * 2 ** (attempt - 1), RETRY_PAUSE_MAX_S))
        return Retry(error.message)
    if verdict is Reconciled.NOT_DONE:
        return _ended(around, *since, Outcome.FAILED, error=error, changed=error.effect is Effect.PARTIAL)
    outcome = Outcome.FAILED if error.effect is Effect.PARTIAL else Outcome.UNKNOWN
    return _ended(around, *since, outcome, error=error, why=why)


async def _bounded(around: Around, driver: Driver, step: Step) -> StepResult:
    task = asyncio.create_task(driver.apply(around.context(step)))
    try:
        done, _ = await asyncio.wait({task}, timeout=step.timeout_s)
        if not done:
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=STOP_S)
            if not done:
                raise _StillRunningError(f"no end within {step.timeout_s:g} s, and it does not let go")
            if task.cancelled():
                raise DeadlineError(f"no end within {step.timeout_s:g} s")
    except asyncio.CancelledError:
        task.cancel()
        raise
    result = task.result()
    _check_outputs(around, step, result)
    return result


def _check_outputs(around: Around, step: Step, result: StepResult) -> None:
    try:
        size = len(canonical.encode(result.outputs))
    except RefusedError as exc:
        raise HyopsError(f"the driver's outputs have no JSON form: {exc.message}") from exc
    if size > OUTPUTS_MAX:
        raise HyopsError(f"the driver's outputs have {size} bytes, more than {OUTPUTS_MAX}")
    around.hold(step.id, size)


async def _ask(around: Around, step: Step, driver: Driver) -> tuple[Reconciled, StepResult | None, str]:
    try:
        async with asyncio.timeout(PROBE_S):
            with foreign():
                verdict, result = await driver.probe(around.context(step))
                if result is not None:
                    _check_outputs(around, step, result)
                return verdict, result, ""
    except TimeoutError:
        return Reconciled.UNKNOWN, None, f" (no answer within {PROBE_S:g} s)"
    except HyopsError as exc:
        return Reconciled.UNKNOWN, None, f" ({exc.message})"


def _ended(
    around: Around,
    started_at: datetime,
    started: float,
    outcome: Outcome,
    *,
    result: StepResult | None = None,
    error: HyopsError | None = None,
    changed: bool = True,
    by: str = "apply",
    why: str = "",
    exit_code: int | None = None,
) -> Ended:
    elapsed_s = around.clock.monotonic() - started
    if result is not None:
        return Ended(outcome, started_at, elapsed_s, result.changed, result.note, by=by, outputs=result.outputs)
    assert error is not None
    reason = error.message + why + (f"; next: {error.hint}" if error.hint else "")
    code = error.exit_code if exit_code is None else exit_code
    raised = error.facts.get("generation_after")  # a step may fail after it ended the old generation: that stands
    outputs = {"generation_after": raised} if type(raised) is int else {}
    return Ended(outcome, started_at, elapsed_s, changed, reason, code, type(error).__name__, by, outputs)
