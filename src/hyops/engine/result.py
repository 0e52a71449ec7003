"""The signed result of a run, derived from its journal alone: making it again gives the same bytes (RUN-6, INV-7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyops.engine.journal import Entry, Journal
from hyops.engine.published import change_of
from hyops.engine.state import RunState, replay
from hyops.model.dsse import Signs, sign_record
from hyops.model.plan import Plan
from hyops.model.run import RunResult
from hyops.model.state_change import StateChange
from hyops.model.vocabulary import Outcome

REASON_MAX = 4000


@dataclass(frozen=True)
class RunFacts:
    """What a result says of its run besides the journal; `plan` is None when the spec could not even be read."""

    run_id: str
    runner_ref: str
    service: str
    generation: int
    plan_digest: str
    plan: Plan | None = None


def result_of(facts: RunFacts, journal: Journal, signer: Signs) -> RunResult:
    """The result of a closed run, signed."""
    state = replay(journal.entries)
    assert state.closed is not None, "only a closed run has a result"
    closed = state.closed.body
    known = _well_known(journal.entries)
    body = {
        "schema": "hyops/run-result/v1",
        "run_id": facts.run_id,
        "runner_ref": facts.runner_ref,
        "service": facts.service,
        "generation_before": facts.generation,
        **known,
        "outcome": closed["outcome"],
        "exit_code": closed["exit_code"],
        "reason": closed.get("reason"),
        "started_at": (state.opened or state.closed).at,
        "ended_at": state.closed.at,
        "steps": [_step(facts.plan, state, entry) for entry in state.outcomes.values()],
        "journal_head": journal.head,
        "journal_records": len(journal.entries),
        "plan_digest": facts.plan_digest,
        "phases_s": _phases(facts.plan, journal.entries),
        "access": state.opened.body.get("access") if state.opened else None,
    }
    result = RunResult.of({k: v for k, v in body.items() if v is not None}, source=f"result of {facts.run_id}")
    return sign_record(result, signer)


def _step(plan: Plan | None, state: RunState, entry: Entry) -> dict[str, Any]:
    body = entry.body
    change = _change(plan, state, body)
    step = {
        "step_id": body["step"],
        "outcome": body["outcome"],
        "changed": body["changed"],
        "reason": body.get("reason"),
        "started_at": body["started_at"],
        "ended_at": entry.at,
        "elapsed_s": body["elapsed_s"],
        "outputs": body.get("outputs", {}),
        "state": None if change is None else change.body(),
    }
    return {k: v for k, v in step.items() if v is not None}


def _change(plan: Plan | None, state: RunState, body: Mapping[str, Any]) -> StateChange | None:
    """The state that a step changed, against the generation that was in the bundle when the run was opened."""
    step = next((s for s in plan.steps if s.id == body["step"]), None) if plan else None
    if step is None:
        return None
    bases = state.opened.body.get("states", {}) if state.opened else {}
    return change_of(step, Outcome(body["outcome"]), body.get("outputs", {}), bases.get(step.state_ref()))


def _well_known(entries: list[Entry]) -> dict[str, Any]:
    """`generation_after`, `primary_after` and `endpoint`, from whichever step put them out last; failed runs too."""
    found: dict[str, Any] = {}
    for entry in entries:
        outputs: Mapping[str, Any] = entry.body.get("outputs", {}) if entry.kind == "outcome" else {}
        for key in ("generation_after", "primary_after"):
            if outputs.get(key) is not None:
                found[key] = outputs[key]
        if isinstance(outputs.get("endpoint"), dict):
            found["endpoints"] = {**found.get("endpoints", {}), **outputs["endpoint"]}
    return found


def _phases(plan: Plan | None, entries: list[Entry]) -> dict[str, float]:
    """Seconds from the first intent to the last outcome of each phase, on the run's own monotonic time."""
    phase_of = {step.id: str(step.phase) for step in plan.steps} if plan else {}
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for entry in entries:
        phase = phase_of.get(str(entry.body.get("step", "")))
        if phase and entry.kind == "intent":
            first.setdefault(phase, entry.t)
        elif phase and entry.kind == "outcome":
            last[phase] = entry.t
    return {phase: round(last[phase] - first[phase], 6) for phase in last if phase in first}
