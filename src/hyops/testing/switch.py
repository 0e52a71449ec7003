"""Two database hosts and their surroundings in memory, with parts that a test can break.

Rows are acknowledged only when the edge lets the answer out, so `acknowledged` minus the rows of the surviving primary
is what a switch lost.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hyops.errors import DeadlineError, RecordError, StaleGenerationError, TargetError
from hyops.model import canonical
from hyops.model.policy import Endpoint
from hyops.ports.clock import Clock
from hyops.ports.database import DatabaseFacts, Role, StoppedAt
from hyops.ports.dns import EndpointRecord
from hyops.ports.edge import EdgeState, Slot
from hyops.ports.probe import WriteProbeResult, WriteVerdict

SYSTEM = "7300000000000000001"


@dataclass
class MemoryEdge:
    """`DatabaseEdge` whose kernel is a test's clock."""

    clock: Clock
    installed: bool = False
    slots: dict[int, float] = field(default_factory=dict)
    granted: int | None = None
    draining_until: float = float("-inf")
    reading_until: float = float("-inf")
    _next: int = 0

    def install(self) -> None:
        """See the port."""
        self.installed = True
        self.close()

    def arm(self, ttl_s: float) -> Slot:
        """See the port."""
        self._next = 1 - self.granted if self.granted is not None else 1 - self._next
        self.slots[self._next] = self.clock.monotonic() + ttl_s
        return Slot(self._next)

    def grant(self, slot: Slot) -> None:
        """See the port."""
        self.granted = int(slot)
        self.draining_until = self.reading_until = float("-inf")

    def drain(self, limit_s: float) -> None:
        """See the port."""
        self.close()
        self.draining_until = self.clock.monotonic() + limit_s

    def read(self, limit_s: float) -> None:
        """See the port."""
        self.reading_until = self.clock.monotonic() + limit_s

    def close(self) -> None:
        """See the port."""
        self.granted, self.slots = None, {}
        self.draining_until = self.reading_until = float("-inf")

    def passes(self) -> bool:
        """What a client meets, whatever is asked of the edge: without its rules everybody passes."""
        opened = self.granted is not None and self.slots.get(self.granted, float("-inf")) > self.clock.monotonic()
        return opened or not self.installed

    def state(self) -> EdgeState:
        """See the port."""
        now = self.clock.monotonic()
        opened = self.installed and self.passes()
        return EdgeState(self.installed, opened, self.draining_until > now, self.reading_until > now)


@dataclass
class MemoryDatabase:
    """`LocalDatabase` with rows for WAL. `upstream` is who it streams from while that can be reached."""

    running: bool = True
    standby: bool = False
    timeline: int = 1
    rows: list[str] = field(default_factory=list)
    ended_cleanly: bool = False
    upstream: MemoryDatabase | None = None
    connected: bool = True
    slots: set[str] = field(default_factory=set)
    rewound: int = 0
    by_address: dict[str, MemoryDatabase] = field(default_factory=dict)
    hangs: bool = False

    def role(self) -> Role:
        """See the port."""
        return "stopped" if not self.running else "standby" if self.standby else "primary"

    def would_start_as(self) -> Literal["primary", "standby", "absent"]:
        """See the port."""
        return "standby" if self.standby else "primary"

    def position(self) -> str:
        """The rows so far, as a WAL position."""
        return f"0/{(len(self.rows) + 1) * 0x100:X}"

    def stream(self) -> None:
        """Take over what the upstream has."""
        if self.standby and self.running and self.connected and self.upstream is not None:
            self.rows[:] = self.upstream.rows

    async def facts(self) -> DatabaseFacts:
        """See the port."""
        self.stream()
        if self.hangs:
            raise DeadlineError("hangs")
        at, streaming = self.position(), self.connected
        replayed = f"0/{(len(self.rows) + 1) * 0x100 + 1:X}"  # the end of the last record
        if self.standby:
            return DatabaseFacts(self.role(), SYSTEM, self.timeline, None, replayed, replayed, 0, streaming)
        return DatabaseFacts(self.role(), SYSTEM, self.timeline, at, streaming=streaming)

    async def start(self, *, limit_s: float) -> None:
        """See the port."""
        self.running, self.ended_cleanly = True, False

    async def stop(self, *, mode: Literal["fast", "immediate"], limit_s: float) -> None:
        """See the port."""
        if self.hangs and mode == "fast":
            raise DeadlineError("the walsender does not drain")
        if self.running:
            self.running, self.ended_cleanly = False, mode == "fast"

    async def kill(self, *, limit_s: float) -> None:
        """See the port."""
        if self.running:
            self.running, self.ended_cleanly = False, False

    async def stopped_at(self) -> StoppedAt:
        """See the port."""
        if self.running or not self.ended_cleanly or self.standby:
            raise TargetError("not cleanly shut down")
        return StoppedAt(SYSTEM, self.timeline, self.position())

    async def checkpoint(self, *, limit_s: float) -> None:
        """See the port."""

    async def promote(self, *, limit_s: float) -> DatabaseFacts:
        """See the port."""
        if self.standby:
            self.standby, self.upstream = False, None
            self.timeline += 1
        return await self.facts()

    async def ensure_slots(self, names: list[str]) -> None:
        """See the port."""
        self.slots |= set(names)

    async def follow(self, *, address: str, port: int, slot: str, limit_s: float) -> bool:
        """See the port."""
        self.upstream = self.by_address[address]
        diverged = not self.standby and self.rows != self.upstream.rows[: len(self.rows)]
        self.rewound += diverged
        self.rows[:] = self.upstream.rows
        self.standby, self.running, self.timeline = True, True, self.upstream.timeline
        return diverged


@dataclass
class MemoryDns:
    """`DnsAuthority`: the first authority takes updates, the others follow unless in `lagging`."""

    records: dict[str, tuple[str, int]]
    lagging: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    lose_next_answer: bool = False

    async def ask(self, endpoint: Endpoint, authority: str) -> EndpointRecord:
        """See the port."""
        if authority in self.silent:
            raise TargetError(f"{authority} is silent")
        address, generation = self.records[authority]
        return EndpointRecord(authority, (address,), generation, endpoint.ttl_s)

    async def switch(self, endpoint: Endpoint, *, address: str, expected: int, generation: int) -> None:
        """See the port."""
        first = endpoint.authorities[0]
        if first in self.silent:
            raise DeadlineError(f"{first} is silent")
        if self.records[first][1] != expected:
            raise StaleGenerationError(f"generation is {self.records[first][1]}, not {expected}")
        for authority in endpoint.authorities:
            if authority not in self.lagging:
                self.records[authority] = (address, generation)
        if self.lose_next_answer:
            self.lose_next_answer = False
            raise DeadlineError("the answer was lost")


@dataclass
class MemoryHost:
    """What a client meets at one address."""

    edge: MemoryEdge
    database: MemoryDatabase
    reachable: bool = True


@dataclass
class MemoryWriteProbe:
    """`WriteProbe`, and the client of the tests: `acknowledged` holds every row whose commit was answered."""

    hosts: dict[str, MemoryHost]
    acknowledged: list[str] = field(default_factory=list)
    before_write: Callable[[str], None] | None = None

    async def try_write(self, *, address: str, port: int, generation: int, timeout_s: float) -> WriteProbeResult:
        """See the port."""
        verdict = self.write(address, f"probe-{generation}-{len(self.acknowledged)}")
        return WriteProbeResult(verdict, f"{address}: {verdict}", 0.001, verdict is not WriteVerdict.UNREACHABLE)

    def write(self, address: str, row: str) -> WriteVerdict:
        """One row from a client at this moment."""
        if self.before_write is not None:
            self.before_write(address)
        host = self.hosts[address]
        if not host.reachable:
            return WriteVerdict.UNREACHABLE
        if not host.edge.passes() or not host.database.running:
            return WriteVerdict.REFUSED
        if host.database.standby:
            return WriteVerdict.READ_ONLY
        host.database.rows.append(row)
        self.acknowledged.append(row)
        return WriteVerdict.ACCEPTED


class StaticKeys:
    """`Signer` and `Verifier` in one, with keys made from names: for tests only."""

    def __init__(self, name: str, roles: dict[str, frozenset[str]]) -> None:
        self._key = _private(name)
        self._public = {_keyid(_private(other)): _private(other).public_key() for other in roles}
        self._roles = {_keyid(_private(other)): held for other, held in roles.items()}

    @property
    def keyid(self) -> str:
        """See the port."""
        return _keyid(self._key)

    def sign(self, data: bytes) -> bytes:
        """See the port."""
        return self._key.sign(data)

    def verify(self, keyid: str, data: bytes, signature: bytes) -> None:
        """See the port."""
        public: Ed25519PublicKey | None = self._public.get(keyid)
        if public is None:
            raise RecordError(f"key {keyid} is not trusted")
        try:
            public.verify(signature, data)
        except InvalidSignature as exc:
            raise RecordError("wrong signature") from exc

    def roles(self, keyid: str) -> frozenset[str]:
        """See the port."""
        return self._roles.get(keyid, frozenset())

    def public_base64(self) -> str:
        """The raw public key, as the trusted keys file holds it."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()


def _private(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(canonical.digest(name).removeprefix("sha256:")))


def _keyid(key: Ed25519PrivateKey) -> str:
    return canonical.digest_bytes(key.public_key().public_bytes_raw())
