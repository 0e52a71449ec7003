"""What the desk of pull mode answers: one request of an agent whose certificate was believed (RUN-11)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PullRequest:
    """Of one runner. Header names are lower case."""

    runner_ref: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class PullResponse:
    """What goes back."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


PullAnswer = Callable[[PullRequest], Awaitable[PullResponse]]
