"""Every way in that a run opened has an end that was seen: with the run, or with the next one here (ACC-1).

The runner's own record is on disk before the edge is asked, so that whoever comes after a kill knows what to remove,
and goes when that is proved. Until then the edge's kernel has the end; an expiry is no proof, and is looked at too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hyops.access.public import due
from hyops.engine.state import Finish
from hyops.errors import HyopsError, NotVerifiedError, PrerequisiteError, foreign
from hyops.model.access import AccessGrant
from hyops.model.vocabulary import Outcome
from hyops.ports.access import Edge
from hyops.runner.folders import Folders

Note = Callable[[Mapping[str, Any]], object]
MEND = "`hyops access list` on the edge shows it; mend what is named, then `hyops runner gc`, or the next run, does it"


class KeptGrants(Protocol):
    """Records of grants that survive a crash."""

    def keep(self, grant: AccessGrant) -> None:
        """Write or replace, durably."""

    def all(self) -> list[AccessGrant]:
        """Every one, oldest first."""

    def drop(self, grant_id: str) -> None:
        """Forget one."""


@dataclass(frozen=True)
class AccessEnds:
    """The ways of one runner. `edge` is looked up when there is something to open or to close; None: there is none."""

    edge: Callable[[], Edge | None]
    kept: KeptGrants

    async def open(self, grant: AccessGrant) -> AccessGrant:
        """Ask for one, with the intent on disk before."""
        edge = self._edge()
        self.kept.keep(grant)
        opened = await edge.open(grant)
        self.kept.keep(opened)
        return opened

    async def sweep(self, lives: Callable[[str], bool], note: Note = lambda body: None) -> list[str]:
        """Remove what ended runs left; why some of it is not proved gone. `lives`: whether a run's process runs."""
        return await self._remove(lambda run_id: not lives(run_id), note)

    async def ended(self, run_id: str, finish: Finish, note: Note) -> Finish:
        """Remove what this run opened; a run whose way is not proved gone is not called a success."""
        faults = await self._remove(lambda of: of == run_id, note)
        if not faults:
            return finish
        why = "; ".join(filter(None, [finish.reason, *faults]))
        if finish.outcome is Outcome.SUCCEEDED:
            return Finish(Outcome.FAILED, NotVerifiedError.exit_code, f"every step succeeded; {why}; {MEND}")
        return Finish(finish.outcome, finish.exit_code, why)

    async def _remove(self, wanted: Callable[[str], bool], note: Note) -> list[str]:
        faults = []
        try:
            left = [grant for grant in due(self.kept.all()) if wanted(run_of(grant))]
        except HyopsError as exc:
            return [f"the records of ways that were opened cannot be read: {exc.message}"]
        for grant in left:
            try:
                with foreign():
                    removed = await self._edge().remove(grant)
            except HyopsError as exc:
                faults.append(f"the way {grant.grant_id} is not proved closed: {exc.message}")
                note({"access_left": grant.grant_id, "why": exc.message})
                continue
            note({"access_removed": removed.body()})
            self.kept.drop(grant.grant_id)
        return faults

    def _edge(self) -> Edge:
        if (found := self.edge()) is None:
            raise PrerequisiteError("no edge is defined on this runner", hint="define options.access.edge")
        return found


def run_of(grant: AccessGrant) -> str:
    """The run that a grant was opened for."""
    return grant.grant_id.rpartition("-")[0]


def sweep_left(ends: AccessEnds, folders: Folders) -> None:
    """Remove what ended runs of this runner left.

    Raises:
        NotVerifiedError: some of it is not proved gone.
    """
    if left := asyncio.run(ends.sweep(lambda run_id: folders.state(run_id) == "running")):
        raise NotVerifiedError("; ".join(left), hint=MEND)
