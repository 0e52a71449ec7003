"""The state of a module that is applied from here: `running` before an effect, its end afterwards (ROOT-3, VOC-5).

Each change names the generation that it was made upon. Whoever dies in between leaves `running`; the next one, who has
the module's lock and so knows that nobody works on it, writes `unknown` before it begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hyops.model.module_state import ModuleState, state_path
from hyops.ports.clock import Clock
from hyops.ports.states import StateStore

Status = Literal["running", "ok", "error", "destroyed", "unknown"]


@dataclass
class ModuleBook:
    """The state of one module; for who holds its lock."""

    states: StateStore
    clock: Clock
    state_ref: str
    run_id: str

    def now(self) -> ModuleState | None:
        """What stands."""
        kept = self.states.read(self.state_ref)
        return None if kept is None else kept.state

    def settle(self) -> ModuleState | None:
        """What stands; a `running` that nobody runs any more becomes `unknown` first."""
        found = self.now()
        if found is not None and found.status == "running":
            told = {**found.execution, "died": "its process ended without saying how; look at the host, or apply again"}
            return self.write("unknown", found, outputs=found.outputs, execution=told, run_id=found.run_id)
        return found

    def write(
        self,
        status: Status,
        upon: ModuleState | None,
        *,
        outputs: Mapping[str, Any],
        execution: Mapping[str, Any],
        contract: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> ModuleState:
        """The next generation, upon the one that was seen.

        Raises:
            StaleGenerationError: somebody wrote in between. PrerequisiteError: the disk takes nothing.
        """
        _, module_ref, instance = state_path(self.state_ref)
        body = {
            "module_ref": module_ref,
            "run_id": run_id or self.run_id,
            "status": status,
            "updated_at": self.clock.now().isoformat(),
            "state_instance": instance,
            "generation": (0 if upon is None else upon.generation) + 1,
            "outputs": dict(outputs),
            "input_contract": dict(contract if contract is not None else upon.input_contract if upon else {}),
            "execution": dict(execution),
        }
        state = ModuleState.of({k: v for k, v in body.items() if v is not None}, source=self.state_ref)
        with self.states.writing(f"hyops: {self.state_ref} {status}") as writer:
            writer.put(self.state_ref, state, expected=None if upon is None else upon.generation)
        return state
