"""Where people are told: one message at a time, delivered or not (UX-4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hyops.errors import Effect, TargetError
from hyops.model.notify import Notice


class UndeliveredError(TargetError):
    """A sink did not take a message, or nobody knows whether it did: it is tried again."""

    effect, hint = Effect.UNKNOWN, "see that the sink's server answers; the message is tried again"

    def __init__(self, message: str, *, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Message:
    """What one delivery says: one notice, or a summary of several. `delivery_id` is the same at every try."""

    delivery_id: str
    notices: tuple[Notice, ...]

    @property
    def title(self) -> str:
        """One line."""
        first = self.notices[0].title
        return first if len(self.notices) == 1 else f"{len(self.notices)} messages; first: {first}"

    def text(self) -> str:
        """For people, in plain text; of a long summary the first ones whole, the others a line each, up to a limit."""
        if len(self.notices) == 1:
            return self.notices[0].text()
        whole = [notice.text() for notice in self.notices[:WHOLE]]
        short = [f"- {n.title}" + (f"  ({n.command})" if n.command else "") for n in self.notices[WHOLE:SHOWN]]
        more = [f"and {len(self.notices) - SHOWN} more: `hyops status`"] if len(self.notices) > SHOWN else []
        return "\n\n".join([self.title, *whole, *(["\n".join(short)] if short else []), *more])


WHOLE, SHOWN = 5, 30


class Sink(Protocol):
    """One way to tell somebody."""

    async def deliver(self, message: Message) -> None:
        """Return when the other side has taken it.

        Raises:
            UndeliveredError: it has not, or nobody knows; `wait_s`: it asked not to be tried before. Its text holds no
                URL and no secret. PrerequisiteError, ConfigError: a file of ours is missing or wrong.
        """
