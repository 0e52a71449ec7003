"""A host as a person who administrates it enters it: any command, as root where it says so (RUN-2)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Said:
    """How a command ended: its status (-1 when nobody said), what it wrote and what it complained of."""

    status: int
    out: bytes
    errors: bytes


class AdminSession(Protocol):
    """One login."""

    @property
    def user(self) -> str:
        """Who logged in."""

    async def run(self, command: str, data: bytes = b"") -> Said:
        """One command of a shell, with `data` on its standard input.

        Raises:
            RunnerUnreachableError: the link failed; what was under way there may go on.
            TargetError: it wrote more than anything of ours does.
        """


class AdminLogin(Protocol):
    """The way to it."""

    def enter(self) -> AbstractAsyncContextManager[AdminSession]:
        """Log in.

        Raises:
            HostKeyError: an unknown or changed key; nothing was sent. PrerequisiteError: we are not let in.
            RunnerUnreachableError: nobody answers.
        """
