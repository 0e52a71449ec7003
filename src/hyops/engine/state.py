"""What a journal says, and the one thing to do next: pure, so a resumed run decides as the first one did (BP-2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from hyops.engine.journal import Entry
from hyops.model.plan import Plan, Step
from hyops.model.vocabulary import Outcome, Phase

_ORDER = {phase: number for number, phase in enumerate(Phase)}
CANCELLED_EXIT, FAILED_EXIT, DEADLINE_EXIT = 130, 20, 23


@dataclass(frozen=True)
class RunState:
    """The journal, folded. `intents` holds the last intent of each step that has no outcome yet."""

    opened: Entry | None = None
    closed: Entry | None = None
    cancel: str | None = None
    preflighted: bool = False
    intents: Mapping[str, Entry] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, Entry] = field(default_factory=dict)

    def outcome(self, step_id: str) -> Outcome | None:
        """How a step ended; None while it has not."""
        entry = self.outcomes.get(step_id)
        return None if entry is None else Outcome(entry.body["outcome"])

    def outputs(self) -> dict[str, Mapping[str, Any]]:
        """Outputs of the steps that succeeded, by step id."""
        return {
            step: entry.body.get("outputs", {})
            for step, entry in self.outcomes.items()
            if entry.body["outcome"] == Outcome.SUCCEEDED
        }


def replay(entries: Sequence[Entry]) -> RunState:
    """Fold a journal into what it says."""
    opened = closed = cancel = None
    preflighted = False
    intents: dict[str, Entry] = {}
    attempts: dict[str, int] = {}
    outcomes: dict[str, Entry] = {}
    for entry in entries:
        step = str(entry.body.get("step", ""))
        if entry.kind == "run-opened":
            opened = entry
        elif entry.kind == "run-closed":
            closed = entry
        elif entry.kind == "reopened":  # what succeeded stands; everything else is to be done, by a new intent
            closed = cancel = None
            outcomes = {s: e for s, e in outcomes.items() if e.body["outcome"] == Outcome.SUCCEEDED}
        elif entry.kind == "intent":
            intents[step] = entry
            attempts[step] = attempts.get(step, 0) + 1
        elif entry.kind == "outcome":
            intents.pop(step, None)
            outcomes[step] = entry
        elif entry.kind == "note" and entry.body.get("again"):  # known not to have taken effect: free to start
            intents.pop(step, None)
        elif entry.kind == "note" and "cancel" in entry.body:
            cancel = str(entry.body["cancel"])
        elif entry.kind == "note" and "preflight" in entry.body:
            preflighted = entry.body["preflight"] == "ok"  # a refused one is asked again by whoever resumes the run
    return RunState(opened, closed, cancel, preflighted, intents, attempts, outcomes)


@dataclass(frozen=True)
class Start:
    """Start these steps, side by side."""

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Reconcile:
    """These were under way in a process that died: ask their probes before anything else."""

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Wait:
    """Steps of this process are under way and nothing may start beside them."""


@dataclass(frozen=True)
class Finish:
    """Close the run."""

    outcome: Outcome
    exit_code: int
    reason: str | None


Action = Start | Reconcile | Wait | Finish


def next_action(plan: Plan, state: RunState, running: Set[str] = frozenset()) -> Action:
    """Choose what to do now. `running` are the steps that this very process has under way."""
    if lost := tuple(s for s in plan.steps if s.id in state.intents and s.id not in running):
        return Reconcile(lost)
    stopped = state.cancel is not None or _stopped(plan, state)
    if not stopped and (ready := tuple(s for s in plan.steps if _ready(plan, s, state, running))):
        return Start(ready)
    return Wait() if running else _finish(plan, state)


def _stopped(plan: Plan, state: RunState) -> bool:
    """A step that is not optional ended in anything but success: nothing new starts."""
    return any(not s.optional and state.outcome(s.id) not in (None, Outcome.SUCCEEDED) for s in plan.steps)


def _ready(plan: Plan, step: Step, state: RunState, running: Set[str]) -> bool:
    if step.id in running or step.id in state.outcomes:
        return False
    if any(state.outcome(need) is not Outcome.SUCCEEDED for need in step.requires):
        return False
    earlier = [s for s in plan.steps if _ORDER[s.phase] < _ORDER[step.phase]]
    return all(s.id not in running and (s.id in state.outcomes or _blocked(plan, s, state)) for s in earlier)


def _blocked(plan: Plan, step: Step, state: RunState) -> bool:
    """It can never start, because something it requires did not succeed, or is blocked itself."""
    by_id = {s.id: s for s in plan.steps}
    return any(
        state.outcome(need) not in (None, Outcome.SUCCEEDED)
        or (state.outcome(need) is None and _blocked(plan, by_id[need], state))
        for need in step.requires
    )


def _finish(plan: Plan, state: RunState) -> Finish:
    ended = [(s, state.outcomes[s.id]) for s in plan.steps if s.id in state.outcomes]
    bad = [(s, e) for s, e in ended if e.body["outcome"] != Outcome.SUCCEEDED]
    decisive = [(s, e) for s, e in bad if not s.optional]
    reason = "; ".join(f"{s.id}: {e.body.get('reason') or e.body['outcome']}" for s, e in (decisive or bad)) or None
    for _, entry in decisive:
        if entry.body["outcome"] == Outcome.UNKNOWN:
            return Finish(Outcome.UNKNOWN, _failed_exit(entry), reason)
    if decisive:
        _, entry = decisive[0]
        touched = any(e.body.get("changed", True) for _, e in ended if e.body["outcome"] != Outcome.REFUSED)
        if entry.body["outcome"] == Outcome.REFUSED and not touched:
            return Finish(Outcome.REFUSED, int(entry.body["exit_code"]), reason)
        return Finish(Outcome.FAILED, _failed_exit(entry), reason)
    if state.cancel is not None and len(ended) < len(plan.steps):
        return Finish(Outcome.CANCELLED, CANCELLED_EXIT, state.cancel)
    return Finish(Outcome.SUCCEEDED, 0, f"optional, not done: {reason}" if reason else None)


def _failed_exit(entry: Entry) -> int:
    """A run that touched something never ends with a code that says that nothing changed (UX-1)."""
    code = int(entry.body.get("exit_code", FAILED_EXIT))
    return code if code >= FAILED_EXIT and code != CANCELLED_EXIT else FAILED_EXIT
