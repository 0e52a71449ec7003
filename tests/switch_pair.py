"""A pair of database hosts with the real agents, verbs and drivers over memory parts: one switch without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hyops.cutover.drivers import CutoverPorts, cutover_drivers
from hyops.errors import TargetError
from hyops.fence.agent import AgentParts, FenceAgent
from hyops.fence.driver_fence import FencePorts
from hyops.fence.driver_promote import fence_drivers
from hyops.fence.lease import LeaseTimes
from hyops.fence.state import AgentState
from hyops.fence.verbs import FenceVerbs, VerbPolicy
from hyops.model.policy import Endpoint, Lease, Member
from hyops.model.run import RunSpec
from hyops.model.vocabulary import Occasion, ReceiptClass
from hyops.ports.driver import StepContext, StepResult
from hyops.ports.hostagent import HostAgent
from hyops.ports.power import PowerSwitch
from hyops.testing.clock import FakeClock
from hyops.testing.lease import MemoryLeaseStore
from hyops.testing.switch import (
    MemoryDatabase,
    MemoryDns,
    MemoryEdge,
    MemoryHost,
    MemoryWriteProbe,
    StaticKeys,
)

T = TypeVar("T")
RUNNER = "cloud-runner"
KEYS = {RUNNER: frozenset({f"runner:{RUNNER}"}), "approver": frozenset({"approval"})}
MEMBERS = [
    Member(host="onprem-db", site="onprem", address="10.77.1.10", runner_ref="onprem-runner"),
    Member(host="cloud-db", site="cloud", address="10.77.2.10", runner_ref=RUNNER),
]
LEASE = Lease(endpoints=["http://etcd:2379"], ttl_s=2.0, margin_s=0.25)
ENDPOINT = Endpoint(
    name="pg.lab.hyops.internal",
    zone="lab.hyops.internal",
    authorities=["dns:53", "dns2:53"],
    tsig_key_name="hyops-switch.",
)
TIMES = LeaseTimes(ttl_s=2.0, renew_s=0.25, stop_after_s=1.0)
BOTH = [ReceiptClass.OBSERVED, ReceiptClass.LEASE_EXPIRED]


@dataclass
class Memory:
    """`AgentMemory` that survives its agent, as a disk does."""

    state: AgentState | None = None

    def load(self) -> AgentState | None:
        """What was saved last."""
        return self.state

    def save(self, state: AgentState) -> None:
        """Keep it."""
        self.state = state


@dataclass
class Host:
    """One database host; `agent` can be replaced, as a restart does."""

    member: Member
    edge: MemoryEdge
    database: MemoryDatabase
    memory: Memory
    agent: FenceAgent
    verbs: FenceVerbs


class Unreachable:
    """A `HostAgent` behind a dead link."""

    def __getattr__(self, verb: str) -> Any:
        async def dead(**_: Any) -> None:
            raise TargetError(f"no connection ({verb})")

        return dead


@dataclass
class Lying:
    """A `HostAgent` whose fence exits 0 and does nothing (fault 22)."""

    verbs: FenceVerbs

    async def fence(self, *, generation: int, run_id: str) -> Any:
        """Say what the caller wants to hear."""
        from dataclasses import replace

        return replace(await self.verbs.status(), edge="closed", role="stopped", holds_lease=False)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.verbs, verb)


@dataclass
class Pair:
    """onprem-db is the primary of generation 1, cloud-db its standby; `tick` lets time pass with both agents alive."""

    clock: FakeClock = field(default_factory=FakeClock)
    receipts: list[ReceiptClass] = field(default_factory=lambda: list(BOTH))
    lease: Lease = LEASE
    times: LeaseTimes = TIMES
    agents: dict[str, Any] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    logs: list[str] = field(default_factory=list)
    power: PowerSwitch | None = None
    head_start_s: float = 1.0

    def __post_init__(self) -> None:
        self.store = MemoryLeaseStore(self.clock)
        self.keys = StaticKeys(RUNNER, KEYS)
        onprem, cloud = MemoryDatabase(), MemoryDatabase(standby=True)
        cloud.upstream = onprem
        databases = {"onprem-db": onprem, "cloud-db": cloud}
        addresses = {member.address: databases[member.host] for member in MEMBERS}
        onprem.by_address = cloud.by_address = addresses
        self.hosts: dict[str, Host] = {}
        for member in MEMBERS:
            edge, memory = MemoryEdge(self.clock), Memory()
            if member is MEMBERS[0]:  # as `hyops fence init` leaves it
                memory.save(AgentState(service="pg", host=member.host, generation=1, primary=member.host))
            agent, verbs = self._agent(member.host, edge, databases[member.host], memory)
            self.hosts[member.host] = Host(member, edge, databases[member.host], memory, agent, verbs)
        self.dns = MemoryDns(dict.fromkeys(ENDPOINT.authorities, (MEMBERS[0].address, 1)))
        clients = {host.member.address: MemoryHost(host.edge, host.database) for host in self.hosts.values()}
        self.probe = MemoryWriteProbe(clients)
        asyncio.run(self.store.initialise("pg", 1, "onprem-db"))
        self.tick(0.5)

    def _agent(
        self, host: str, edge: MemoryEdge, database: MemoryDatabase, memory: Memory
    ) -> tuple[FenceAgent, FenceVerbs]:
        names = frozenset(member.host for member in MEMBERS)
        parts = AgentParts(self.store, edge, database, memory, self.clock, self.logs.append, names)
        agent = FenceAgent("pg", host, self.times, parts)
        edge.install()
        members = {member.host: member for member in MEMBERS}
        return agent, FenceVerbs(agent, VerbPolicy(members, self.receipts, self.keys))

    def restart(self, host: str) -> None:
        """The agent dies and comes back with what it had on disk."""
        it = self.hosts[host]
        it.agent, it.verbs = self._agent(host, it.edge, it.database, it.memory)

    def tick(self, seconds: float, step_s: float = 0.1) -> None:
        """Time passes in steps; every agent that is not frozen takes its turns."""
        asyncio.run(self.tick_async(seconds, step_s))

    async def tick_async(self, seconds: float, step_s: float = 0.1) -> None:
        """The same inside a loop."""
        for _ in range(max(1, round(seconds / step_s))):
            self.clock.advance(step_s)
            await self.turns()

    async def turns(self) -> None:
        """One turn of every agent that is alive."""
        for name, host in self.hosts.items():
            if name not in self.frozen:
                host.database.stream()
                await host.agent.turn()

    def write(self, host: str, row: str) -> Any:
        """What a client meets that writes to this host now."""
        return self.probe.write(self.hosts[host].member.address, row)

    def kill_site(self) -> None:
        """onprem-db is gone: no client, runner or standby reaches it, and its agent does not run."""
        host = self.hosts["onprem-db"]
        self.probe.hosts[host.member.address].reachable = False
        self.hosts["cloud-db"].database.connected = False
        self.frozen.add("onprem-db")
        self.agents["onprem-db"] = Unreachable()

    def agent(self, member: Member) -> HostAgent:
        """What the drivers talk to."""
        found: HostAgent = self.agents.get(member.host, self.hosts[member.host].verbs)
        return found

    def lost(self) -> list[str]:
        """Rows that were acknowledged and do not survive on the present primary."""
        primary = asyncio.run(self.store.state("pg")).primary
        return sorted(set(self.probe.acknowledged) - set(self.hosts[primary].database.rows))

    def writers(self) -> list[str]:
        """The hosts where a write would be acknowledged at this moment."""
        found = []
        for name, host in self.hosts.items():
            if host.edge.passes() and host.database.role() == "primary":
                found.append(name)
        return found

    def inputs(self, *, source: str = "onprem-db", target: str = "cloud-db") -> dict[str, Any]:
        """The blueprint's inputs."""
        return {
            "source": source,
            "target": target,
            "members": [member.body() for member in MEMBERS],
            "lease": self.lease.body(),
            "receipts": [str(kind) for kind in self.receipts],
            "endpoint": ENDPOINT.body(),
        }

    def drivers(self) -> dict[str, Any]:
        """All native drivers of a switch."""
        power = (self.power, self.head_start_s)
        fence = FencePorts(lambda _: self.store, self.agent, self.probe, self.keys, self.clock, RUNNER, *power)
        cut = CutoverPorts(self.dns, self.probe, self.clock)
        return {**fence_drivers(fence), **cutover_drivers(cut)}

    def spec(self, *, planned: bool = False, generation: int = 1, run_id: str = "run-1", **more: Any) -> RunSpec:
        """As much of a run's description as the drivers look at."""
        occasion = Occasion.PLANNED if planned else Occasion.UNPLANNED
        words = {"approvals": [], **more}
        return RunSpec.model_construct(
            run_id=run_id, epoch=1, service="pg", generation=generation, occasion=occasion, **words
        )

    def context(
        self,
        spec: RunSpec,
        step: str,
        inputs: dict[str, Any],
        outputs: dict[str, Any] | None = None,
        *,
        for_s: float = 1e9,
    ) -> StepContext:
        """A step's context."""
        return StepContext(spec, step, inputs, outputs or {}, {}, self.clock.monotonic() + for_s, self.logs.append)


STEPS = (
    ("fence", "native/fence", ("source", "target", "members", "lease", "receipts")),
    ("promote", "native/postgresql-promote", ("source", "target", "members")),
    ("verify-target", "native/verify-write", ("source", "target", "members")),
    ("cutover", "native/dns-cutover", ("source", "target", "members", "endpoint")),
    ("verify-traffic", "native/verify-traffic", ("source", "target", "members", "endpoint")),
    ("rejoin", "native/postgresql-follow", ("source", "target", "members")),
)


async def switch(
    pair: Pair, spec: RunSpec, inputs: dict[str, Any] | None = None, *, until: str | None = None
) -> dict[str, StepResult]:
    """Run the blueprint's steps in order, with the agents alive in between; raises what a step raises."""
    drivers, words = pair.drivers(), inputs or pair.inputs()
    results: dict[str, StepResult] = {}
    for step, module, names in STEPS:
        outputs = {name: result.outputs for name, result in results.items()}
        context = pair.context(spec, step, {name: words[name] for name in names}, outputs)
        results[step] = await drivers[module].apply(context)
        await pair.turns()
        if step == until:
            break
    return results


def run(work: Coroutine[Any, Any, T]) -> T:
    """One coroutine in a loop of its own."""
    return asyncio.run(work)
