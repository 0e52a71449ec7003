"""What an access mode asks the world: questions as values, and what was seen as values (ACC-1, ACC-3).

A probe that cannot tell raises PrerequisiteError: not knowing is never an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from hyops.model.access import AccessGrant


@dataclass(frozen=True)
class SshPlace:
    """An SSH server; its host key is pinned in `known_hosts` under `pinned_as`.

    `command`: what is started to carry the connection on its standard input and output, instead of a socket.
    """

    name: str
    address: str
    port: int
    user: str
    key_file: str
    known_hosts: str
    pinned_as: str
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class RouteSeen:
    """The kernel's own choice for an address: out of `device`, from `source`, by `via` (None: it is on the link)."""

    device: str
    source: str
    via: str | None = None


@dataclass(frozen=True)
class SshSeen:
    """A login that worked and the host key it saw. `ran`: whether the peer would also run a command for us."""

    fingerprint: str
    ran: bool
    tries: int


@dataclass(frozen=True)
class PeerSeen:
    """One WireGuard peer. `handshake_age_s` is None before the first one; addresses are the kernel's or daemon's."""

    public_key: str
    endpoint: str | None
    handshake_age_s: float | None


@dataclass(frozen=True)
class HopsSeen:
    """Routers on the way by growing TTL, nearest first; None is one that kept silent. `reached`: the end answered."""

    hops: tuple[str | None, ...]
    reached: bool


@dataclass(frozen=True)
class InstanceSeen:
    """A compute instance as its API tells it."""

    status: str
    addresses: tuple[str, ...]
    tags: tuple[str, ...]
    network: str


@dataclass(frozen=True)
class FirewallSeen:
    """One ingress rule as the compute API tells it; `ports` holds ranges, all of them when empty."""

    name: str
    network: str
    priority: int
    allow: bool
    disabled: bool
    sources: tuple[str, ...]
    target_tags: tuple[str, ...]
    protocols: tuple[tuple[str, tuple[tuple[int, int], ...]], ...]
    other_sources: bool = False


class AccessProbes(Protocol):
    """Looks from this runner. Every method raises PrerequisiteError when it cannot tell."""

    async def route(self, address: str) -> RouteSeen:
        """The route that the kernel would take now."""

    async def pins(self, known_hosts: str, name: str) -> int:
        """How many keys a file pins for a name; a CA of host keys counts."""

    async def ssh(self, place: SshPlace, *, via: SshPlace | None, wait_s: float, command: bool) -> SshSeen:
        """Log in with the pinned key and ask for an answer, again and again until `wait_s` has passed (ACC-3).

        With `command` a login that runs nothing is not ready yet; without it the first login is looked at.

        Raises:
            PrerequisiteError: no login within `wait_s`.
            HostKeyError: at once, for a wrong host key does not become right by waiting.
        """

    async def peers(self, interface: str) -> list[PeerSeen]:
        """The peers of a WireGuard interface."""

    async def hops(self, address: str, hops_max: int) -> HopsSeen:
        """Who answers on the way to an address."""


class CloudProbes(Protocol):
    """What a cloud's API says; read-only."""

    async def instance(self, project: str, zone: str, instance: str) -> InstanceSeen:
        """One instance."""

    async def firewalls(self, project: str, network: str) -> list[FirewallSeen]:
        """Every ingress rule of a network."""


class EphemeralRule(Protocol):
    """Whoever can let one source in for a while: the edge itself ends the rule, also when nobody removes it."""

    async def open(self, grant_id: str, *, source: str, address: str, port: int, expires_at: datetime) -> None:
        """Make the rule; the same id again is the same rule."""

    async def close(self, grant_id: str) -> None:
        """Remove it; one that is gone is no fault."""

    async def present(self) -> list[str]:
        """The ids of the rules that are there now."""


class Edge(Protocol):
    """Whoever opens and removes ways for a runner: it sets the time by its own clock, and looks from outside itself."""

    async def open(self, grant: AccessGrant) -> AccessGrant:
        """Let the source in; the same id again is the same grant. As it stands there afterwards.

        Raises:
            RefusedError: it does not. PrerequisiteError, too, when nobody answers: it may stand all the same.
        """

    async def remove(self, grant: AccessGrant) -> AccessGrant:
        """Remove it, also one that was never made there; `removed`, with what proves it.

        Raises:
            NotVerifiedError: nobody saw that it is gone. PrerequisiteError: the edge does not answer.
        """


class OutsideProbe(Protocol):
    """A look at an address from where the source is, so from outside."""

    async def gets_in(self, address: str, port: int) -> bool:
        """Whether a connection from outside arrives. PrerequisiteError when the vantage point does not answer."""
