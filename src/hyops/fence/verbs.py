"""What a runner may ask of the agent, and every check on the way (FEN-1, FEN-2, INV-2, INV-3).

Each verb can be repeated by the same run and then says the same. Safe directions need no permission but their
generation; `promote` needs a receipt that this host verifies for itself, and the quorum's word that this host is the
primary of the next generation.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyops.errors import (
    DeadlineError,
    Effect,
    HyopsError,
    NotFencedError,
    PrerequisiteError,
    RecordError,
    StaleGenerationError,
    TargetError,
)
from hyops.fence.agent import STOP_LIMIT_S, FenceAgent
from hyops.fence.doubt import behind
from hyops.fence.handover import hand_over
from hyops.fence.prepare import remember_prepared
from hyops.fence.quorum import heard
from hyops.fence.readmit import give_place_back, held_by
from hyops.fence.status import status_of
from hyops.model.dsse import verify_record
from hyops.model.fence import DemotionReceipt, FenceReceipt, LeaseState
from hyops.model.policy import Member
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.hostagent import AgentStatus
from hyops.ports.lease import QuorumLostError
from hyops.ports.signer import Verifier

RUNNER_ROLE = "runner:"
SLOT_NAME_MAX = 63  # NAMEDATALEN - 1 of PostgreSQL, which refuses a longer `primary_slot_name`


@dataclass(frozen=True)
class VerbLimits:
    """How long each part of a verb may take, in seconds."""

    facts_s: float = 2.0
    drain_s: float = 10.0
    replay_s: float = 10.0
    promote_s: float = 15.0
    lease_s: float = 4.0
    follow_s: float = 60.0
    start_s: float = 60.0


@dataclass(frozen=True)
class VerbPolicy:
    """What this host believes: the members, the receipt classes that suffice, and whose signatures count."""

    members: Mapping[str, Member]
    receipts: Sequence[ReceiptClass]
    verifier: Verifier
    limits: VerbLimits = VerbLimits()


class FenceVerbs:
    """The verbs of one agent. `HostAgent` in shape, so that tests can use it in place of the SSH adapter."""

    def __init__(self, agent: FenceAgent, policy: VerbPolicy) -> None:
        self._agent, self._policy, self._limits = agent, policy, policy.limits
        self._one_at_a_time = asyncio.Lock()
        self._later: asyncio.Task[None] | None = None

    async def status(self) -> AgentStatus:
        """Look; an unresponsive database does not keep this from answering."""
        return await status_of(self._agent, self._limits.facts_s)

    async def fence(self, *, generation: int, run_id: str) -> AgentStatus:
        """Close, remember, stop, give the lease up; in this order, never waiting for another verb. What fails is told
        at the end: it keeps nothing of the rest from being done."""
        agent, state = self._agent, self._agent.state
        if generation < state.generation and state.primary == agent.host:
            raise _older(generation, state.generation)
        faults: list[HyopsError] = []
        if not agent.try_close(f"fenced by {run_id}"):  # a drain that was under way is over as well
            faults.append(TargetError(f"{agent.host}: the edge was not closed: {agent.edge_fault}"))
        if state.hold == "none" or state.hold_generation < generation:
            held = {"hold": "fenced", "hold_generation": generation, "hold_run": run_id, "stopped_for_lease": False}
            try:
                agent.restrict(state.model_copy(update=held))
            except PrerequisiteError as exc:  # a full disk: closed and stopped all the same, but not over a reboot
                faults.append(exc)
        if not _is_standby_of_another(agent):
            try:
                await agent.stop_database()
            except (TargetError, DeadlineError) as exc:
                faults.append(exc)
        await agent.give_up_lease()
        if faults:
            raise faults[-1] if len(faults) == 1 else TargetError("; ".join(fault.message for fault in faults))
        return await self.status()

    async def prepare(self, *, generation: int, run_id: str) -> AgentStatus:
        """Write down that `run_id` means to promote this standby under `generation`; nothing else changes."""
        async with self._one_at_a_time:
            remember_prepared(self._agent, await self._quorum(), generation, run_id)
            return await self.status()

    async def demote(self, *, generation: int, run_id: str) -> DemotionReceipt:
        """Stop taking writes, let the standbys have everything, shut down cleanly; says where it ended."""
        async with self._one_at_a_time:
            agent, database = self._agent, self._agent.parts.database
            state = agent.state
            if state.hold == "demoted" and state.hold_run == run_id and state.demotion is not None:
                return state.demotion
            now = await self._quorum()
            resumed = state.hold == "demoted" and state.hold_run == run_id
            if now.generation != generation or now.primary != agent.host:
                raise _older(generation, now.generation)
            if state.holding() and not resumed:
                raise TargetError(
                    f"{agent.host} is {state.hold} by {state.hold_run} already", effect=Effect.NONE, hint=held_by(state)
                )
            if not resumed and database.role() != "primary":
                raise TargetError(f"{agent.host} is {database.role()}, not a primary that could be demoted")
            if not resumed and (agent.read_edge() is None or agent.edge_fault is not None):
                raise TargetError(
                    f"the edge of {agent.host} fails, so it cannot hand over: {agent.edge_fault}",
                    effect=Effect.NONE,
                    hint="mend it, or switch unplanned: that stops the database and counts what it had not sent",
                )
            if not resumed:
                await database.checkpoint(limit_s=self._limits.drain_s)  # while clients still write: a short shutdown
            return await hand_over(agent, generation, run_id, self._limits.drain_s)

    async def undo_demote(self, *, generation: int, run_id: str) -> AgentStatus:
        """Serve again; only while the quorum still says that this host is the primary of `generation`."""
        async with self._one_at_a_time:
            agent, state = self._agent, self._agent.state
            if state.hold == "none":
                return await self.status()
            if state.hold != "demoted" or state.hold_run != run_id:
                raise TargetError(
                    f"{agent.host} is {state.hold} by {state.hold_run}, not demoted by {run_id}",
                    effect=Effect.NONE,
                    hint=held_by(state),
                )
            now = await self._quorum()
            if now.generation != generation or now.primary != agent.host:
                raise _older(generation, now.generation)
            agent.busy = True
            try:
                agent.parts.edge.close()
                if agent.parts.database.role() != "primary":  # stopped, or still on its way down
                    await agent.parts.database.stop(mode="immediate", limit_s=STOP_LIMIT_S)
                    await agent.parts.database.start(limit_s=self._limits.start_s)
                agent.remember(agent.state.model_copy(update={"hold": "none", "hold_run": None, "demotion": None}))
            finally:
                agent.busy = False
            await self._open()
            return await self.status()

    async def readmit(self, *, generation: int, run_id: str) -> AgentStatus:
        """Serve again after `run_id` ended half-way at `generation`: under the next one, which this raises."""
        async with self._one_at_a_time:
            await give_place_back(self._agent, generation, run_id, self._limits.start_s)
            await self._open()
            return await self.status()

    async def promote(
        self, *, receipt: FenceReceipt, generation: int, run_id: str, demotion: DemotionReceipt | None
    ) -> AgentStatus:
        """Become the primary of `generation`, with proof that the old one has stopped."""
        async with self._one_at_a_time:
            agent, database = self._agent, self._agent.parts.database
            check_receipt(receipt, agent.service, agent.host, generation, run_id, self._policy)
            now = await self._quorum()
            if (now.generation, now.primary, now.changed_by) != (generation, agent.host, run_id):
                raise _older(generation, now.generation)
            by_time = receipt.receipt_class is ReceiptClass.LEASE_EXPIRED
            if by_time and now.unguarded_under(receipt.host, receipt.generation):
                raise NotFencedError(f"{receipt.host} was unguarded: the end of its lease is no proof of its fence")
            if database.role() != "primary":
                await self._ready(demotion)
            agent.busy = True
            try:
                promoted = agent.state.placed(generation, agent.host)
                agent.remember(promoted.model_copy(update={"promotion_run": run_id}))
                agent.parts.edge.close()  # the monitors' way in is for a standby only
                await self._lease()
                await database.promote(limit_s=self._limits.promote_s)
                others = [host for host in self._policy.members if host != agent.host]
                await database.ensure_slots([slot_name(host) for host in others])
            finally:
                agent.busy = False
                agent.wake()
            await self._open()
            self._later = asyncio.create_task(self._settle())
            return await self.status()

    async def follow(self, *, primary: str, generation: int, run_id: str) -> AgentStatus:
        """Become a standby of the member `primary`, rewound where the histories differ."""
        async with self._one_at_a_time:
            agent = self._agent
            now = await self._quorum()
            if now.primary == agent.host or generation < now.generation:
                raise _older(generation, now.generation)
            if primary != now.primary or primary not in self._policy.members:
                raise TargetError(f"{primary} is not the primary of generation {now.generation}: {now.primary} is")
            member = self._policy.members[primary]
            agent.close_edge(f"follows {primary} ({run_id})")
            await agent.give_up_lease()
            agent.busy = True
            try:
                agent.remember(agent.state.learnt(now.generation, primary).model_copy(update={"needs_rewind": True}))
                await agent.parts.database.follow(
                    address=member.address, port=member.port, slot=slot_name(agent.host), limit_s=self._limits.follow_s
                )
                fresh = {"needs_rewind": False, "hold": "none", "hold_run": None, "demotion": None}
                agent.remember(agent.state.model_copy(update=fresh))
            finally:
                agent.busy = False
                agent.wake()
            return await self.status()

    async def _settle(self) -> None:
        """A checkpoint on the new timeline, while clients write: without it nobody can rewind against this host."""
        try:
            await self._agent.parts.database.checkpoint(limit_s=self._limits.follow_s)
        except (TargetError, DeadlineError) as exc:  # PostgreSQL makes one by itself later; a rewind waits for it
            self._agent.parts.log(f"no checkpoint after the promotion: {exc.message}")

    async def _quorum(self) -> LeaseState:
        """What stands now; a newer generation is remembered."""
        agent, parts = self._agent, self._agent.parts
        until = parts.clock.monotonic() + self._limits.lease_s
        try:
            now = await heard(lambda: parts.store.state(agent.service), parts.clock, until, parts.log)
        except QuorumLostError as exc:
            raise DeadlineError(f"{agent.host}: no quorum answered: {exc}", effect=Effect.NONE) from exc
        if agent.doubts(now):
            raise RecordError(
                f"{agent.host} does not believe the quorum store: {agent.doubt}",
                hint="put the service's generation record right: members are in the agent's configuration",
            )
        if (why := behind(now, agent.state)) is not None:
            raise StaleGenerationError(f"{agent.host}: {why}", seen=agent.state.generation)
        if now.generation > agent.state.generation:
            agent.remember(agent.state.learnt(now.generation, now.primary, going_on=now.reinstated))
        return now

    async def _ready(self, demotion: DemotionReceipt | None) -> None:
        """The standby has all that a demoted primary had; nothing is changed here."""
        agent, database = self._agent, self._agent.parts.database
        if demotion is None:
            return
        end = agent.parts.clock.monotonic() + self._limits.replay_s
        while True:
            facts = await database.facts()
            if facts.system_identifier != demotion.system_identifier:
                raise TargetError("the demoted primary and this standby are not of one system", hint="rebuild it")
            if facts.replay_lsn is not None and lsn_value(facts.replay_lsn) > lsn_value(demotion.last_lsn):
                return
            if agent.parts.clock.monotonic() >= end:
                raise NotFencedError(
                    f"{agent.host} has replayed {facts.replay_lsn}, the demoted primary ended at {demotion.last_lsn}",
                    hint="rows would be lost: undo the demotion, or run it unplanned and accept the loss",
                )
            await agent.parts.clock.sleep(0.02)

    async def _lease(self) -> None:
        """Hold the lease; an old holder's may still have to run out, or that of a killed agent of this host."""
        agent = self._agent
        end = agent.parts.clock.monotonic() + max(self._limits.lease_s, 2 * agent.times.ttl_s)
        while True:
            try:
                if agent.grant is None:
                    await agent.parts.store.wait_no_holder(
                        agent.service, agent.state.generation - 1, self._limits.lease_s
                    )
                return await agent.hold_lease()
            except (StaleGenerationError, QuorumLostError) as exc:
                if agent.parts.clock.monotonic() >= end:
                    raise DeadlineError(f"{agent.host} cannot get the lease: {exc}") from exc
                await agent.parts.clock.sleep(0.05)

    async def _open(self) -> None:
        await self._lease()
        if not self._agent.edge_open:
            raise TargetError(f"{self._agent.host} holds the lease, but its edge did not open: {self._agent.why}")


def check_receipt(
    receipt: FenceReceipt, service: str, host: str, generation: int, run_id: str, policy: VerbPolicy
) -> None:
    """Every reason why a receipt is not proof for this promotion.

    Raises:
        NotFencedError: it is for something else, of a class that does not suffice, or not signed by a runner.
    """
    faults = []
    if receipt.service != service:
        faults.append(f"it is for service {receipt.service}")
    if receipt.target != host:
        faults.append(f"its target is {receipt.target}")
    if receipt.host == host or receipt.host not in policy.members:
        faults.append(f"{receipt.host} is not the other member")
    if receipt.next_generation != generation or receipt.generation != generation - 1:
        faults.append(f"it ends generation {receipt.generation} for {receipt.next_generation}")
    if receipt.run_id != run_id:
        faults.append(f"it is of run {receipt.run_id}")
    if receipt.receipt_class not in policy.receipts:
        faults.append(f"class {receipt.receipt_class} does not suffice here")
    try:
        keyid = verify_record(receipt, policy.verifier)
        if not any(role.startswith(RUNNER_ROLE) for role in policy.verifier.roles(keyid)):
            faults.append("its signer is not a runner")
    except RecordError as exc:
        faults.append(exc.message)
    if faults:
        raise NotFencedError(f"the fence receipt is no proof: {'; '.join(faults)}", receipt=receipt.receipt_id)


def slot_name(host: str) -> str:
    """The replication slot of a member, the same on every primary; never longer than PostgreSQL takes."""
    name = "hyops_" + "".join(letter if letter.isalnum() else "_" for letter in host.lower())
    if len(name) <= SLOT_NAME_MAX:
        return name
    return f"{name[: SLOT_NAME_MAX - 17]}_{hashlib.sha256(host.encode()).hexdigest()[:16]}"


def lsn_value(lsn: str) -> int:
    """A WAL position as a number."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def _is_standby_of_another(agent: FenceAgent) -> bool:
    """A standby takes no writes: fencing it must not stop it from following the current primary."""
    return agent.parts.database.would_start_as() == "standby"


def _older(generation: int, seen: int) -> StaleGenerationError:
    return StaleGenerationError(f"generation {generation} is not the current one here ({seen})", seen=seen)
