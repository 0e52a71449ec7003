"""The state of an environment: who takes what runs bring home, and who looks at it (ROOT-3, RUN-6)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hyops.ports.clock import Clock
    from hyops.ports.records import RecordStore
    from hyops.services.returning import ReturnedStates
    from hyops.services.state_desk import StateDesk


class Rooted(Protocol):
    """A configuration that may name a runtime root."""

    runtime_root: str | None


def returned_states(config: Rooted, plans: RecordStore, clock: Clock) -> ReturnedStates | None:
    """What the executor hands outcomes to; None where no root is configured, so that no plan can keep state."""
    from hyops.adapters.states_files import FileStates
    from hyops.adapters.store_files import FileRecordStore
    from hyops.services.returning import ReturnedStates

    if config.runtime_root is None:
        return None
    root = Path(config.runtime_root)
    return ReturnedStates(
        FileStates(root),
        env=root.name,
        plans=plans,
        conflicts=_conflicts(root),
        reports=lambda run_id: FileRecordStore(root / "logs" / "runner" / run_id, group_readable=False),
        clock=clock,
    )


def state_desk(root: Path) -> StateDesk:
    """What `hyops state` works with."""
    from hyops.adapters.clock_system import SystemClock
    from hyops.adapters.states_files import FileStates
    from hyops.adapters.store_files import FileRecordStore
    from hyops.services.state_desk import StateDesk

    return StateDesk(
        FileStates(root),
        conflicts=_conflicts(root),
        resolutions=FileRecordStore(root / "state" / "conflicts" / "resolved", group_readable=False),
        clock=SystemClock(),
    )


def _conflicts(root: Path) -> RecordStore:
    from hyops.adapters.store_files import FileRecordStore

    return FileRecordStore(root / "state" / "conflicts", group_readable=False)
