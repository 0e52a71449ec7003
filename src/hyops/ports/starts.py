"""What the executor must remember beside its records: epochs, who dials, and whether a start may have been sent."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Starts(Protocol):
    """Shared by all executors of one host; survives each of them."""

    def next_epoch(self) -> int:
        """A number greater than every one handed out before; durable before it is returned."""

    def note(self, attempt_id: str) -> None:
        """Intent, durable before the runner is asked: from now on a start may have been sent."""

    def maybe_sent(self, attempt_id: str) -> bool:
        """Whether a start of this attempt may ever have been sent, by any executor."""

    def dialling(self, attempt_id: str) -> AbstractContextManager[bool]:
        """Hold the right to dial for this attempt; False when another executor has it. A dead holder holds nothing."""
