"""What the executor must remember beside its records: epochs, who dials, and whether a start may have been sent."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol


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
        return "not reached" if self.error == "RunnerUnreachableError" else "not going on"

    def body(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "word": self.word}


class Starts(Protocol):
    """Shared by all executors of one host; survives each of them."""

    def next_epoch(self) -> int:
        """A number greater than every one handed out before; durable before it is returned."""

    def note(self, attempt_id: str) -> None:
        """Intent, durable before the runner is asked: from now on a start may have been sent."""

    def forget(self, attempt_id: str) -> None:
        """The only start that was noted was answered, and did not happen: none was sent, as far as anybody asks."""

    def maybe_sent(self, attempt_id: str) -> bool:
        """Whether a start of this attempt may ever have been sent, by any executor."""

    def hinder(self, attempt_id: str, by: Hindrance | None) -> None:
        """Note what people are to be told of an open attempt; None when nothing is in its way any more."""

    def hindrance(self, attempt_id: str) -> Hindrance | None:
        """The last one; None also when it cannot be read, for nothing depends on it."""

    def dialling(self, attempt_id: str) -> AbstractContextManager[bool]:
        """Hold the right to dial for this attempt; False when another executor has it. A dead holder holds nothing."""
