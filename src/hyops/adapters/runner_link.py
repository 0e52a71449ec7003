"""What a link to a runner is, whichever program makes it: a handshake, pipes to the forced command, one drop (RUN-3).

At most eight handshakes at once: more, and a stock sshd drops some at random, which is worth another try. Everything
else that goes wrong before the login is told once, as a refusal of the key or as an unreachable runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hyops.errors import HostKeyError, PrerequisiteError, RunnerUnreachableError

if TYPE_CHECKING:
    from hyops.adapters.runner_session import FramedSession
    from hyops.ports.signer import Verifier

HANDSHAKES_MAX = 8
CONNECT_TRIES = 3
CONNECT_LIMIT_S = 10.0
KEEPALIVE_S, KEEPALIVE_COUNT = 5.0, 3
KEX = ("curve25519-sha256", "curve25519-sha256@libssh.org")
CIPHERS = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com")
HOST_KEYS = ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512")
END_LIMIT_S = 1.0  # between the end of a command's output and its status


@dataclass(frozen=True)
class RunnerTarget:
    """How to reach one runner. The key's forced command there is `hyops runner-serve`.

    `known_hosts` pins the key, or the CA of the host keys in an `@cert-authority` line, under the address or,
    where one is given, under `host_key_alias`.
    """

    host: str
    user: str
    key_file: Path
    known_hosts: Path
    port: int = 22
    host_key_alias: str | None = None


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


Dial = Callable[[RunnerTarget, float], Awaitable[Link]]


class SshTransport:
    """`RunnerTransport` over a way to dial. `verifier` holds the runners' public keys, for what they send home."""

    def __init__(
        self, targets: Mapping[str, RunnerTarget], verifier: Verifier, dial: Dial, *, keepalive_s: float = KEEPALIVE_S
    ) -> None:
        self._targets, self._verifier, self._dial, self._keepalive_s = dict(targets), verifier, dial, keepalive_s
        self._handshakes = asyncio.Semaphore(HANDSHAKES_MAX)

    @contextlib.asynccontextmanager
    async def connect(self, runner_ref: str) -> AsyncIterator[FramedSession]:
        """One authenticated connection, dropped at the end without waiting for the peer."""
        from hyops.adapters.runner_session import FramedSession

        if runner_ref not in self._targets:
            raise PrerequisiteError(f"no runner {runner_ref!r} is configured", known=", ".join(sorted(self._targets)))
        link = await self._dialled(runner_ref, self._targets[runner_ref])
        try:
            yield FramedSession(link, runner_ref, self._verifier)
        finally:
            await link.drop()

    async def _dialled(self, runner_ref: str, target: RunnerTarget) -> Link:
        last: Exception | None = None
        for attempt in range(CONNECT_TRIES):
            if attempt:
                await asyncio.sleep(random.uniform(0.05, 0.2) * attempt)  # noqa: S311  # spreads load, guards nothing
            try:
                async with self._handshakes:
                    return await self._dial(target, self._keepalive_s)
            except HostKeyRefusedError as exc:
                raise HostKeyError(f"{runner_ref} ({target.host}): {exc}") from exc
            except LoginRefusedError as exc:
                raise RunnerUnreachableError(f"{runner_ref} ({target.host}) refused our key: {exc}") from exc
            except ShedError as exc:
                last = exc
            except (OSError, TimeoutError, ValueError) as exc:
                last = exc
                break
        raise RunnerUnreachableError(f"{runner_ref} ({target.host}:{target.port}): {last or 'no answer'}") from last
