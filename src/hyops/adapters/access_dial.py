"""One SSH connection, straight or through one jump host, each with its own pinned key; nothing else is tried (ACC-2).

The target's handshake runs end to end inside the jump host's forwarding: the jump host sees bytes, never the session.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from hyops.adapters.ssh_library import asyncssh
from hyops.errors import HostKeyError, PrerequisiteError, TargetError
from hyops.ports.access import SshPlace

HANDSHAKE_LIMIT_S = 5.0
CLOSE_LIMIT_S = 1.0


@dataclass(frozen=True)
class Dialled:
    """A connection, and the one that carries it."""

    connection: asyncssh.SSHClientConnection
    jump: asyncssh.SSHClientConnection | None = None

    async def close(self) -> None:
        """Drop both without waiting for a peer; a command that carried the connection has ended when this returns."""
        for one in (self.connection, self.jump):
            if one is not None:
                one.abort()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_LIMIT_S):
                        await one.wait_closed()


async def dial(place: SshPlace, via: SshPlace | None, *, limit_s: float = HANDSHAKE_LIMIT_S) -> Dialled:
    """Connect and log in.

    Raises:
        HostKeyError: an unknown or changed key, of the place or of the jump host; nothing was sent.
        PrerequisiteError: the jump host cannot be entered or does not forward. TargetError: the place cannot.
    """
    jump = None if via is None else await _jump(via, limit_s)
    with contextlib.ExitStack() as undone:
        if jump is not None:
            undone.callback(jump.abort)
        try:
            connection = await _connect(place, jump, limit_s)
        except asyncssh.ChannelOpenError as exc:
            by = place.name if via is None else via.name
            raise PrerequisiteError(f"{by} does not forward to {place.address}:{place.port}: {exc}") from exc
        except asyncssh.HostKeyNotVerifiable as exc:
            raise HostKeyError(f"{place.name} ({place.address}): {exc}") from exc
        except (asyncssh.Error, OSError, ValueError) as exc:
            raise TargetError(f"{place.name} ({place.address}:{place.port}): {type(exc).__name__}: {exc}") from exc
        undone.pop_all()
    return Dialled(connection, jump)


async def _jump(via: SshPlace, limit_s: float) -> asyncssh.SSHClientConnection:
    try:
        return await _connect(via, None, limit_s)
    except asyncssh.HostKeyNotVerifiable as exc:
        raise HostKeyError(f"{via.name} ({via.address}): {exc}") from exc
    except (asyncssh.Error, OSError, ValueError) as exc:
        raise PrerequisiteError(f"{via.name} ({via.address}:{via.port}): {type(exc).__name__}: {exc}") from exc


async def _connect(
    place: SshPlace, jump: asyncssh.SSHClientConnection | None, limit_s: float
) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        place.address,
        port=place.port,
        tunnel=jump,
        proxy_command=list(place.command) or None,
        username=place.user,
        client_keys=[place.key_file],
        known_hosts=place.known_hosts,
        host_key_alias=place.pinned_as if place.pinned_as != place.address else None,
        config=None,
        agent_path=None,
        preferred_auth=("publickey",),
        connect_timeout=limit_s,
        login_timeout=limit_s,
        keepalive_interval=2,
        keepalive_count_max=2,
    )
