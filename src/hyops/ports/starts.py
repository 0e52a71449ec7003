"""What the executor must remember beside its records: epochs, who dials, and whether a start may have been sent."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from hyops.errors import RecordError
from hyops.ports.records import Created, RecordStore

WORDS = {"RunnerUnreachableError": "not reached", "HeldError": "held"}


@dataclass(frozen=True)
class Hindrance:
    """Why the last try to bring an attempt to its end stopped short; it is tried again. `at` is UTC, as ISO 8601."""

    at: str
    error: str
    message: str
    hint: str

    @property
    def word(self) -> str:
        """What it means: of a run whose runner is not reached nobody here knows whether it goes on."""
        return WORDS.get(self.error, "not going on")

    def body(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "word": self.word}


@dataclass(frozen=True)
class Remembered:
    """What moves with the records: the last epoch, and the attempts of which a start may have been sent."""

    epoch: int
    sent: frozenset[str]


@dataclass(frozen=True)
class Rival:
    """What must not stand beside a record that is to be made: a record of `store` by its id, or by its slot."""

    store: RecordStore
    name: str
    by_slot: bool = False

    def stands(self) -> bool:
        """Whether it is there, whole or damaged, or would still appear: its writer may have died half-way.

        Raises:
            PrerequisiteError: nobody can tell.
        """
        self.store.complete()
        if self.by_slot:
            return self.store.slot(self.name) is not None
        try:
            self.store.read(self.name)
        except KeyError:
            return False
        except RecordError:
            return True
        return True


class Starts(Protocol):
    """Shared by all executors of one loop; survives each of them."""

    def next_epoch(self) -> int:
        """A number greater than every one handed out before; durable before it is returned."""

    def last_epoch(self) -> int:
        """The last number that was handed out, or raised to; 0 where none was."""

    def at_least(self, epoch: int, *, leap_max: int) -> None:
        """From now on no lower number is handed out; durable before it returns.

        Raises:
            RecordError: it is more than `leap_max` ahead of the last one; nothing was changed.
        """

    def note(self, attempt_id: str) -> None:
        """Intent, durable before the runner is asked: from now on a start may have been sent.

        Raises:
            DialLostError: within `dialling`, the right is another executor's by now; nothing was noted.
        """

    def forget(self, attempt_id: str) -> None:
        """The only start that was noted was answered, and did not happen: none was sent, as far as anybody asks.

        Raises:
            DialLostError: as with `note`; the mark stays.
        """

    def maybe_sent(self, attempt_id: str) -> bool:
        """Whether a start of this attempt may ever have been sent, by any executor."""

    def hinder(self, attempt_id: str, by: Hindrance | None) -> None:
        """Note what people are to be told of an open attempt, or of an execution that waits for a person.

        None when nothing is in its way any more.
        """

    def hindrance(self, attempt_id: str) -> Hindrance | None:
        """The last one; None also when it cannot be read, for nothing depends on it."""

    def dialling(self, attempt_id: str) -> AbstractContextManager[bool]:
        """Hold the right to dial for this attempt; False when another executor has it. A dead holder holds nothing.

        Where a right can be lost while it is held, the task that holds it is cancelled at once, and leaves the `with`
        by DialLostError.
        """

    async def freed(self, attempt_id: str) -> None:
        """Return as soon as nobody holds that right any more, at once when nobody does; the caller limits the time."""

    def create(
        self, attempt_id: str, store: RecordStore, record_id: str, data: bytes, *, slot: str | None = None
    ) -> Created:
        """Create a record by the right to dial, which is still held when it is made: for what ends an attempt.

        Raises:
            DialLostError: it is another executor's by now; nothing was written. And as `RecordStore.create`.
        """

    def settle(
        self, attempt_id: str, store: RecordStore, record_id: str, data: bytes, *, slot: str, rival: Rival
    ) -> Created | None:
        """Create what settles whether an execution runs: its attempt, or the refusal that closes it. Never both.

        `attempt_id` is the one by which it would run. Outside of `dialling`, and without a right. A rival that can
        still appear, for its writer died half-way, stands.

        Returns:
            As the store does; None where nothing was written: the rival stands, or somebody else is at it right now.

        Raises:
            RecordError, PrerequisiteError: as `RecordStore.create`.
        """
