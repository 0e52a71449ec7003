"""What a control host and a runner have to say to each other of takeovers, beside what a dispatch says (INV-9)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from hyops.ports.look import Look
from hyops.ports.transport import OperatorSession


@dataclass(frozen=True)
class HeldOrder:
    """A standby order that lies on a runner, as that one tells; `digest` is over its bytes, None where damaged."""

    order_id: str
    digest: str | None
    stored_s: float


class TakeoverSession(OperatorSession, Protocol):
    """One connection, for a runner that knows of takeovers; an older one raises UsageError."""

    async def keep_order(self, order: bytes) -> None:
        """Store a standby order, whose bundle was staged under its id.

        Raises:
            RefusedError: the runner does not take it; what it held is as it was.
        """

    async def orders(self) -> list[HeldOrder]:
        """Every order that lies there."""

    async def taken(self, run_id: str) -> bytes:
        """The `TakenOver` of a run, unverified.

        Raises:
            RecordError: no takeover began it there.
        """


class TakeoverTransport(Protocol):
    """`OperatorTransport` whose sessions know of takeovers."""

    def connect(self, runner_ref: str, look: Look | None = None) -> AbstractAsyncContextManager[TakeoverSession]:
        """One authenticated connection."""


class Epochs(Protocol):
    """What an executor remembers of its starts, as far as a takeover bears on it; see `ports.starts`."""

    def last_epoch(self) -> int:
        """The last number that was handed out, or raised to; 0 where none was."""

    def at_least(self, epoch: int, *, leap_max: int) -> None:
        """From now on no lower number is handed out; durable before it returns.

        Raises:
            RecordError: it is more than `leap_max` ahead of the last one; nothing was changed.
        """

    def note(self, attempt_id: str) -> None:
        """The run was begun: from now on its return may be asked for."""
