"""How the executor reaches a runner: one connection, six verbs (RUN-3, RUN-5, RUN-11)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from hyops.errors import ProtocolError
from hyops.model.run import RunResult, RunSpec
from hyops.ports.bundle import BundleFile
from hyops.ports.look import Look


@dataclass(frozen=True)
class ClockSeen:
    """A runner's clock against ours: so many seconds ahead of it (negative: behind), give or take `within_s`.

    Half of the round trip is added to what we had when we asked; the answer may have been made anywhere within it.
    `synced`: whether NTP keeps that clock, as its kernel says; None where that was not asked, or is not known.
    """

    off_s: float
    within_s: float
    synced: bool | None = None

    @property
    def least_off_s(self) -> float:
        """By how much it is off at the least, whatever the round trip was."""
        return max(0.0, abs(self.off_s) - self.within_s)


@dataclass(frozen=True)
class RunnerHello:
    """What a runner says of itself before anything is staged."""

    runner_ref: str
    site: str
    hyops_version: str
    protocol_min: int
    protocol_max: int
    disk_free_bytes: int
    open_runs: tuple[str, ...] = ()
    clock: ClockSeen | None = None
    """None: a hyops of before, that does not tell the time."""


@dataclass(frozen=True)
class StageReport:
    """What staging moved: a second dispatch of the same bundle ships nothing."""

    files: int
    shipped_files: int
    shipped_bytes: int


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands on its runner. `state` is read from the journal and the process, never assumed."""

    run_id: str
    state: Literal["absent", "staged", "running", "interrupted", "finished"]
    epoch: int = 0
    outcome: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunEvent:
    """A piece of the run's log or journal. `offset` is the byte after it: pass it to attach again without a gap."""

    stream: Literal["journal", "log", "end"]
    offset: int
    body: dict[str, Any]


@dataclass(frozen=True)
class RunVerdict:
    """Whether the runner's garbage collection removes a run, and why."""

    run_id: str
    goes: bool
    why: str


@dataclass(frozen=True)
class GcReport:
    """What a garbage collection found and did: a verdict for every run, and the cache of bundle files before it."""

    runs: list[RunVerdict]
    files: int = 0
    size_bytes: int = 0
    gone_files: int = 0
    gone_bytes: int = 0


@dataclass(frozen=True)
class RunReturn:
    """What comes home: the signed result and the journal it answers for."""

    result: RunResult
    journal: bytes
    log: bytes


class RunnerSession(Protocol):
    """One open connection. Every verb raises RunnerUnreachableError when the link or the peer fails.

    A lost link never means success or failure of the run.
    """

    async def hello(self) -> RunnerHello:
        """Negotiate version and protocol."""

    async def stage(self, run_id: str, files: Mapping[str, BundleFile]) -> StageReport:
        """Put the bundle's files there by content, by their names in it; verified there before it counts.

        Raises:
            UnsafePlanError: a file is not what its digest says any more; nothing was staged.
        """

    async def start(self, spec: RunSpec, secrets: Mapping[str, str]) -> Literal["started", "existing"]:
        """Start once: the same run id again returns `existing`; refusals come back as the runner's own error."""

    def attach(self, run_id: str, offset: int = 0) -> AsyncIterator[RunEvent]:
        """Follow the run from `offset` until its end."""

    async def status(self, run_id: str) -> RunStatus:
        """Look."""

    async def cancel(self, run_id: str, epoch: int, reason: str) -> RunStatus:
        """Stop after the effect under way; proved, or `unknown`."""

    async def collect(self, run_id: str) -> RunReturn:
        """The finished run's result and journal, verified; may be called again. The runner may remove it much later."""


class RunnerTransport(Protocol):
    """Opens sessions by runner reference."""

    def connect(self, runner_ref: str) -> AbstractAsyncContextManager[RunnerSession]:
        """One authenticated connection.

        Raises:
            HostKeyError: unknown or changed host key; nothing was sent. RunnerUnreachableError: no connection.
        """


class OperatorSession(RunnerSession, Protocol):
    """What a person may ask of a runner beside what the executor does.

    Every verb greets first. Without a protocol in common it is served where it only looks, follows, cancels or
    collects; the others raise ProtocolError, and so does an answer that cannot be read because of that (RUN-11).
    """

    async def differs(self) -> ProtocolError | None:
        """Why nothing may be made there, with the side to upgrade; None where both speak a protocol in common."""

    async def jobs(self) -> list[RunStatus]:
        """Every run that the runner still has."""

    def attach(self, run_id: str, offset: int = 0, *, follow: bool = True) -> AsyncIterator[RunEvent]:
        """Without `follow`: only what is there now."""

    async def resume(self, run_id: str, epoch: int, *, by: str = "", reason: str = "") -> RunStatus:
        """Let an interrupted run go on with what lies on the runner, or one that failed after its promotion.

        Raises:
            PrerequisiteError: it ended otherwise. StaleGenerationError: the service has moved on from it.
        """

    async def cancel(self, run_id: str, epoch: int, reason: str, *, force: bool = False) -> RunStatus:
        """`force` kills the job and its processes first; a new one asks the probes and closes the run."""

    async def collect(self, run_id: str, *, confirm: bool = True) -> RunReturn:
        """Without `confirm` it is a copy: the runner goes on waiting for the one who collects."""

    async def gc(self, *, dry_run: bool) -> GcReport:
        """Remove the runs that were collected long enough ago, and old bundle files, or only say which.

        Every run is answered for.
        """


class OperatorTransport(Protocol):
    """`RunnerTransport` for people."""

    def connect(self, runner_ref: str, look: Look | None = None) -> AbstractAsyncContextManager[OperatorSession]:
        """One authenticated connection; `look` is told how far it got."""
