"""What a link to a runner is, whichever program makes it: a handshake, pipes to the forced command, one drop (RUN-3).

Each sshd has few handshakes of ours at once (`doors`): with more, a stock one drops some at random, which is worth
another try. Everything else that goes wrong before the login is told once, as a refusal of the key or as an
unreachable runner; what this host is short of for a moment (`passes`) is never a refusal, because that would end an
attempt for good. Runners behind a bastion share one connection to it (`carriers`), and are logged in to end to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hyops.adapters.carriers import Carriers
from hyops.adapters.clock_system import SystemClock
from hyops.adapters.doors import Door, Doors
from hyops.adapters.ssh_login import beside, clock_fault, host_mend, login_mend, passes, refuse_unfit
from hyops.errors import Effect, HostKeyError, HyopsError, PrerequisiteError, RunnerUnreachableError
from hyops.ports.identity import Login, LoginSource
from hyops.ports.look import Awaited, Look

if TYPE_CHECKING:
    from hyops.adapters.runner_session import FramedSession
    from hyops.ports.signer import Verifier

CONNECT_TRIES = 3
CONNECT_LIMIT_S = 10.0
CLOCK_LIMIT_S = 15.0
KEEPALIVE_S, KEEPALIVE_COUNT = 5.0, 3
END_LIMIT_S = 1.0  # between the end of a command's output and its status


@dataclass(frozen=True)
class RunnerTarget:
    """How to reach one runner. The key's forced command there is `hyops runner-serve`.

    `known_hosts` pins the key, or the CA of the host keys in an `@cert-authority` line, under the address or,
    where one is given, under `host_key_alias`. `revoked` is OpenSSH's list of host keys and certificates that count no
    more. Without an `identity`, the certificate is what lies beside the key, if anything does. `bastion` is what the
    connection goes through, if anything; that one's `host_key_alias` is its name.
    """

    host: str
    user: str
    key_file: Path
    known_hosts: Path
    port: int = 22
    host_key_alias: str | None = None
    revoked: Path | None = None
    identity: LoginSource | None = None
    bastion: RunnerTarget | None = None
    only_forwards: bool = False
    """It is a bastion: no command is asked of it."""
    login: Login | None = None
    """What this one connection shows; chosen when it is made."""
    look: Look | None = field(default=None, compare=False)
    """Whom to tell how far this one connection got."""

    @property
    def shown(self) -> Login:
        """The chosen login, else the key with what lies beside it."""
        return self.login or beside(self.key_file)

    def awaits(self, awaited: Awaited) -> None:
        """Note what has not come yet, where somebody looks."""
        if self.look is not None:
            self.look.awaited = awaited

    @property
    def door(self) -> Door:
        """The sshd that is dialled for it."""
        return Door(self.host, self.port, None if self.bastion is None else self.bastion.door)


class Pipe(Protocol):
    """Both directions of one forced command; what it writes to its standard error is dropped.

    Every method raises OSError, EOFError or TimeoutError when the link fails, EndedError when the command ended.
    """

    carries_link: bool
    """Whether closing this pipe would end the whole link."""

    async def write(self, data: bytes) -> None:
        """All of it, at the pace of the peer."""

    async def read_line(self) -> bytes:
        """Up to and with the next newline; at most `wire.HEADER_MAX` bytes."""

    async def read_exactly(self, count: int) -> bytes:
        """That many bytes."""

    def close(self) -> None:
        """Now; the command sees its input end."""


class Link(Protocol):
    """One authenticated connection."""

    async def open(self) -> Pipe:
        """One more forced command on the same connection."""

    async def drop(self) -> None:
        """Close without waiting for the peer; nothing of the link is left on this host afterwards."""


@runtime_checkable
class Way(Link, Protocol):
    """A connection to a bastion, that others go through."""

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended."""


class EndedError(EOFError):
    """The command on the runner ended instead of answering."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class HostKeyRefusedError(Exception):
    """The host key is unknown, changed, or of a kind that is not allowed."""


class LoginRefusedError(Exception):
    """The peer does not take our key."""


class ShedError(Exception):
    """The peer hung up before the login, as an sshd does that has too many handshakes: worth another try."""


REFUSALS = (HostKeyRefusedError, LoginRefusedError, ShedError)
Dial = Callable[[RunnerTarget, float, Way | None], Awaitable[Link]]
"""Target, seconds between keepalives, the bastion's connection; returns when the peer counts the handshake no more."""


class SshTransport:
    """`RunnerTransport` over a way to dial. `verifier` holds the runners' public keys, for what they send home."""

    def __init__(
        self, targets: Mapping[str, RunnerTarget], verifier: Verifier, dial: Dial, *, keepalive_s: float = KEEPALIVE_S
    ) -> None:
        self._targets, self._verifier, self._dial, self._keepalive_s = dict(targets), verifier, dial, keepalive_s
        self._doors, self._bastions = Doors(), Carriers(self._bastion)

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str, look: Look | None = None) -> AsyncIterator[FramedSession]:
        """One authenticated connection, dropped at the end without waiting for the peer."""
        from hyops.adapters.runner_session import FramedSession

        if runner_ref not in self._targets:
            raise PrerequisiteError(f"no runner {runner_ref!r} is configured", known=", ".join(sorted(self._targets)))
        target = replace(self._targets[runner_ref], look=look)
        async with self._way(target) as over:
            target.awaits(Awaited.TCP)
            link = await self._dialled(runner_ref, target, over)
            try:
                yield FramedSession(link, runner_ref, self._verifier)
            finally:
                await link.drop()

    @contextlib.asynccontextmanager
    async def _way(self, target: RunnerTarget) -> AsyncIterator[Way | None]:
        """What the target's connection goes through; nothing else is tried (ACC-2)."""
        if target.bastion is None:
            yield None
        else:
            target.awaits(Awaited.BASTION)
            async with self._bastions.to(target.bastion) as over:
                yield over

    async def _bastion(self, bastion: RunnerTarget) -> Way:
        link = await self._dialled(bastion.host_key_alias or bastion.host, bastion, None)
        assert isinstance(link, Way)
        return link

    async def _dialled(self, runner_ref: str, target: RunnerTarget, over: Way | None) -> Link:
        target = replace(target, login=await self._login(runner_ref, target))
        last: Exception | None = None
        for attempt in range(CONNECT_TRIES):
            if attempt:
                await asyncio.sleep(random.uniform(0.05, 0.2) * attempt)  # noqa: S311  # spreads load, guards nothing
            try:
                return await self._shaken(target, over)
            except (HostKeyRefusedError, HyopsError) as exc:
                if passes(exc):
                    raise _not_now(runner_ref, exc) from exc
                if isinstance(exc, HyopsError):
                    raise
                raise HostKeyError(
                    f"{runner_ref} ({target.host}): {exc}", hint=host_mend(str(exc), runner_ref)
                ) from exc
            except LoginRefusedError as exc:
                why, hint = await self._why_refused(target, over, str(exc))
                where = f"{runner_ref} ({target.host}) refused our key"
                raise RunnerUnreachableError(f"{where}: {why}", hint=hint, effect=Effect.NONE) from exc
            except ShedError as exc:
                last = exc
            except (OSError, TimeoutError, ValueError) as exc:
                if isinstance(exc, TimeoutError) and target.look is not None:
                    raise target.look.silent(runner_ref) from exc
                last = exc
                break
        raise RunnerUnreachableError(f"{runner_ref} ({target.host}:{target.port}): {last or 'no answer'}") from last

    async def _login(self, runner_ref: str, target: RunnerTarget) -> Login:
        source = target.identity
        try:
            login = beside(target.key_file) if source is None else await asyncio.to_thread(source.login)
        except (HyopsError, OSError) as exc:
            if passes(exc):
                raise _not_now(runner_ref, exc) from exc
            raise
        refuse_unfit(login, source.now() if source is not None else SystemClock().now())
        return login

    async def _shaken(self, target: RunnerTarget, over: Way | None) -> Link:
        async with self._doors.turn(target.door):
            return await self._dial(target, self._keepalive_s, over)

    async def _why_refused(self, target: RunnerTarget, over: Way | None, said: str) -> tuple[str, str]:
        """What the peer's clock has to do with it, where it can be asked; and what to do.

        sshd tells nobody why it refuses a certificate. One that may only read the clock is good at any time, so that
        the difference between two clocks shows itself.
        """
        login, source = target.shown, target.identity
        if source is not None:
            try:
                clock = await asyncio.to_thread(source.clock_login)
                async with asyncio.timeout(CLOCK_LIMIT_S):
                    told = await self._clock(replace(target, login=clock), over)
            except (*REFUSALS, OSError, EOFError, ValueError, HyopsError) as exc:
                said += f" (and its clock cannot be read: {exc})"
            else:
                if (fault := clock_fault(told, source.now(), login)) is not None:
                    return fault
                said += "; its clock is right"
        return said, login_mend(login)

    async def _clock(self, target: RunnerTarget, over: Way | None) -> bytes:
        link = await self._shaken(target, over)
        try:
            return await (await link.open()).read_line()
        finally:
            await link.drop()


def _not_now(runner_ref: str, fault: Exception) -> RunnerUnreachableError:
    """Not reached, and nothing sent: it is tried again."""
    hint = "see what this host is short of (open files, processes, memory, disk); nothing was sent, it is tried again"
    return RunnerUnreachableError(f"{runner_ref}: this host cannot log in now: {fault}", hint=hint, effect=Effect.NONE)
