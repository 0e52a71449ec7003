"""The executor's reconciler: what was seen gives the one next action (EXE-1 to EXE-3, INV-7, VOC-5).

The attempt is on disk before the runner is dialled, and closed exactly once. A lost link is never success or failure:
once a start may have been sent, only the runner's signed result closes the attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hyops.errors import Effect, HyopsError, RecordError
from hyops.model import ids
from hyops.model.dsse import verify_record
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.observed import Mode
from hyops.model.run import RunResult
from hyops.model.vocabulary import DecisionType, Outcome
from hyops.ports.signer import Verifier

ExecutionMode = Literal["dry-run", "dispatch"]
MAYBE_OVER = "nobody has confirmed this host's clock since it stepped or booted: whether it has expired is not known"
SET_CLOCK = "see `chronyc tracking` or `timedatectl`, and set the clock if it is wrong; it goes on by itself"
UNPROVEN_EXIT_CODE = 41  # EvidenceError: it may be done, but what came back proves nothing


@dataclass(frozen=True)
class Seen:
    """One execution and everything that bears on it."""

    execution: Execution
    mode: ExecutionMode
    now: datetime
    service: Mode
    closed_attempts: int
    proved_generation: int
    """As outcomes say, without what this host's configuration says of the first one; 0 where none says anything."""
    attempt: Attempt | None = None
    outcome: AttemptOutcome | None = None
    superseded: str | None = None
    held: str | None = None
    surely: datetime | None = None
    """What has passed for certain (`Clock.surely`), where that is not `now`."""


@dataclass(frozen=True)
class Record:
    """Write this attempt under this slot; whoever gets the slot has the service's one active run."""

    attempt: Attempt
    slot: str


@dataclass(frozen=True)
class Follow:
    """Dial the runner: start (which an existing run survives), attach, collect.

    Also of a burst that is to give way: whether a start was ever sent is known only to who has the right to dial.
    """

    attempt: Attempt


@dataclass(frozen=True)
class Refuse:
    """Nothing was ever sent and nothing will be: record why, once."""

    reason: str


@dataclass(frozen=True)
class Wait:
    """Another run of the service is open, the service is held, or this host cannot judge it.

    With `mend`, it waits for a person, who is to do that.
    """

    reason: str
    mend: str = ""


@dataclass(frozen=True)
class Done:
    """Nothing to do for this execution any more."""


Action = Record | Follow | Refuse | Wait | Done


def next_action(seen: Seen) -> Action:
    """The one thing to do now for one execution; the caller does it and looks again."""
    execution, attempt = seen.execution, seen.attempt
    if attempt is not None:
        if attempt.execution_mode == "dry-run" or seen.outcome is not None:
            return Done()
        return Follow(attempt)
    if (seen.surely or seen.now) >= execution.expires_at:
        return Refuse(f"expired: it was approved until {ids.stamp(execution.expires_at)}")
    if execution.generation < seen.proved_generation:
        return Refuse(f"stale: made for generation {execution.generation}, the service is at {seen.service.generation}")
    if execution.generation != seen.service.generation:
        return Wait(
            f"made for generation {execution.generation}, and as far as is known here {execution.service} is at "
            f"{seen.service.generation}",
            f"compare `initial_generation` in the executor's configuration with `hyops status`, and see that it "
            f"trusts the keys that signed the outcomes of {execution.service}",
        )
    if seen.superseded is not None:
        return Refuse(seen.superseded)
    if seen.now >= execution.expires_at:
        return Wait(MAYBE_OVER, SET_CLOCK)
    if seen.mode == "dry-run":
        return Record(attempt_of(execution, seen.mode, seen.now), f"dry-run-{_hex(execution)}")
    if seen.held is not None:
        return Wait(seen.held)
    if seen.service.uncertain:
        return Wait(seen.service.uncertain)
    if seen.service.open_attempt:
        return Wait(f"attempt {seen.service.open_attempt} of {execution.service} is open")
    slot = f"{execution.service}-active-{seen.closed_attempts + 1}"
    return Record(attempt_of(execution, seen.mode, seen.now), slot)


def attempt_of(execution: Execution, mode: ExecutionMode, now: datetime) -> Attempt:
    """The intent to run. Its ids derive from the execution alone, so every executor finds the same ones."""
    return Attempt(
        attempt_id=attempt_id_of(execution, mode),
        run_id=execution.run_id(),
        timestamp_utc=now,
        status="dry-run-ready" if mode == "dry-run" else "dispatching",
        execution_mode=mode,
        source_execution_id=execution.execution_id,
        source_execution_digest=execution.digest(),
        source_dispatch_id=execution.source_dispatch_id,
        service=execution.service,
        generation=execution.generation,
        runner_ref=execution.runner_ref,
        plan_digest=execution.plan_digest,
    )


def attempt_id_of(execution: Execution, mode: ExecutionMode) -> str:
    """One attempt per execution and mode."""
    token = "dry_run" if mode == "dry-run" else str(execution.decision_type)
    return ids.derived("attempt", execution.timestamp_utc, execution.digest(), token)


def type_of(attempt: Attempt) -> DecisionType | None:
    """What an attempt runs, as its id says; None when the id is none that `attempt_id_of` gives."""
    words = attempt.attempt_id.split("-")
    known = {str(kind): kind for kind in DecisionType}
    return known.get(words[2]) if len(words) == 4 else None


def closed_by_result(attempt: Attempt, result: RunResult, verifier: Verifier, now: datetime) -> AttemptOutcome:
    """The outcome that a runner's result gives; `unknown` when the result does not prove what it says (fault 18)."""
    fault = unproven(attempt, result, verifier)
    if fault is not None:
        return _outcome(attempt, now, Outcome.UNKNOWN, UNPROVEN_EXIT_CODE, fault)
    return AttemptOutcome(
        outcome_id=outcome_id_of(attempt),
        attempt_id=attempt.attempt_id,
        run_id=attempt.run_id,
        timestamp_utc=now,
        outcome=result.outcome,
        reason=result.reason,
        exit_code=result.exit_code,
        service=attempt.service,
        generation_before=attempt.generation,
        generation_after=result.generation_after,
        primary_after=result.primary_after,
        journal_head=result.journal_head,
        phases_s=result.phases_s,
        endpoints=result.endpoints,
        result=result.body(),
    )


def unproven(attempt: Attempt, result: RunResult, verifier: Verifier) -> str | None:
    """Why a returned result proves nothing about this attempt; None when it does."""
    try:
        keyid = verify_record(result, verifier)
    except RecordError as exc:
        return f"the runner's result does not verify: {exc.message}"
    if f"runner:{attempt.runner_ref}" not in verifier.roles(keyid):
        return f"the result was signed by {keyid}, which is not runner {attempt.runner_ref}"
    wanted = (attempt.run_id, attempt.runner_ref, attempt.service, attempt.generation, attempt.plan_digest)
    got = (result.run_id, result.runner_ref, result.service, result.generation_before, result.plan_digest)
    if wanted != got:
        return f"the result is about {got}, not {wanted}"
    if result.generation_after not in (None, attempt.generation, attempt.generation + 1):
        return f"the result claims generation {result.generation_after} after {attempt.generation}"
    if result.outcome is Outcome.SUCCEEDED and result.exit_code != 0:
        return f"the result says succeeded with exit code {result.exit_code}"
    return None


def closed_by_refusal(attempt: Attempt, error: HyopsError, now: datetime) -> AttemptOutcome:
    """The outcome of an attempt of which it is known that nothing runs: the error says why."""
    kind = Outcome.REFUSED if error.effect is Effect.NONE else Outcome.UNKNOWN
    return _outcome(attempt, now, kind, error.exit_code, f"{type(error).__name__}: {error.message}"[:4096])


def outcome_id_of(attempt: Attempt) -> str:
    """One outcome per attempt."""
    return ids.derived("outcome", attempt.timestamp_utc, attempt.attempt_id)


def _outcome(attempt: Attempt, now: datetime, outcome: Outcome, exit_code: int, reason: str) -> AttemptOutcome:
    return AttemptOutcome(
        outcome_id=outcome_id_of(attempt),
        attempt_id=attempt.attempt_id,
        run_id=attempt.run_id,
        timestamp_utc=now,
        outcome=outcome,
        reason=reason,
        exit_code=exit_code,
        service=attempt.service,
        generation_before=attempt.generation,
    )


def _hex(execution: Execution) -> str:
    return execution.digest().removeprefix("sha256:")
