"""What of a runner's result may go into module state: what the plan's steps publish, and nothing else (RUN-6, MOD-1).

A change that the plan does not know makes the whole return unbelievable. A value that is no fit for state (a secret,
a path of the runner's own, too much) keeps only its own step's change out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hyops.engine import patterns
from hyops.engine.merge import Left
from hyops.engine.redact import MASK
from hyops.errors import RecordError
from hyops.model import canonical
from hyops.model.plan import Plan, Step
from hyops.model.run import RunResult, StepOutcome
from hyops.model.state_change import StateChange
from hyops.model.vocabulary import Outcome

OUTPUTS_MAX = 64 * 1024
STATUS = {Outcome.SUCCEEDED: "ok", Outcome.FAILED: "error", Outcome.UNKNOWN: "unknown"}
"""What a step's end makes of its state; one that was refused or cancelled touched nothing."""

PATH = re.compile(r"^\s*(?:/|~|\\|[A-Za-z]:[\\/]|file:)|(?:^|[/\\])\.\.(?:$|[/\\])", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
URL = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Returned:
    """One step's change: to be merged, or at fault. `forged`: no honest runner says so."""

    step_id: str
    state_ref: str | None
    change: StateChange | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    publishes: tuple[str, ...] = ()
    fault: str | None = None
    forged: bool = False

    @property
    def left(self) -> Left:
        """For the merge."""
        assert self.change is not None
        return Left(self.change.status, self.values, self.publishes)


def change_of(step: Step, outcome: Outcome, outputs: Mapping[str, Any], base: int | None) -> StateChange | None:
    """What the runner says of a step that ended; None when it keeps no state, or certainly changed none."""
    ref, status = step.state_ref(), STATUS.get(outcome)
    if ref is None or status is None:
        return None
    published = sorted(outputs.keys() & set(step.publishes or [])) if outcome is Outcome.SUCCEEDED else []
    return StateChange.of(
        {k: v for k, v in {"state_ref": ref, "base_generation": base, "status": status, "published": published}.items()
         if v is not None}
    )  # fmt: skip


def returned(result: RunResult, plan: Plan) -> list[Returned]:
    """Every change of a result, in its order, and every one that is missing from it."""
    steps = {step.id: step for step in plan.steps}
    found, seen = list[Returned](), set[str]()
    for told in result.steps:
        step = steps.get(told.step_id)
        if step is None or told.step_id in seen:
            found.append(_forged(told, "the plan has no such step" if step is None else "the step stands twice"))
            continue
        seen.add(told.step_id)
        if (one := _judged(told, step)) is not None:
            found.append(one)
    return found


def _judged(told: StepOutcome, step: Step) -> Returned | None:
    ref, status, change = step.state_ref(), STATUS.get(told.outcome), told.state
    if change is None:
        missing = ref is not None and status is not None
        return Returned(step.id, ref, fault="the runner says nothing of it") if missing else None
    if ref is None or change.state_ref != ref:
        return _forged(told, f"the plan's step keeps {ref or 'no state'}, the runner changed {change.state_ref}")
    if change.status != status:
        return _forged(told, f"the step {told.outcome}, the runner calls its state {change.status}")
    publishes = tuple(step.publishes or [])
    if extra := sorted(set(change.published) - set(publishes)):
        return _forged(told, f"the plan's step does not publish {', '.join(extra)}")
    if change.published and change.status != "ok":
        return _forged(told, f"a step that {told.outcome} publishes nothing")
    if absent := sorted(set(change.published) - told.outputs.keys()):
        return _forged(told, f"published, but no output: {', '.join(absent)}")
    values = {key: told.outputs[key] for key in change.published}
    return Returned(step.id, ref, change, values, publishes, _unfit(values))


def _forged(told: StepOutcome, fault: str) -> Returned:
    return Returned(told.step_id, told.state.state_ref if told.state else None, fault=fault, forged=True)


def _unfit(values: Mapping[str, Any]) -> str | None:
    """Why these outputs cannot be state; names the output, never its value."""
    try:
        size = len(canonical.encode(dict(values)))
    except RecordError as exc:
        return f"the outputs have no JSON form: {exc.message}"
    if size > OUTPUTS_MAX:
        return f"outputs of {size} bytes are over {OUTPUTS_MAX}"
    for name, value in values.items():
        if patterns.spans(canonical.encode({name: value})):
            return f"output {name} has, or is, a secret"
        for text in _texts(value):
            if MASK in text or patterns.spans(text.encode()):
                return f"output {name} has, or is, a secret"
            if CONTROL.search(text):
                return f"output {name} has a control character"
            if any(PATH.search(line) and not URL.match(line) for line in text.splitlines()):
                return f"output {name} is, or has, a path that is not relative to the root"
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
