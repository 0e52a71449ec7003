"""An environment's root, plans whose steps keep state, and results as a runner would sign them; for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyops.adapters.states_files import FileStates
from hyops.adapters.store_files import FileRecordStore
from hyops.model import canonical
from hyops.model.execution import AttemptOutcome
from hyops.model.module_state import ModuleState, state_path
from hyops.model.plan import Plan, Step
from hyops.model.run import RunResult
from hyops.model.state_change import ChangeReport, StateReturn
from hyops.services.returning import ReturnedStates
from hyops.services.state_desk import StateDesk
from hyops.testing.clock import FakeClock
from hyops.testing.records import MemoryRecordStore
from hyops.testing.runs import plan_of, step

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
REF = "platform/net#site-b"
RUN = "run-20260131T120000Z-00000001"
OTHER_RUN = "run-20260131T120000Z-00000002"


def net(name: str = "net", **more: Any) -> Step:
    """A step that keeps `REF` and publishes two outputs."""
    return step(name, module="platform/net", state_instance="site-b", publishes=["cidr", "gateway"], **more)


def state(generation: int, *, status: str = "ok", ref: str = REF, **outputs: Any) -> ModuleState:
    """One generation of a state."""
    _, module, instance = state_path(ref)
    body = {"module_ref": module, "run_id": "by-hand", "status": status, "updated_at": AT.isoformat(),
            "generation": generation, "outputs": outputs, "dependencies": ["core/x"]}  # fmt: skip
    return ModuleState.of({**body, "state_instance": instance} if instance else body)


def ended(
    plan: Plan, outputs: dict[str, Any], *, base: int | None, outcome: str = "succeeded", run_id: str = RUN,
    records: int = 9, **change: Any,
) -> AttemptOutcome:  # fmt: skip
    """The outcome of a run whose first step left `outputs`; `change` replaces what the runner says of its state."""
    status = {"succeeded": "ok", "failed": "error", "unknown": "unknown"}[outcome]
    kept = plan.steps[0]
    published = sorted(outputs.keys() & set(kept.publishes or [])) if outcome == "succeeded" else []
    told = {"state_ref": kept.state_ref(), "base_generation": base, "status": status, "published": published, **change}
    body = {"step_id": kept.id, "outcome": outcome, "started_at": AT.isoformat(), "ended_at": AT.isoformat(),
            "elapsed_s": 1.0, "outputs": outputs,
            "state": {k: v for k, v in told.items() if v is not None}}  # fmt: skip
    return outcome_with(plan, [body], run_id=run_id, records=records)


def outcome_with(plan: Plan, steps: list[dict[str, Any]], *, run_id: str = RUN, records: int = 9) -> AttemptOutcome:
    """The outcome of a run with these steps."""
    times = {"started_at": AT.isoformat(), "ended_at": AT.isoformat()}
    result = RunResult.of(
        {"run_id": run_id, "runner_ref": plan.runner_ref, "service": plan.service, "generation_before": 7,
         "outcome": "succeeded", "exit_code": 0, **times, "steps": steps, "plan_digest": plan.digest(),
         "journal_head": canonical.digest(run_id), "journal_records": records}
    )  # fmt: skip
    return AttemptOutcome.of(
        {"outcome_id": f"outcome-{run_id[-8:]}-{records}", "attempt_id": f"attempt-{run_id[-8:]}", "run_id": run_id,
         "timestamp_utc": AT.isoformat(), "outcome": "succeeded", "exit_code": 0, "service": plan.service,
         "generation_before": 7, "journal_head": result.journal_head, "result": result.body()}
    )  # fmt: skip


@dataclass
class Root:
    """One environment, `lab`, at its authority."""

    path: Path
    at_boundary: Callable[[str], None] = lambda name: None
    plans: MemoryRecordStore = field(default_factory=MemoryRecordStore)
    clock: FakeClock = field(default_factory=FakeClock)

    @property
    def states(self) -> FileStates:
        """The store, as a fresh process opens it."""
        return FileStates(self.path, lock_wait_s=0.2, at_boundary=self.at_boundary)

    @property
    def conflicts(self) -> FileRecordStore:
        """What waits for a person."""
        return FileRecordStore(self.path / "state" / "conflicts", group_readable=False)

    @property
    def desk(self) -> StateDesk:
        """What `hyops state` uses."""
        resolved = FileRecordStore(self.path / "state" / "conflicts" / "resolved", group_readable=False)
        return StateDesk(self.states, conflicts=self.conflicts, resolutions=resolved, clock=self.clock)

    @property
    def returns(self) -> ReturnedStates:
        """Who takes what comes home."""
        return ReturnedStates(
            self.states, env="lab", plans=self.plans, conflicts=self.conflicts, clock=self.clock,
            reports=lambda run_id: FileRecordStore(self.path / "logs" / "runner" / run_id, group_readable=False),
        )  # fmt: skip

    def put(self, fresh: ModuleState, ref: str = REF) -> None:
        """The next generation."""
        with self.states.writing("test") as writer:
            now = writer.read(ref)
            writer.put(ref, fresh, expected=now.state.generation if now else None)

    def now(self, ref: str = REF) -> ModuleState | None:
        """The state."""
        kept = self.states.read(ref)
        return kept.state if kept else None

    def plan(self, *steps: Step, env: str = "lab") -> Plan:
        """A plan of steps that keep state, with what the authority has now in its bundle; the first is `net()`."""
        found = {}
        for one in steps or (net(),):
            if (ref := one.state_ref()) and (kept := self.states.read(ref)):
                found[state_path(ref)[0]] = kept.digest
        plan = plan_of(steps or (net(),)).model_copy(update={"bundle": found, "env": env})
        self.plans.create(plan.digest().removeprefix("sha256:"), canonical.encode(plan.body()))
        return plan

    def take(self, outcome: AttemptOutcome) -> StateReturn:
        """Take it home."""
        taken = self.returns.take(outcome)
        assert taken is not None
        return taken

    def one(self, outcome: AttemptOutcome) -> ChangeReport:
        """What became of its only change."""
        (change,) = self.take(outcome).changes
        return change

    def files(self) -> dict[str, bytes]:
        """Everything below `state/modules`."""
        top = self.path / "state" / "modules"
        return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}

    def text(self) -> str:
        """Everything below the root, for canaries."""
        return json.dumps([path.read_text() for path in self.path.rglob("*") if path.is_file()])
