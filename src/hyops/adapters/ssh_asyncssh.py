"""Runners over one asyncssh connection each (RUN-3, RUN-5, RUN-11; ADR on the SSH transport).

The host key is pinned in a file that is always given: asyncssh's `None` would switch checking off. No user
configuration, no agent, no forwarding.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Mapping
from typing import Any

from hyops.adapters.pki_files import is_revoked
from hyops.adapters.runner_link import (
    CONNECT_LIMIT_S,
    END_LIMIT_S,
    KEEPALIVE_COUNT,
    KEEPALIVE_S,
    EndedError,
    HostKeyRefusedError,
    LoginRefusedError,
    RunnerTarget,
    ShedError,
    SshTransport,
    Way,
)
from hyops.adapters.ssh_library import asyncssh
from hyops.model import ssh_algorithms
from hyops.ports.identity import Login
from hyops.ports.look import Awaited
from hyops.ports.signer import Verifier

CHUNK_BYTES = 64 * 1024


class FloodError(Exception):
    """A command wrote more bytes than anybody asked for; its argument is how many it might."""


class AsyncsshRunnerTransport(SshTransport):
    """`RunnerTransport` within this process."""

    def __init__(
        self, targets: Mapping[str, RunnerTarget], verifier: Verifier, *, keepalive_s: float = KEEPALIVE_S
    ) -> None:
        super().__init__(targets, verifier, dial, keepalive_s=keepalive_s)


async def dial(target: RunnerTarget, keepalive_s: float, over: Way | None = None) -> AsyncsshLink:
    """One handshake and login; without readable pins there is none. Returns with the first pipe open.

    An sshd says yes to a login before it counts the handshake as over; a session it opens only afterwards.
    """
    link = await log_in(target, keepalive_s, over)
    with contextlib.ExitStack() as undone:
        undone.callback(link.abort)
        if not target.only_forwards:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                await link.open_first()
        undone.pop_all()
    return link


async def log_in(target: RunnerTarget, keepalive_s: float, over: Way | None) -> AsyncsshLink:
    """The same without a pipe: for a bastion, and for a person who may run commands there."""
    try:
        pins = asyncssh.read_known_hosts(str(target.known_hosts))
    except (OSError, ValueError) as exc:
        raise HostKeyRefusedError(f"{target.known_hosts}: {exc}") from exc
    try:
        return AsyncsshLink(await _connected(target, pins, keepalive_s, over))
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as exc:
        raise HostKeyRefusedError(str(exc)) from exc
    except asyncssh.PermissionDenied as exc:
        raise LoginRefusedError(str(exc)) from exc
    except (asyncssh.ConnectionLost, ConnectionResetError) as exc:
        raise ShedError(str(exc)) from exc
    except asyncssh.ChannelOpenError as exc:
        raise OSError(f"the bastion does not forward to it: {exc}") from exc
    except asyncssh.Error as exc:
        raise OSError(f"{type(exc).__name__}: {exc}") from exc


async def _connected(
    target: RunnerTarget, pins: asyncssh.SSHKnownHosts, keepalive_s: float, over: Way | None
) -> asyncssh.SSHClientConnection:
    if (target.bastion is None) != (over is None) or not isinstance(over, AsyncsshLink | None):
        raise ValueError(f"{target.host}: it is reached on the way that is written down, or not at all")
    connection, _ = await asyncssh.create_connection(
        lambda: _Watch(target),
        target.host,
        port=target.port,
        tunnel=None if over is None else over.connection,
        username=target.user,
        client_keys=_client_keys(target.shown),
        known_hosts=pins,
        host_key_alias=target.host_key_alias,
        config=None,
        agent_path=None,
        agent_forwarding=False,
        preferred_auth="publickey",
        kex_algs=ssh_algorithms.KEX,
        encryption_algs=ssh_algorithms.CIPHERS,
        mac_algs=ssh_algorithms.MACS,
        server_host_key_algs=_host_key_algorithms(target, pins),
        signature_algs=ssh_algorithms.USER_KEYS,
        compression_algs=["none"],
        connect_timeout=CONNECT_LIMIT_S,
        login_timeout=CONNECT_LIMIT_S,
        keepalive_interval=keepalive_s,
        keepalive_count_max=KEEPALIVE_COUNT,
    )
    return connection


def _client_keys(login: Login) -> list[Any]:
    """The key, alone or with its certificate; then nothing else is offered."""
    key = login.key if isinstance(login.key, bytes) else str(login.key)
    return [key] if login.certificate is None else [(key, login.certificate)]


def _host_key_algorithms(target: RunnerTarget, pins: asyncssh.SSHKnownHosts) -> tuple[str, ...]:
    """Certificates are asked for only where a CA is pinned: asyncssh takes no plain pin once it got a certificate."""
    host = target.host_key_alias or target.host
    _, authorities, *_ = pins.match(host, "", target.port)
    return ssh_algorithms.HOST_KEYS if authorities else ssh_algorithms.PLAIN_HOST_KEYS


class _Watch(asyncssh.SSHClient):
    """Asks OpenSSH's revocation list, which asyncssh cannot read, about the host key, before the login begins.

    It also tells how far the connection got.
    """

    def __init__(self, target: RunnerTarget) -> None:
        self._target = target

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Stand before asyncssh's own check, which alone sees the certificate."""
        self._target.awaits(Awaited.HANDSHAKE)
        revoked, trusted = self._target.revoked, conn.validate_server_host_key
        if revoked is None:
            return

        def checked(key_data: bytes) -> asyncssh.SSHKey:
            kind = key_data[4 : 4 + int.from_bytes(key_data[:4], "big")]
            if is_revoked(revoked, kind + b" " + base64.b64encode(key_data) + b"\n"):
                raise asyncssh.HostKeyNotVerifiable(f"the host key or its certificate is revoked by {revoked}")
            return trusted(key_data)

        conn.validate_server_host_key = checked  # type: ignore[method-assign]

    def auth_completed(self) -> None:
        """Logged in: what is opened now is the runner's."""
        self._target.awaits(Awaited.ANSWER)


class AsyncsshLink:
    """`Link`, and `Way` where it leads to a bastion."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.connection = connection
        self._first: AsyncsshPipe | None = None

    @property
    def gone(self) -> bool:
        """See the port."""
        return self.connection.is_closed()

    async def open_first(self) -> None:
        """Have a pipe ready for the first that asks."""
        self._first = await self.open()

    async def open(self) -> AsyncsshPipe:
        """See the port. Standard error is dropped: unread, a flood of it would stop the channel."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            process = await self.connection.create_process("hyops runner-serve", encoding=None, stderr=asyncssh.DEVNULL)
        except asyncssh.Error as exc:
            raise ConnectionError(type(exc).__name__) from exc
        return AsyncsshPipe(process)

    def abort(self) -> None:
        """End it, at once and without a word."""
        self.connection.abort()

    async def run(self, command: str, data: bytes, limit: int) -> tuple[int, bytes, bytes]:
        """One command of a login that is not tied to one: its status (-1: none was said), output and errors.

        Raises:
            FloodError: more than `limit` bytes of one of them; the link is ended. ConnectionError: it is gone.
        """
        try:
            process = await self.connection.create_process(command, input=data, encoding=None)
            streams = (process.stdout, process.stderr)
            out, errors = await asyncio.gather(*(self._all_of(stream, limit) for stream in streams))
            await process.wait_closed()
        except asyncssh.Error as exc:
            raise ConnectionError(f"{type(exc).__name__}: {exc}") from exc
        return -1 if process.exit_status is None else process.exit_status, out, errors

    async def _all_of(self, stream: asyncssh.SSHReader[bytes], limit: int) -> bytes:
        data = bytearray()
        while more := await stream.read(CHUNK_BYTES):
            data += more
            if len(data) > limit:
                self.abort()  # a channel alone ends only when the other side agrees
                raise FloodError(limit)
        return bytes(data)

    async def drop(self) -> None:
        """See the port."""
        self.abort()
        await self.connection.wait_closed()


class AsyncsshPipe:
    """`Pipe`."""

    carries_link = False

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process

    async def write(self, data: bytes) -> None:
        """See the port."""
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except (asyncssh.Error, OSError) as exc:
            raise await self._why(exc) from exc

    async def read_line(self) -> bytes:
        """See the port."""
        try:
            return await self._process.stdout.readuntil(b"\n")
        except (asyncssh.Error, EOFError) as exc:
            raise await self._why(exc) from exc

    async def read_exactly(self, count: int) -> bytes:
        """See the port."""
        try:
            return await self._process.stdout.readexactly(count)
        except (asyncssh.Error, EOFError) as exc:
            raise await self._why(exc) from exc

    def close(self) -> None:
        """See the port."""
        self._process.close()

    async def _why(self, exc: Exception) -> Exception:
        """The command's status, when it said one; else that the link is gone."""
        try:
            async with asyncio.timeout(END_LIMIT_S):
                await self._process.wait_closed()
        except (asyncssh.Error, OSError, TimeoutError):
            return ConnectionError(type(exc).__name__)
        status = self._process.exit_status
        return ConnectionError(type(exc).__name__) if status in (None, -1) else EndedError(status)
