"""`AccessProbes` on a runner: the looks of this host, each in its own file.

Every job asks its access mode, and most modes connect nowhere: SSH is loaded by the looks that need it.
"""

from __future__ import annotations

from hyops.adapters import access_network
from hyops.errors import PrerequisiteError
from hyops.ports.access import HopsSeen, PeerSeen, RouteSeen, SshPlace, SshSeen


class HostProbes:
    """See the port."""

    async def route(self, address: str) -> RouteSeen:
        """See the port."""
        return await access_network.route(address)

    async def pins(self, known_hosts: str, name: str) -> int:
        """Plain keys and CAs for the name; revoked keys do not count."""
        from hyops.adapters.ssh_library import asyncssh

        try:
            keys, authorities, *_ = asyncssh.read_known_hosts(known_hosts).match(name, "", None)
        except (OSError, ValueError) as exc:
            raise PrerequisiteError(f"{known_hosts}: {exc}", hint="pin the key there") from exc
        return len(keys) + len(authorities)

    async def ssh(self, place: SshPlace, *, via: SshPlace | None, wait_s: float, command: bool) -> SshSeen:
        """See the port."""
        from hyops.adapters import access_ssh

        return await access_ssh.ready(place, via=via, wait_s=wait_s, command=command)

    async def peers(self, interface: str) -> list[PeerSeen]:
        """See the port."""
        return await access_network.peers(interface)

    async def hops(self, address: str, hops_max: int) -> HopsSeen:
        """See the port."""
        return await access_network.hops(address, hops_max)
