"""How a job comes to its targets: what others left is closed, its own way asked for, and closed at the end (ACC-1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hyops.engine.state import Finish
from hyops.errors import PrerequisiteError, RefusedError
from hyops.model.access import ResolvedAccess
from hyops.model.run import RunSpec
from hyops.runner import decided
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders
from hyops.services.access_ends import MEND, AccessEnds
from hyops.services.run_access import ResolveAccess, resolved


class Appends(Protocol):
    """Writes into the journal of the run."""

    def __call__(self, kind: str, body: Mapping[str, Any], *, essential: bool = False) -> None:
        """One record; an essential one has room on a full disk too."""


@dataclass(frozen=True)
class JobAccess:
    """Of one run. Without `ends` nothing is opened on this runner."""

    resolve: ResolveAccess
    ends: AccessEnds | None
    config: RunnerConfig
    folders: Folders
    run_id: str
    log: Callable[[str], None]
    append: Appends

    async def reached(self, spec: RunSpec) -> ResolvedAccess:
        """How the targets are reached.

        Raises:
            RefusedError: a prerequisite does not hold; or a way of a run before this one is not proved closed, and this
                one would open another.
        """
        left: list[str] = []
        if self.ends is not None:
            left = await self.ends.sweep(self._lives, lambda told: self.log(f"of a run before: {dict(told)}"))
        if left and spec.plan.access is not None:
            raise PrerequisiteError(f"access mode {spec.plan.execution_plane}: {'; '.join(left)}", hint=MEND)
        return await resolved(self.resolve, spec, self.config)

    async def again(self, spec: RunSpec) -> None:
        """A resumed run's way may have ended meanwhile: it is opened anew; where it is not, the steps meet what is."""
        if spec.plan.access is None or decided.cancelled(self.folders.run(self.run_id)) is not None:
            return
        try:
            await resolved(self.resolve, spec, self.config)
        except RefusedError as exc:
            self.log(f"{self.run_id}: {exc.message}")

    async def ended(self, finish: Finish) -> Finish:
        """Whatever the end is, what the run opened is closed, and seen closed, before it."""
        if self.ends is None:
            return finish
        return await self.ends.ended(self.run_id, finish, lambda told: self.append("note", told, essential=True))

    def _lives(self, run_id: str) -> bool:
        return run_id != self.run_id and self.folders.state(run_id) == "running"
