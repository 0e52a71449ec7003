"""A look from outside: a host there opens the connection itself, asked by a key that can only forward (ACC-1)."""

from __future__ import annotations

import asyncio

from hyops.adapters.access_dial import dial
from hyops.adapters.ssh_library import asyncssh
from hyops.errors import PrerequisiteError, TargetError
from hyops.ports.access import SshPlace

LOOK_LIMIT_S = 3.0  # a firewall that drops lets the look end here, on a link to the vantage that is alive


class SshOutside:
    """`OutsideProbe` at the host `place`."""

    def __init__(self, place: SshPlace) -> None:
        self._place = place

    async def gets_in(self, address: str, port: int) -> bool:
        """See the port. Refused and dropped mean no; a vantage that forbids the look, or is gone, means nothing."""
        try:
            dialled = await dial(self._place, None)
        except TargetError as exc:
            raise PrerequisiteError(f"nobody outside looked: {exc.message}") from exc
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                _, writer = await dialled.connection.open_connection(address, port)
                writer.close()
                return True
        except asyncssh.ChannelOpenError as exc:
            if exc.code == asyncssh.OPEN_CONNECT_FAILED:
                return False
            raise PrerequisiteError(f"{self._place.name} may not look at {address}:{port}: {exc}") from exc
        except TimeoutError:
            if dialled.connection.is_closed():
                raise PrerequisiteError(f"the link to {self._place.name} was lost while it looked") from None
            return False
        except (asyncssh.Error, OSError) as exc:
            raise PrerequisiteError(f"the link to {self._place.name} was lost while it looked: {exc}") from exc
        finally:
            await dialled.close()
