"""The pair of database hosts in virtual time: the real agents and verbs, a network that is cut, a client that counts.

Both hosts are real in all that decides (agent, verbs, receipts) and in memory in all that does not (kernel, server,
disk, quorum). A client writes to both all the time, from beside them, so that no partition hides a second writer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from hyops.errors import AgentLostError, DeadlineError, PrerequisiteError, TargetError
from hyops.fence.agent import AgentParts, FenceAgent
from hyops.fence.state import AgentState
from hyops.fence.verbs import FenceVerbs, VerbPolicy
from hyops.model.policy import Member
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.database import DatabaseFacts
from hyops.ports.lease import QuorumLostError
from hyops.ports.probe import WriteProbeResult, WriteVerdict
from hyops.testing.clock import FakeClock
from hyops.testing.lease import MemoryLeaseStore
from hyops.testing.switch import MemoryDatabase, MemoryEdge
from simulation.virtual import Process, VirtualClock, VirtualLoop
from switch_pair import MEMBERS, TIMES, Memory

SITES = ("onprem", "cloud", "control")
HOSTS = tuple(member.host for member in MEMBERS)
ADDRESSES = {member.host: member.address for member in MEMBERS}
SITE_OF = {member.host: member.site for member in MEMBERS}
HOP_S = 0.002
CONNECT_S = 1.0
OUTSIDE_EVERY_S = 0.1
VERB_LIMIT_S = 20.0
KERNEL = frozenset({"install", "arm", "grant", "drain", "read", "close", "state"})


@dataclass
class Net:
    """Which site reaches which. Of the three members of the quorum a client needs two."""

    cut: set[frozenset[str]] = field(default_factory=set)
    down: set[str] = field(default_factory=set)
    quorum_silent: bool = False
    wal_stalled: bool = False

    def reaches(self, one: str, other: str) -> bool:
        """Both live, and nothing is cut between them."""
        return not self.down & {one, other} and (one == other or frozenset((one, other)) not in self.cut)

    def quorum(self, site: str) -> bool:
        """Whether a client there reaches two members that reach each other."""
        if self.quorum_silent:
            return False
        near = [s for s in SITES if self.reaches(site, s)]
        return any(self.reaches(a, b) for a in near for b in near if a != b)


class Tethered:
    """Something outside a process, as long as the process lives: a dead one touches nothing."""

    def __init__(self, inner: Any, process: Process) -> None:
        self._inner, self._process = inner, process

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **words: Any) -> Any:
            self._process.alive()
            return getattr(self._inner, name)(*args, **words)

        setattr(self, name, call)
        return call


@dataclass
class Disk(Memory):
    """An agent's memory; it may be full."""

    full: bool = False

    def save(self, state: AgentState) -> None:
        """Keep it, where there is room."""
        if self.full:
            raise PrerequisiteError("no space left on the agent's disk")
        super().save(state)


def _refused(command: str, *_: Any) -> Any:
    raise TargetError(f"nft: {command} failed")


@dataclass
class Edge(MemoryEdge):
    """A kernel that may refuse every command, while what stands in it goes on."""

    fails: bool = False

    def __getattribute__(self, name: str) -> Any:
        if name in KERNEL and object.__getattribute__(self, "fails"):
            return partial(_refused, name)
        return object.__getattribute__(self, name)


@dataclass
class Server(MemoryDatabase):
    """A server that takes its time, and streams only where the network and the other's edge let it."""

    clock: FakeClock = field(default_factory=FakeClock)
    host: str = ""
    takes_s: Callable[[], float] = lambda: 0.05
    upstream_answers: Callable[[], bool] = lambda: True
    promoted: Callable[[str], None] = lambda host: None
    streamed_at: float = 0.0
    now: Callable[[], float] = lambda: 0.0

    def stream(self) -> None:
        """Take over what the upstream has, if it lets this one."""
        self.connected = self.upstream_answers()
        if self.standby and self.running and self.connected and self.upstream is not None:
            self.streamed_at = self.now()
            mine, theirs = self.rows, self.upstream.rows
            if len(mine) != len(theirs) or (mine and mine[-1] != theirs[-1]):
                mine[:] = theirs

    async def facts(self) -> DatabaseFacts:
        """See the port."""
        await self.clock.sleep(HOP_S)
        return await super().facts()

    async def start(self, *, limit_s: float) -> None:
        """See the port."""
        await self.clock.sleep(self.takes_s())
        await super().start(limit_s=limit_s)

    async def stop(self, *, mode: Literal["fast", "immediate"], limit_s: float) -> None:
        """See the port. An orderly one lets the standby have everything first."""
        await self.clock.sleep(self.takes_s())
        if mode == "fast":
            for other in self.by_address.values():
                if other.upstream is self:
                    other.stream()
        await super().stop(mode=mode, limit_s=limit_s)

    async def promote(self, *, limit_s: float) -> DatabaseFacts:
        """See the port."""
        await self.clock.sleep(self.takes_s())
        if self.standby and self.running:
            self.stream()
            self.promoted(self.host)
        return await super().promote(limit_s=limit_s)

    async def follow(self, *, address: str, port: int, slot: str, limit_s: float) -> bool:
        """See the port."""
        await self.clock.sleep(self.takes_s())
        return await super().follow(address=address, port=port, slot=slot, limit_s=limit_s)


class QuorumView:
    """The lease store as one site sees it: every call takes a moment, and may be lost on its way there or back."""

    def __init__(self, pair: DatabasePair, site: str) -> None:
        self._pair, self._site = pair, site

    async def _ask(self, verb: str, *args: Any, **words: Any) -> Any:
        net, sent_at = self._pair.net, self._pair.clock.monotonic()
        await self._pair.clock.sleep(HOP_S)
        if not net.quorum(self._site):
            await self._pair.clock.sleep(CONNECT_S)
            raise QuorumLostError(f"no quorum from {self._site}")
        answer = await getattr(self._pair.store, verb)(*args, **words)
        await self._pair.clock.sleep(HOP_S)
        if self._pair.lost_answers.get(verb, 0) > 0:
            self._pair.lost_answers[verb] -= 1
            raise QuorumLostError(f"the answer to {verb} was lost")
        if verb in ("acquire", "renew"):  # the time of a lease runs from before it was asked for
            return replace(answer, deadline=sent_at + words.get("ttl_s", args[-1] if verb == "acquire" else args[4]))
        return answer

    def __getattr__(self, verb: str) -> Any:
        async def ask(*args: Any, **words: Any) -> Any:
            return await self._ask(verb, *args, **words)

        setattr(self, verb, ask)
        return ask


@dataclass
class DatabaseHost:
    """One host. `agent` is replaced by a restart; `machine` stands still as a whole when the host is frozen."""

    member: Member
    edge: Edge
    database: Server
    disk: Disk
    agent: FenceAgent = field(init=False)
    verbs: FenceVerbs = field(init=False)
    process: Process = field(init=False)
    up: bool = True
    frozen: bool = False
    fence_lies: int = 0


class DatabasePair:
    """onprem-db is the primary of generation 1 and cloud-db its standby. Everything random comes from `rng`."""

    def __init__(
        self,
        loop: VirtualLoop,
        clock: VirtualClock,
        rng: random.Random,
        verifier: Any,
        receipts: list[ReceiptClass],
        promoted: Callable[[str], None],
        acknowledged: Callable[[str, int, str], None],
    ) -> None:
        self.loop, self.clock, self.rng, self.net = loop, clock, rng, Net()
        self.store = MemoryLeaseStore(clock)
        self.lost_answers: dict[str, int] = {}
        self.verifier, self.receipts, self._acknowledged = verifier, receipts, acknowledged
        self.logs: list[str] = []
        self._row = 0
        self.hosts: dict[str, DatabaseHost] = {}
        for member in MEMBERS:
            database = Server(clock=clock, host=member.host, standby=member is not MEMBERS[0])
            database.takes_s = lambda: self.rng.choice((0.02, 0.05, 0.3))
            database.promoted, database.now = promoted, clock.monotonic
            disk = Disk()
            if member is MEMBERS[0]:
                disk.save(AgentState(service="pg", host=member.host, generation=1, primary=member.host))
            self.hosts[member.host] = DatabaseHost(member, Edge(clock), database, disk)
        first, second = (self.hosts[member.host] for member in MEMBERS)
        second.database.upstream = first.database
        for one in self.hosts.values():
            one.database.by_address = {h.member.address: h.database for h in self.hosts.values()}
            one.database.upstream_answers = self._answering(one)
        loop.run_until_complete(self.store.initialise("pg", 1, MEMBERS[0].host))
        for name in self.hosts:
            self.boot_agent(name)
        self._outside()

    def _outside(self) -> None:
        """Standbys stream and clients write, all the time; so the last row is always on its way."""
        for it in self.hosts.values():
            if self.lives(it.member.host):
                it.database.stream()
        self.write_everywhere()
        self._next = self.loop.call_later(OUTSIDE_EVERY_S, self._outside)

    def close(self) -> None:
        """No more of it."""
        self._next.cancel()

    def _answering(self, mine: DatabaseHost) -> Callable[[], bool]:
        def answers() -> bool:
            up = next((h for h in self.hosts.values() if h.database is mine.database.upstream), None)
            if up is None or self.net.wal_stalled or not self.lives(up.member.host) or not self.lives(mine.member.host):
                return False
            open_to_peers = up.edge.passes() or up.edge.draining_until > self.clock.monotonic()
            return up.database.running and open_to_peers and self.net.reaches(up.member.site, mine.member.site)

        return answers

    # hosts

    def boot_agent(self, host: str) -> None:
        """A new agent with what stands on its disk."""
        it = self.hosts[host]
        it.process = Process(f"agent of {host}", self.loop)
        tied = [
            Tethered(part, it.process) for part in (QuorumView(self, it.member.site), it.edge, it.database, it.disk)
        ]
        parts = AgentParts(*tied, self.clock, self.logs.append, frozenset(HOSTS))
        it.agent = FenceAgent("pg", host, TIMES, parts)
        members = {member.host: member for member in MEMBERS}
        it.verbs = FenceVerbs(it.agent, VerbPolicy(members, self.receipts, self.verifier))
        it.process.task(_live(it.agent))

    def kill_agent(self, host: str) -> None:
        """kill -9; what is open stays open as long as the kernel's timer says."""
        self.hosts[host].process.kill()

    def power_off(self, host: str) -> None:
        """Power, or the whole site, is gone."""
        it = self.hosts[host]
        it.process.kill()
        it.up, it.frozen, it.edge.fails = False, False, False
        it.database.running, it.database.ended_cleanly = False, False
        it.edge.close()

    def power_on(self, host: str, *, starts: bool) -> None:
        """It boots: edge closed first, then the agent; the server perhaps by itself."""
        it = self.hosts[host]
        if it.up:
            return
        it.up, it.edge.fails = True, False
        it.edge.install()
        it.database.running = starts
        self.boot_agent(host)

    def freeze(self, host: str) -> None:
        """The whole machine stands still; the kernel's own time goes on."""
        it = self.hosts[host]
        it.frozen = it.up
        it.process.freeze()

    def thaw(self, host: str) -> None:
        """It goes on where it stood."""
        it = self.hosts[host]
        it.frozen = False
        it.process.thaw()

    def lives(self, host: str) -> bool:
        """Whether anything there answers anybody."""
        it = self.hosts[host]
        return it.up and not it.frozen and it.member.site not in self.net.down

    # clients

    def write(self, host: str, row: str) -> WriteVerdict:
        """What a client beside the host meets at this moment."""
        it = self.hosts[host]
        if not self.lives(host):
            return WriteVerdict.UNREACHABLE
        if not it.edge.passes() or not it.database.running:
            return WriteVerdict.REFUSED
        if it.database.standby:
            return WriteVerdict.READ_ONLY
        it.database.rows.append(row)
        self._acknowledged(host, it.agent.state.generation, row)
        return WriteVerdict.ACCEPTED

    def writers(self) -> list[str]:
        """Where a write would be acknowledged now."""
        return [
            name
            for name, it in self.hosts.items()
            if self.lives(name) and it.edge.passes() and it.database.role() == "primary"
        ]

    def write_everywhere(self) -> None:
        """One row to each."""
        for host in self.hosts:
            self._row += 1
            self.write(host, f"r{self._row}")


class RemoteAgent:
    """`HostAgent` over the network: it may hang, be gone, or do what it was asked and never be heard."""

    def __init__(self, pair: DatabasePair, site: str, host: str) -> None:
        self._pair, self._site, self._host = pair, site, host

    def __getattr__(self, verb: str) -> Any:
        async def ask(**words: Any) -> Any:
            return await self._ask(verb, words)

        return ask

    def _reached(self) -> bool:
        it = self._pair.hosts[self._host]
        return it.up and self._pair.net.reaches(self._site, it.member.site)

    async def _ask(self, verb: str, words: dict[str, Any]) -> Any:
        it = self._pair.hosts[self._host]
        await self._pair.clock.sleep(HOP_S)
        if not self._reached():
            await self._pair.clock.sleep(CONNECT_S)
            raise _lost(f"{self._host} is not reached ({verb})", reached=False)
        if it.process.dead:
            raise _lost(f"the agent on {self._host} is gone ({verb})", reached=True)
        if verb == "fence" and it.fence_lies:
            it.fence_lies -= 1  # fault 22: it says done, and nothing was done
            status = await it.process.task(it.verbs.status())
            return replace(status, edge="closed", role="stopped", holds_lease=False)
        answer = it.process.task(getattr(it.verbs, verb)(**words))
        try:
            async with asyncio.timeout(VERB_LIMIT_S):
                await asyncio.wait({answer})
        except TimeoutError as exc:
            raise DeadlineError(f"{self._host}: no answer to {verb}") from exc
        if answer.cancelled():
            raise _lost(f"the agent on {self._host} went during {verb}", reached=True)
        result = answer.result()
        await self._pair.clock.sleep(HOP_S)
        if not self._reached() or self._pair.lost_answers.get(verb, 0) > 0:
            self._pair.lost_answers[verb] = max(0, self._pair.lost_answers.get(verb, 0) - 1)
            raise _lost(f"the answer of {self._host} to {verb} was lost", reached=True)
        return result


class SiteProbe:
    """`WriteProbe` from one site."""

    def __init__(self, pair: DatabasePair, site: str) -> None:
        self._pair, self._site, self._written = pair, site, 0

    async def try_write(self, *, address: str, port: int, generation: int, timeout_s: float) -> WriteProbeResult:
        """See the port."""
        await self._pair.clock.sleep(HOP_S)
        (host,) = [name for name, at in ADDRESSES.items() if at == address]
        reached = self._pair.net.reaches(self._site, SITE_OF[host]) and self._pair.lives(host)
        if not reached:
            await self._pair.clock.sleep(timeout_s)
            return WriteProbeResult(WriteVerdict.UNREACHABLE, f"{address}: no answer", timeout_s, False)
        self._written += 1
        verdict = self._pair.write(host, f"probe-{self._site}-{generation}-{self._written}")
        return WriteProbeResult(verdict, f"{address}: {verdict}", 0.001, True)


async def _live(agent: FenceAgent) -> None:
    """`FenceAgent.run` without its stop: a turn, then what it asked to wait for, or less when it is woken."""
    agent.install_edge()
    while True:
        agent._wake.clear()
        wait_s = await agent._safe_turn()
        try:
            async with asyncio.timeout(wait_s):
                await agent._wake.wait()
        except TimeoutError:
            continue


def _lost(message: str, *, reached: bool) -> AgentLostError:
    lost = AgentLostError(message)
    lost.reached = reached
    return lost
