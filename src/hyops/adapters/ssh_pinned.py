"""SSH connections of the control plane to one forced command: key pinned, nothing forwarded, dropped at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyops.adapters.ssh_library import asyncssh

WINDOW_BYTES = 64 * 1024  # little is in flight, so what arrives is of now, and a flood stays small
CLOSE_LIMIT_S = 1.0


@dataclass(frozen=True)
class SshTarget:
    """How a host is reached; its key is pinned in `known_hosts_file` under the name `host`."""

    host: str
    address: str
    user: str
    key_file: str
    known_hosts_file: str
    port: int = 22


@asynccontextmanager
async def forced_command(
    target: SshTarget, word: str, *, limit_s: float
) -> AsyncGenerator[asyncssh.SSHClientProcess[bytes], None]:
    """Log in and start the command that the key is tied to; `word` only names it in the peer's log.

    Raises:
        OSError: everything that SSH can meet, host key refused included (then nothing was sent).
    """
    from hyops.adapters.ssh_library import asyncssh

    connection: asyncssh.SSHClientConnection | None = None
    try:
        async with asyncio.timeout(limit_s):
            connection = await _connected(target)
            process = await connection.create_process(word, encoding=None, stderr=asyncssh.DEVNULL, window=WINDOW_BYTES)
        yield process
    except asyncssh.Error as exc:
        raise OSError(f"{type(exc).__name__}: {exc}") from exc
    finally:
        if connection is not None:
            connection.abort()  # a polite goodbye could wait for a peer that is gone
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_LIMIT_S):
                    await connection.wait_closed()


async def _connected(target: SshTarget) -> asyncssh.SSHClientConnection:
    from hyops.adapters.ssh_library import asyncssh

    try:
        return await asyncssh.connect(
            target.address,
            port=target.port,
            username=target.user,
            client_keys=[target.key_file],
            known_hosts=target.known_hosts_file,
            host_key_alias=target.host,
            preferred_auth="publickey",
            config=None,
            agent_path=None,
            keepalive_interval=1,
            keepalive_count_max=3,
        )
    except ValueError as exc:  # KeyImportError, a known_hosts line that is none
        raise OSError(f"{target.key_file}, {target.known_hosts_file}: {exc}") from exc
