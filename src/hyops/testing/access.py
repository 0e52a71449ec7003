"""Fakes of what access modes ask the world: answers are set by the test, questions are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hyops.errors import HostKeyError, PrerequisiteError
from hyops.ports.access import FirewallSeen, HopsSeen, InstanceSeen, PeerSeen, RouteSeen, SshPlace, SshSeen


@dataclass
class FakeProbes:
    """`AccessProbes`. `ran` says by name whether a login runs commands; a name in `wrong_keys` shows another key."""

    routes: dict[str, RouteSeen] = field(default_factory=dict)
    wg: list[PeerSeen] = field(default_factory=list)
    paths: dict[str, HopsSeen] = field(default_factory=dict)
    ran: dict[str, bool] = field(default_factory=dict)
    pinned: int = 1
    wrong_keys: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    async def route(self, address: str) -> RouteSeen:
        """As set; private by default."""
        self.asked.append(f"route {address}")
        return self.routes.get(address, RouteSeen("eth0", "10.9.0.2", "10.9.0.1"))

    async def pins(self, known_hosts: str, name: str) -> int:
        """As set."""
        self.asked.append(f"pins {name}")
        return self.pinned

    async def ssh(self, place: SshPlace, *, via: SshPlace | None, wait_s: float, command: bool) -> SshSeen:
        """A login at the first try, unless the name is not set."""
        self.asked.append(f"ssh {place.name}" + (f" via {via.name}" if via else ""))
        if place.name in self.wrong_keys:
            raise HostKeyError(f"{place.name}: the key is another")
        if place.name not in self.ran:
            raise PrerequisiteError(f"{place.name} did not answer within {wait_s:g} s")
        return SshSeen("SHA256:abc", self.ran[place.name], 1)

    async def peers(self, interface: str) -> list[PeerSeen]:
        """As set."""
        self.asked.append(f"peers {interface}")
        return self.wg

    async def hops(self, address: str, hops_max: int) -> HopsSeen:
        """As set; straight there by default."""
        self.asked.append(f"hops {address}")
        return self.paths.get(address, HopsSeen((), True))


@dataclass
class FakeCloud:
    """`CloudProbes`."""

    seen: InstanceSeen
    rules: list[FirewallSeen] = field(default_factory=list)

    async def instance(self, project: str, zone: str, instance: str) -> InstanceSeen:
        """As set."""
        return self.seen

    async def firewalls(self, project: str, network: str) -> list[FirewallSeen]:
        """As set."""
        return self.rules


@dataclass
class FakeEdge:
    """`EphemeralRule` and `OutsideProbe` in one: what is open gets in, until its end or its removal."""

    rules: dict[str, datetime] = field(default_factory=dict)
    crash: str = ""
    deaf: bool = False
    other_way_in: bool = False
    away: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)

    async def open(self, grant_id: str, *, source: str, address: str, port: int, expires_at: datetime) -> None:
        """Make it; `crash` before or after."""
        if self.crash == "before":
            raise KeyboardInterrupt
        self.rules[grant_id] = expires_at
        if self.crash == "after":
            raise KeyboardInterrupt

    async def close(self, grant_id: str) -> None:
        """Remove it, unless deaf."""
        if not self.deaf:
            self.rules.pop(grant_id, None)

    async def present(self) -> list[str]:
        """What is there."""
        return list(self.rules)

    async def gets_in(self, address: str, port: int) -> bool:
        """Whether any rule, or another way, lets somebody in."""
        if self.away:
            raise PrerequisiteError("the vantage point does not answer")
        return bool(self.rules) or self.other_way_in
