"""A play: what a tool of configuration does on one host, by a pack of the catalogue (MOD-2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol


class PlayStatus(StrEnum):
    """How it ended. `unknown`: nobody saw the end of something that may have changed the host."""

    CHANGED = "changed"
    OK = "ok"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PlayHost:
    """The host, as a person who administrates it enters it; its key is pinned in `known_hosts` under `name`."""

    name: str
    address: str
    port: int
    user: str
    key_file: Path
    known_hosts: Path
    local: bool = False


@dataclass(frozen=True)
class Play:
    """One playbook of a pack. `variables` may hold secrets: they go by standard input alone, and `redact` knows them.

    `held` are open files that whatever is started keeps open too: a lock that outlives us while it works.
    """

    pack: Path
    playbook: str
    host: PlayHost
    variables: Mapping[str, Any]
    redact: Callable[[str], str]
    check: bool = False
    module_utils: Mapping[str, bytes] = field(default_factory=dict)
    held: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlayResult:
    """`answer` is what the pack's last task said under `hyops`; `reached`: a task ended on the host, in any way."""

    status: PlayStatus
    message: str = ""
    answer: dict[str, Any] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    reached: bool = False


class PlayDriver(Protocol):
    """One tool."""

    async def version(self) -> str:
        """Of the tool; PrerequisiteError when it is not here, or does not fit the profile."""

    async def run(self, play: Play, tell: Callable[[str], None]) -> PlayResult:
        """Run it to its end, telling each task.

        Raises:
            PrerequisiteError: the tool does not start; HostKeyError: the host's key is not the pinned one. Nothing was
            sent. DeadlineError: too long; everything that was started is ended. The same when it is cancelled.
        """
