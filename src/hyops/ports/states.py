"""Module state of one environment: the authority, with its history (ROOT-3, ROOT-5)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hyops.model.module_state import ModuleState


@dataclass(frozen=True)
class Kept:
    """A generation of a state, and the digest of the file that holds it."""

    state: ModuleState
    digest: str


class StateWriter(Protocol):
    """Somebody who holds the environment's lock."""

    def read(self, state_ref: str) -> Kept | None:
        """The state as it is; what a dead writer began is finished first."""

    def history(self, state_ref: str) -> list[Kept]:
        """Every generation, oldest first; the last is what `read` gives."""

    def put(self, state_ref: str, state: ModuleState, *, expected: int | None) -> None:
        """Write the next generation, durable when this returns.

        Args:
            expected: the generation that the writer saw; None: there was no state.

        Raises:
            StaleGenerationError: the authority is at another one, or `state` is not the next; nothing was written.
            RecordError: the file there is not what was written last; it was left as it is.
        """


class StateStore(Protocol):
    """Reading needs no lock: a state is replaced as a whole."""

    def refs(self) -> list[str]:
        """Every state reference, by name."""

    def read(self, state_ref: str) -> Kept | None:
        """The state as it is; None without one. UsageError: no state reference. RecordError: it is damaged."""

    def history(self, state_ref: str) -> list[Kept]:
        """Every generation, oldest first; the last is what `read` gives."""

    def writing(self, why: str) -> AbstractContextManager[StateWriter]:
        """Hold the lock, for as little as it takes; `why` is told to whoever waits.

        Raises:
            PrerequisiteError: somebody alive holds it; names pid, host and what for.
        """
