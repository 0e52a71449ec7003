"""Looking at an environment's state, and deciding what a merge could not (ROOT-3, RUN-6)."""

from __future__ import annotations

from hyops.engine.merge import Clash, Left, Same, three_way
from hyops.errors import PrerequisiteError, RecordError, StaleGenerationError, UsageError
from hyops.model import canonical
from hyops.model.module_state import ModuleState
from hyops.model.state_change import Side, StateConflict, StateResolution
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.states import StateStore, StateWriter
from hyops.services.returning import next_state


class StateDesk:
    """What `hyops state` asks for."""

    def __init__(self, states: StateStore, *, conflicts: RecordStore, resolutions: RecordStore, clock: Clock) -> None:
        self._states, self._conflicts, self._resolutions, self._clock = states, conflicts, resolutions, clock

    def every(self) -> list[tuple[str, ModuleState | str]]:
        """Every state reference with its state, or with why it cannot be read."""
        found: list[tuple[str, ModuleState | str]] = []
        for ref in self._states.refs():
            try:
                found.append((ref, self.show(ref)))
            except RecordError as exc:
                found.append((ref, exc.message))
        return found

    def show(self, state_ref: str) -> ModuleState:
        """One state; PrerequisiteError when there is none."""
        kept = self._states.read(state_ref)
        if kept is None:
            raise PrerequisiteError(f"{state_ref}: no such state", hint="`hyops state list` shows every one")
        return kept.state

    def history(self, state_ref: str) -> list[ModuleState]:
        """Every generation, oldest first; PrerequisiteError when there is none."""
        self.show(state_ref)
        return [kept.state for kept in self._states.history(state_ref)]

    def conflicts(self, *, resolved: bool = False) -> list[tuple[StateConflict, StateResolution | None]]:
        """Those that wait for a person, oldest first; with `resolved` the others too."""
        found = [(self._conflict(one), self._resolution(one)) for one in self._conflicts.ids()]
        return sorted((f for f in found if resolved or f[1] is None), key=lambda f: (f[0].found_at, f[0].conflict_id))

    def resolve(self, conflict_id: str, take: Side, *, by: str, at_generation: int | None = None) -> StateResolution:
        """Decide the keys that clash for one side; everything else is merged as if they had not.

        Args:
            at_generation: the authority's generation that was looked at, where it has moved on since the conflict.

        Raises:
            StaleGenerationError: the authority is at another generation; nothing was written.
            PrerequisiteError: it was resolved the other way, or the authority's file is not what was written last.
        """
        with self._states.writing(f"state resolve {conflict_id} by {by}") as writer:
            conflict = self._conflict(conflict_id)
            if (done := self._resolution(conflict_id)) is not None:
                if done.take != take:
                    raise PrerequisiteError(
                        f"{conflict_id}: {done.by} took {done.take} at {done.at.isoformat()}",
                        hint="run the blueprint again to change the state once more",
                    )
                return done
            generation = self._write(writer, conflict, take, at_generation)
            body = StateResolution(
                conflict_id=conflict_id, take=take, by=by, at=self._clock.now(), generation=generation
            )
            self._resolutions.create(conflict_id, canonical.encode(body.body()) + b"\n")
            return body

    def _write(self, writer: StateWriter, conflict: StateConflict, take: Side, at_generation: int | None) -> int:
        """The authority's generation after it; a try that died before its record was made is found in the state."""
        kept = writer.read(conflict.state_ref)
        ours = None if kept is None else kept.state
        if ours is not None and ours.execution.get("conflict") == conflict.conflict_id:
            if ours.execution.get("take") != take:
                raise PrerequisiteError(
                    f"{conflict.conflict_id}: {ours.execution.get('take')} is being taken",
                    hint=f"repeat it with `--take {ours.execution.get('take')}`",
                )
            return ours.generation
        seen = at_generation if at_generation is not None else (conflict.ours.generation if conflict.ours else 0)
        there = 0 if ours is None else ours.generation
        if there != seen:
            raise StaleGenerationError(
                f"{conflict.state_ref}: is at generation {there} by now, the conflict was found at {seen}",
                hint=f"look at `hyops state show '{conflict.state_ref}'`, then add `--at-generation {there}`",
            )
        left = Left(conflict.status, conflict.published, conflict.publishes)
        merged = three_way(conflict.base, ours, left, prefer=take)
        assert not isinstance(merged, Clash), "a side was preferred"
        if isinstance(merged, Same):
            return there
        execution: dict[str, object] = {
            "run_id": conflict.run_id,
            "runner_ref": conflict.runner_ref,
            "step": conflict.step_id,
            "journal_records": conflict.journal_records,
            "merge": "merged",
            "published": conflict.published,
            "conflict": conflict.conflict_id,
            "take": take,
        }
        state = next_state(conflict.state_ref, ours, merged, execution=execution, now=self._clock.now())
        writer.put(conflict.state_ref, state, expected=None if ours is None else ours.generation)
        return state.generation

    def _conflict(self, conflict_id: str) -> StateConflict:
        try:
            return StateConflict.read(self._conflicts.read(conflict_id), source=conflict_id)
        except KeyError:
            raise UsageError(
                f"no conflict {conflict_id[:80]!r}", hint="`hyops state conflicts --all` shows every one"
            ) from None

    def _resolution(self, conflict_id: str) -> StateResolution | None:
        try:
            return StateResolution.read(self._resolutions.read(conflict_id), source=conflict_id)
        except KeyError:
            return None
