"""One try to bring an attempt to its end on its runner: start once, follow, collect (EXE-1, RUN-5, VOC-5).

Before a start may have left, whatever goes wrong with the runner closes the attempt as `refused`, and so does what it
gives way to. From then on a refusal counts only as the runner's own answer, with no run there; everything else leaves
the attempt open, or closes it as `unknown` where it can never be started again. A runner that has enough runs for now
is asked again, as one that cannot be reached is. Why an attempt stays open is noted for people (`Starts.hinder`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from hyops.control.execution import MAYBE_OVER, SET_CLOCK, closed_by_refusal, closed_by_result
from hyops.errors import (
    DialLostError,
    DiskFullError,
    Effect,
    GivesWayError,
    HeldError,
    HyopsError,
    NotNotedError,
    PrerequisiteError,
    ProtocolError,
    RecordError,
    RefusedError,
    RunnerBusyError,
    RunnerUnreachableError,
    StaleGenerationError,
)
from hyops.model.base import iso_utc
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.run import RunSpec
from hyops.ports.clock import Clock
from hyops.ports.signer import Verifier
from hyops.ports.starts import Hindrance, Starts
from hyops.ports.transport import RunEvent, RunnerSession, RunnerTransport, RunReturn
from hyops.services import clocks
from hyops.services.execution_parts import Bundles
from hyops.services.loop import log

HINDERED = (
    (RunnerUnreachableError, "runner not reached"),
    (DiskFullError, "runner's disk is full"),
    (RunnerBusyError, "runner is busy"),
    (HeldError, "held"),
)
START_TRIES = 3  # a start refused for its epoch, with no run there, is tried again with a fresh one this often


class SpecOf(Protocol):
    """What the runner gets for an execution."""

    def __call__(self, execution: Execution, *, epoch: int, run_id: str) -> RunSpec:
        """UnsafePlanError when the records do not hold together."""


class Yields(Protocol):
    """Why an execution gives way to another one, as of now; None when it does not."""

    def __call__(self, execution: Execution) -> str | None:
        """PrerequisiteError when the records cannot be read now; NotApprovedError, HeldError as `LastLook.refuse`."""


class Dialler:
    """Dials runners for attempts; keeps nothing but what `starts` keeps."""

    def __init__(
        self,
        transport: RunnerTransport,
        starts: Starts,
        spec_of: SpecOf,
        yields: Yields,
        *,
        verifier: Verifier,
        clock: Clock,
        bundles: Bundles,
        on_event: Callable[[Attempt, RunEvent], None] | None = None,
    ) -> None:
        self._transport, self._starts, self._spec_of, self._yields = transport, starts, spec_of, yields
        self._verifier, self._clock, self._bundles, self._on_event = verifier, clock, bundles, on_event

    async def dial(self, attempt: Attempt, execution: Execution) -> tuple[AttemptOutcome, RunReturn | None] | None:
        """How the attempt ended, and what came home; None when it stays open and is to be tried again."""
        try:
            self._first(attempt, execution)
            async with self._transport.connect(attempt.runner_ref) as session:
                refused = await self._started(session, attempt, execution)
                self.hindered(attempt, None)
                returned = None if refused is not None else await self._followed(session, attempt)
        except DialLostError:
            raise  # whatever this one knows, another one may know better by now
        except HyopsError as exc:
            refused, returned = self._never_sent(attempt, execution, exc), None
            if refused is None:
                self.hindered(attempt, exc)
                return None
            self.hindered(attempt, None)
            refused.effect = Effect.NONE  # nothing was ever asked of the runner
        now = self._clock.now()
        if refused is not None:
            return closed_by_refusal(attempt, refused, now), None
        assert returned is not None
        return closed_by_result(attempt, returned.result, self._verifier, now), returned

    def _first(self, attempt: Attempt, execution: Execution) -> None:
        """Return when this attempt goes first, or when a start may have been sent: then only its end is an end.

        Raises:
            GivesWayError, NotApprovedError: nothing was ever sent, and nothing will be. HeldError: not now.
            NotNotedError: this side cannot tell now.
        """
        with _remembering():
            why = None if self._starts.maybe_sent(attempt.attempt_id) else self._yields(execution)
        if why is not None:
            raise GivesWayError(why)

    def _never_sent(self, attempt: Attempt, execution: Execution, exc: HyopsError) -> HyopsError | None:
        """What closes an attempt of which nothing was ever sent; None when something may have been, or may be yet."""
        if self._starts.maybe_sent(attempt.attempt_id):
            return None
        if isinstance(exc, RefusedError) and not isinstance(exc, RunnerBusyError):  # busy is not for ever
            return exc
        try:
            self._first(attempt, execution)
        except RefusedError as never:
            return never
        except NotNotedError:
            return None
        except HeldError as held:
            exc = held
        return exc if self._clock.surely() >= execution.expires_at else None

    def hindered(self, attempt: Attempt, by: HyopsError | None) -> None:
        """Tell people why an open attempt is to be tried again, as what it is; its absence stops nothing."""
        noted = None
        if by is not None:
            what = next((word for kind, word in HINDERED if isinstance(by, kind)), "attempt not ended")
            told = {"runner_ref": attempt.runner_ref, "message": by.message, "next": by.hint}
            log(what, attempt_id=attempt.attempt_id, run_id=attempt.run_id, **told)
            noted = Hindrance(iso_utc(self._clock.now()), type(by).__name__, by.message, by.hint)
        with contextlib.suppress(PrerequisiteError):  # this host's own disk
            self._starts.hinder(attempt.attempt_id, noted)

    async def _started(self, session: RunnerSession, attempt: Attempt, execution: Execution) -> HyopsError | None:
        """Start unless it is there already. Returns the refusal when the runner will never have this run."""
        unfit, skewed = await self._unfit(session, attempt.runner_ref)
        sent = self._starts.maybe_sent(attempt.attempt_id)
        state = (await session.status(attempt.run_id)).state if sent else "absent"
        if state in ("running", "finished"):
            return None
        if state != "absent" and unfit is not None:
            raise unfit  # it may have made effects: it lies there untouched until the versions fit again
        if state != "absent":  # it may have made effects: neither its age nor its version may close it from here
            with _remembering():
                epoch = self._starts.next_epoch()
            spec = self._spec_of(execution, epoch=epoch, run_id=attempt.run_id)
            await session.start(spec, self._bundles.secrets(spec.plan))
            return None
        if unfit is not None:
            return await self._unless_there(session, attempt, sent, unfit)
        if self._clock.now() >= execution.expires_at:
            if self._clock.surely() < execution.expires_at:
                raise HeldError(MAYBE_OVER, hint=SET_CLOCK)
            return await self._unless_there(
                session,
                attempt,
                sent,
                PrerequisiteError(f"execution {execution.execution_id} expired before it could be started"),
            )
        if skewed is not None and sent:
            raise skewed  # a start may be on its way there: whoever sets the clock lets it go on
        now = self._clock.now()
        if skewed is not None and self._clock.surely() < now:
            raise HeldError(f"{skewed.message}; nobody has confirmed this host's since it stepped", hint=SET_CLOCK)
        if skewed is not None:
            return await self._unless_there(session, attempt, sent, skewed)
        for tries in range(START_TRIES, 0, -1):
            try:
                with _remembering():
                    epoch = self._starts.next_epoch()
                spec = self._spec_of(execution, epoch=epoch, run_id=attempt.run_id)
                handed = self._bundles.secrets(spec.plan)  # before the mark: who has none of them has sent nothing
                if files := await asyncio.to_thread(self._bundles.files, spec.plan):  # it hashes what it has not seen
                    await session.stage(attempt.run_id, files)
                self._first(attempt, execution)  # it took its time to come so far
                with _remembering():
                    self._starts.note(attempt.attempt_id)
                await session.start(spec, handed)
                return None
            except RunnerBusyError as exc:
                if await self._unless_there(session, attempt, sent, exc) is None:
                    return None
                if not sent:  # the only one, and answered
                    self._starts.forget(attempt.attempt_id)
                raise
            except RefusedError as exc:
                refused = await self._unless_there(session, attempt, sent, exc)
                if refused is None or not isinstance(exc, StaleGenerationError) or tries == 1:
                    return refused
        raise AssertionError("START_TRIES is at least one")

    async def _unfit(
        self, session: RunnerSession, runner_ref: str
    ) -> tuple[ProtocolError | None, PrerequisiteError | None]:
        """Why nothing may be staged or started there: its version; its clock, which only a new run is kept from.

        A run under way is followed and collected all the same.
        """
        try:
            hello = await session.hello()
        except ProtocolError as exc:
            return exc, None
        return None, clocks.fault(hello.clock, runner_ref)

    async def _unless_there(
        self, session: RunnerSession, attempt: Attempt, sent: bool, refused: RefusedError
    ) -> RefusedError | None:
        """The refusal that closes the attempt; None when the runner has the run all the same, which then decides.

        `sent`: an earlier start may still be on its way there, so that even `absent` does not prove that nothing runs.
        """
        if (state := (await session.status(attempt.run_id)).state) != "absent":
            if isinstance(refused, DiskFullError) and state in ("staged", "interrupted"):
                raise refused  # it lies there and nobody runs it: there is nothing to follow until there is room
            return None  # also `staged`: a runner that reboots starts what lies there
        if sent:
            refused.effect = Effect.UNKNOWN
        return refused

    async def _followed(self, session: RunnerSession, attempt: Attempt) -> RunReturn:
        async for event in session.attach(attempt.run_id, 0):
            if self._on_event is not None:
                self._on_event(attempt, event)
        return await session.collect(attempt.run_id)


@contextlib.contextmanager
def _remembering() -> Iterator[None]:
    """What this side cannot write or read now (a full disk, a lost quorum, a damaged epoch) closes nothing."""
    try:
        yield
    except (PrerequisiteError, RecordError) as exc:
        raise NotNotedError(exc.message, hint=exc.hint) from exc
