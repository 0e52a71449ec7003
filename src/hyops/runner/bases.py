"""Which generation of each state a run begins with: what lies in its bundle, and nothing else (RUN-6)."""

from __future__ import annotations

from pathlib import Path

from hyops.errors import RecordError, UnsafePlanError
from hyops.model.module_state import ModuleState, state_path
from hyops.model.plan import Plan
from hyops.runner.folders import read_file

STATE_MAX = 1024 * 1024


def generations(bundle: Path, plan: Plan) -> dict[str, int]:
    """Generation by state reference, for the steps that keep state and have one in the bundle.

    Raises:
        UnsafePlanError: what the bundle has is no module state.
    """
    found = {}
    for step in plan.steps:
        ref = step.state_ref()
        if ref is None or (path := state_path(ref)[0]) not in plan.bundle:
            continue
        try:
            found[ref] = ModuleState.read(read_file(bundle / path, STATE_MAX), source=path).generation
        except RecordError as exc:
            raise UnsafePlanError(f"step {step.id}: {exc.message}", hint="mend the state, then plan again") from exc
    return found
