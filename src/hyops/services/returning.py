"""What a run brought home goes into its environment's state: once, against what the authority says now (RUN-6, ROOT-5).

Nothing but the plan and the runner's signed result, as the outcome keeps it, is needed, so it can be done again after a
crash at any point, without the runner. What an earlier try wrote is known by its run in the state's history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime

from hyops.engine.merge import Clash, Left, Same, Take, three_way
from hyops.engine.published import Returned, returned
from hyops.errors import PrerequisiteError, RecordError
from hyops.model import canonical
from hyops.model.execution import AttemptOutcome
from hyops.model.module_state import ModuleState, state_path
from hyops.model.plan import Plan
from hyops.model.run import RunResult
from hyops.model.state_change import ChangeReport, StateConflict, StateReturn
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.states import Kept, StateStore, StateWriter
from hyops.services.loop import log

ATTACHMENT = "state-return.json"
EMPTY_HANDED = "nothing of this return was taken: "


class ReturnedStates:
    """Takes what runs left into one environment's root.

    `reports` gives the store of a run's reports; a report is written last, and stands for the whole return.
    """

    def __init__(
        self,
        states: StateStore,
        *,
        env: str,
        plans: RecordStore,
        conflicts: RecordStore,
        reports: Callable[[str], RecordStore],
        clock: Clock,
    ) -> None:
        self._states, self._env, self._plans, self._clock = states, env, plans, clock
        self._conflicts, self._reports = conflicts, reports

    def take(self, outcome: AttemptOutcome) -> StateReturn | None:
        """Merge what the run left, unless that was done; None when it left nothing, or nothing that was proved.

        Raises:
            PrerequisiteError: the root cannot be written, or the plan is gone; to be called again, nothing is lost.
        """
        if not outcome.result or outcome.journal_head is None:
            return None
        if (done := self.report(outcome)) is not None:
            return done
        result = RunResult.of(outcome.result, source=f"outcome {outcome.outcome_id}")
        plan = self._plan(result.plan_digest)
        if not (changes := returned(result, plan)):
            return None
        with self._states.writing(f"return of {result.run_id}") as writer:
            reported = _Taking(plan, result, writer, self._conflicts, self._clock.now()).all(changes, self._env)
        body = StateReturn(
            outcome_id=outcome.outcome_id,
            run_id=result.run_id,
            env=self._env,
            at=self._clock.now(),
            changes=reported,
        )
        self._reports(result.run_id).create(_report_id(outcome), canonical.encode(body.body()) + b"\n")
        for one in reported:
            log(f"state {one.what}", run_id=result.run_id, state_ref=one.state_ref, reason=one.reason)
        return body

    def report(self, outcome: AttemptOutcome) -> StateReturn | None:
        """What became of an outcome's changes; None when nothing was taken yet."""
        try:
            data = self._reports(outcome.run_id).read(_report_id(outcome))
        except KeyError:
            return None
        return StateReturn.read(data, source=_report_id(outcome))

    def attachments(self, outcome: AttemptOutcome) -> dict[str, bytes]:
        """For the outcome's evidence."""
        report = self.report(outcome)
        return {} if report is None else {ATTACHMENT: canonical.encode(report.body()) + b"\n"}

    def _plan(self, digest: str) -> Plan:
        name = digest.removeprefix("sha256:")
        try:
            plan = Plan.read(self._plans.read(name), source=f"plan {name}")
        except KeyError:
            raise PrerequisiteError(f"plan {name} is gone", hint="restore the dispatcher's plans") from None
        if plan.digest() != digest:
            raise RecordError(f"plan {name}: is another one")
        return plan


class _Taking:
    """One return, under the environment's lock."""

    def __init__(
        self, plan: Plan, result: RunResult, writer: StateWriter, conflicts: RecordStore, now: datetime
    ) -> None:
        self._plan, self._result, self._writer = plan, result, writer
        self._conflicts, self._now = conflicts, now

    def all(self, changes: Sequence[Returned], env: str) -> list[ChangeReport]:
        """Each change, or none of them when one of them is forged."""
        forged = [f"step {c.step_id[:80]}: {c.fault}" for c in changes if c.forged]
        forged += [fault for c in changes if c.fault is None and (fault := self._base_fault(c))]
        if self._plan.env != env:
            forged.append(f"the plan is for {self._plan.env}, this root is {env}'s")
        if forged:
            return [_refused(c, EMPTY_HANDED + "; ".join(forged)) for c in changes]
        return [_refused(c, c.fault) if c.fault is not None else self._one(c) for c in changes]

    def _base_fault(self, one: Returned) -> str | None:
        """Why the generation that the runner says it began with is not the one that was sent to it."""
        sent, claimed = self._sent(one), one.change.base_generation if one.change else None
        if (sent is None) != (claimed is None):
            return f"{one.state_ref}: the runner says that it began with {claimed}, which the plan's bundle denies"
        try:
            past = self._writer.history(one.state_ref or "")
        except RecordError:
            return None  # said when it is merged
        known = {kept.digest: kept.state.generation for kept in past}
        if sent is not None and known.get(sent, claimed) != claimed:
            return f"{one.state_ref}: the runner says that it began with {claimed}; it was sent {known[sent]}"
        return None

    def _sent(self, one: Returned) -> str | None:
        return self._plan.bundle.get(state_path(one.state_ref or "")[0])

    def _one(self, one: Returned) -> ChangeReport:
        """Merge one change; what cannot be is kept as a conflict."""
        assert one.state_ref is not None
        assert one.change is not None
        conflict_id = _conflict_id(one, self._result)
        if (there := _conflict(self._conflicts, conflict_id)) is not None:
            return _conflicting(there)
        try:
            past = self._writer.history(one.state_ref)
        except RecordError as exc:
            return self._keep(one, Clash(["authority"], exc.message), None, None)
        ours = past[-1].state if past else None
        own = next((k.state for k in reversed(past) if _is_own(k, one, self._result)), None)
        if own is not None and own.execution["journal_records"] >= self._result.journal_records:
            return _report(one, str(own.execution["merge"]), own.generation)
        sent = self._sent(one)
        base = next((kept.state for kept in past if kept.digest == sent), None)
        base = base if own is None else _as_left(own, base, one)
        if sent is not None and base is None:
            at = "none" if ours is None else str(ours.generation)
            why = f"the authority is at generation {at} and has no generation {one.change.base_generation} as it was"
            return self._keep(one, Clash(["generation"], f"{why} sent to the runner"), base, ours)
        merged = three_way(base, ours, one.left)
        if isinstance(merged, Clash):
            return self._keep(one, merged, base, ours)
        if isinstance(merged, Same):
            return _report(one, "same", ours.generation if ours else None)
        state = next_state(one.state_ref, ours, merged, execution=self._execution(one, merged), now=self._now)
        self._writer.put(one.state_ref, state, expected=None if ours is None else ours.generation)
        return _report(one, "merged" if merged.merged else "applied", state.generation)

    def _execution(self, one: Returned, merged: Take) -> dict[str, object]:
        return {
            "run_id": self._result.run_id,
            "runner_ref": self._result.runner_ref,
            "step": one.step_id,
            "journal_records": self._result.journal_records,
            **({"merge": "merged", "published": dict(one.values)} if merged.merged else {"merge": "applied"}),
        }

    def _keep(self, one: Returned, clash: Clash, base: ModuleState | None, ours: ModuleState | None) -> ChangeReport:
        assert one.state_ref is not None
        assert one.change is not None
        left: Left = one.left
        conflict = StateConflict(
            conflict_id=_conflict_id(one, self._result),
            state_ref=one.state_ref,
            run_id=self._result.run_id,
            runner_ref=self._result.runner_ref,
            step_id=one.step_id,
            journal_records=self._result.journal_records,
            found_at=self._now,
            keys=clash.keys,
            reason=clash.reason,
            status=one.change.status,
            published=dict(left.published),
            publishes=list(left.publishes),
            base_generation=one.change.base_generation,
            base=base,
            ours=ours,
        )
        self._conflicts.create(conflict.conflict_id, canonical.encode(conflict.body()) + b"\n")
        return _conflicting(conflict)


def next_state(
    state_ref: str, ours: ModuleState | None, merged: Take, *, execution: dict[str, object], now: datetime
) -> ModuleState:
    """The next generation at the authority; what a run says nothing of stays as it was."""
    _, module_ref, instance = state_path(state_ref)
    run_id = str(execution["run_id"])
    body = {
        **(ours.body() if ours else {}),
        "module_ref": module_ref,
        "state_instance": instance,
        "run_id": run_id,
        "status": merged.status,
        "updated_at": now.isoformat(),
        "generation": (ours.generation if ours else 0) + 1,
        "outputs": merged.outputs,
        "execution": execution,
        "evidence_dir": f"logs/runner/{run_id}",
    }
    return ModuleState.of({k: v for k, v in body.items() if v is not None}, source=state_ref)


def _conflict(conflicts: RecordStore, conflict_id: str) -> StateConflict | None:
    try:
        return StateConflict.read(conflicts.read(conflict_id), source=conflict_id)
    except KeyError:
        return None


def _is_own(kept: Kept, one: Returned, result: RunResult) -> bool:
    """Whether this very step of this very run made it, at this end of the run or an earlier one."""
    told = kept.state.execution
    mine = (told.get("run_id"), told.get("step")) == (result.run_id, one.step_id)
    return mine and type(told.get("journal_records")) is int


def _as_left(own: ModuleState, base: ModuleState | None, one: Returned) -> ModuleState:
    """What this run had left at an earlier end: its own values, without what others had changed beside it."""
    published = own.execution.get("published")
    if not isinstance(published, dict):
        published = {key: own.outputs[key] for key in one.publishes if key in own.outputs}
    return own.model_copy(update={"outputs": Left(own.status, published, one.publishes).on(base)})


def _conflict_id(one: Returned, result: RunResult) -> str:
    """The same for whoever takes the same end of the same run."""
    told = canonical.encode([one.state_ref, result.run_id, one.step_id, result.journal_records])
    return f"conflict-{hashlib.sha256(told).hexdigest()[:16]}"


def _report_id(outcome: AttemptOutcome) -> str:
    return f"state-{outcome.outcome_id}"[:64]


def _refused(one: Returned, why: str | None) -> ChangeReport:
    return ChangeReport(
        step_id=one.step_id, state_ref=one.state_ref, what="refused", reason=None if why is None else why[:4000]
    )


def _conflicting(conflict: StateConflict) -> ChangeReport:
    return ChangeReport(
        step_id=conflict.step_id,
        state_ref=conflict.state_ref,
        what="conflict",
        conflict_id=conflict.conflict_id,
        keys=conflict.keys,
        reason=conflict.reason,
    )


def _report(one: Returned, what: str, generation: int | None) -> ChangeReport:
    body = {"step_id": one.step_id, "state_ref": one.state_ref, "what": what, "generation": generation}
    return ChangeReport.of({k: v for k, v in body.items() if v is not None})
