"""The ladder: from "the old primary should stop" to a receipt that says why it cannot write any more (FEN-1, INV-2).

Rules kept here: a command that succeeded is no proof, and neither is silence. The proofs are tried at once, and the
first that the policy accepts wins:
- observed: the agent on the old host says that it has closed and stopped, *and* a probe from here was refused;
- lease-expired: after the generation was raised, the old holder is gone from the quorum store (or its whole ttl has
  passed on this runner's clock), plus the margin, a look at the old address does not show a write accepted, *and* the
  quorum store, asked after the raise, does not call the old holder unguarded: nothing closes for such a one when it
  is frozen, so time alone proves nothing about it;
- powered-off: the power switch was told to cut the old host's power, says `off` when it is asked again, *and* nothing
  answers at the old address. It is the roughest means, so the others have a head start, and a planned switch has none.
A write that is accepted after the agent said that it is closed, or after the lease has run out, ends the attempt
whatever else was seen; one that is accepted after the power switch said `off` strikes out its word (fault 22).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hyops.errors import Effect, FailedError, HyopsError, NotFencedError
from hyops.fence.again import LOOK_S
from hyops.fence.quorum import heard
from hyops.model.fence import LeaseState, Observation
from hyops.model.policy import Lease, Member
from hyops.model.vocabulary import ReceiptClass
from hyops.ports.clock import Clock
from hyops.ports.hostagent import AgentStatus, HostAgent
from hyops.ports.lease import LeaseStore, QuorumLostError
from hyops.ports.power import PowerState, PowerSwitch
from hyops.ports.probe import WriteProbe, WriteProbeResult, WriteVerdict

AGENT_LIMIT_S = 3.0  # ssh, an immediate stop and its proof; a dead site is given up earlier, when the lease has run out
PROBE_LIMIT_S = 1.0
POWER_SETTLE_S = 5.0  # a BMC takes the order first and cuts a second or two later
POWER_LOOK_S = 0.25  # such a switch tells nobody when it has: it can only be asked
HEAD_START_S = 1.0
POWER_LIMIT = "that the power is off is the power switch's word: nobody else can see it, only that nothing answers"
PAUSE_LIMIT = (
    "a machine that was paused together with its clock is not covered by lease-expired; "
    "there the edge's own countdown stands still too, and only a power switch or a watchdog is proof"
)


@dataclass(frozen=True)
class Proof:
    """What the receipt will say."""

    receipt_class: ReceiptClass
    observations: list[Observation]
    margin_s: float | None = None
    limits: str | None = None


@dataclass(frozen=True)
class Ladder:
    """Everything needed to prove that `source` has stopped under `generation`, which `run_id` ends."""

    service: str
    source: Member
    generation: int
    run_id: str
    lease: Lease
    receipts: Sequence[ReceiptClass]
    vantage: str
    agent: HostAgent
    store: LeaseStore
    probe: WriteProbe
    clock: Clock
    log: Callable[[str], None]
    power: PowerSwitch | None = None
    told: LeaseState | None = None
    """What the quorum said last; where it does not call `source` unguarded, it was read after the raise."""
    head_start_s: float = HEAD_START_S
    findings: list[str] = field(default_factory=list)
    asked: list[Observation] = field(default_factory=list)

    async def observed(self) -> Proof | None:
        """Fence on the host, then see a write refused; None when either is missing."""
        if ReceiptClass.OBSERVED not in self.receipts:
            return None
        try:
            async with asyncio.timeout(AGENT_LIMIT_S):
                status = await self.agent.fence(generation=self.generation, run_id=self.run_id)
        except TimeoutError:
            return self._nothing(f"the agent on {self.source.host} did not answer within {AGENT_LIMIT_S:g} s")
        except HyopsError as exc:
            return self._nothing(f"the agent on {self.source.host}: {exc.message}")
        if status.edge != "closed" or status.role == "primary" or status.holds_lease:
            return self._nothing(f"the agent on {self.source.host} says edge {status.edge}, role {status.role}")
        result = await self._write(PROBE_LIMIT_S)
        if result.verdict is WriteVerdict.ACCEPTED:
            raise self._lied(result)
        if result.verdict is not WriteVerdict.REFUSED:
            return self._nothing(f"the probe of {self.source.address} was {result.verdict}, which proves nothing")
        return Proof(ReceiptClass.OBSERVED, [self._told(status), self._saw(result)])

    async def lease_expired(self) -> Proof | None:
        """Only after the generation was raised: wait until no lease of the old one can be held."""
        if ReceiptClass.LEASE_EXPIRED not in self.receipts or self.lease.on_loss == "stay":
            return None
        if self.told is not None and (why := self._open_ended(self.told)) is not None:
            return self._nothing(why)
        raised_at = self.clock.monotonic()
        early = asyncio.create_task(self._write(self.lease.ttl_s + self.lease.margin_s + PROBE_LIMIT_S))
        try:
            how = await self._no_holder()
            await self.clock.sleep(self.lease.margin_s)
            waited_s = self.clock.monotonic() - raised_at
            looked = await self._after_expiry(early)
            why = self._open_ended(await self._told_last())
        except NotFencedError:
            raise
        except HyopsError as exc:
            return self._nothing(f"the lease store: {exc.message}")
        finally:
            early.cancel()
            await asyncio.gather(early, return_exceptions=True)
        if why is not None:
            return self._nothing(why)
        facts = {"how": how, "waited_s": round(waited_s, 3), "ttl_s": self.lease.ttl_s, "guarded": True}
        saw = (
            f"no lease of generation {self.generation} or older is left: {how}; "
            f"the edge of {self.source.host} was guarded at its last renewal"
        )
        observation = self._observation("lease-store", saw, facts)
        return Proof(ReceiptClass.LEASE_EXPIRED, [observation, looked], self.lease.margin_s, PAUSE_LIMIT)

    async def powered_off(self, gentler: Collection[asyncio.Task[Proof | None]]) -> Proof | None:
        """Cut the old host's power, once the gentler ways have all failed or have had their head start."""
        if ReceiptClass.POWERED_OFF not in self.receipts:
            return None
        if self.power is None:
            return self._nothing("no power switch may be used: none is configured here, or the switch is planned")
        done, _ = await asyncio.wait(gentler, timeout=self.head_start_s)
        if any(task.exception() is not None or task.result() is not None for task in done):
            return None  # proved, or a lie found out: either ends the attempt without this
        host = self.source.host
        moved_on = await self._moved_on()
        if moved_on is not None:
            return self._nothing(f"{host} is not switched off: {moved_on}")
        self.log(f"asking the power switch to cut {host}")
        self.asked.append(self._observation("power-order", f"the power switch was asked to cut {host}", {}))
        try:
            await self.power.off(host)
        except HyopsError as exc:  # lost, perhaps, after it was obeyed: only the state counts
            self._nothing(f"asked to cut {host}: {exc.message}")
        try:
            state = await self._settled(self.power)
        except HyopsError as exc:
            return self._nothing(f"asked whether {host} is off: {exc.message}")
        if state is not PowerState.OFF:
            return self._nothing(f"the power switch says that {host} is {state}")
        return await self._silent()

    async def off_still(self, proof: Proof) -> Proof:
        """`proof`, with a second look where the generation was raised after the first one.

        A host that was switched on between the two came up under a generation that still stood; one that is
        switched on from now on comes up fenced.

        Raises:
            NotFencedError: it is not off, or the switch does not say.
        """
        if proof.receipt_class is not ReceiptClass.POWERED_OFF or self.power is None:
            return proof
        try:
            state = await self._settled(self.power)
        except HyopsError as exc:
            self._nothing(f"asked whether {self.source.host} is off still: {exc.message}")
            raise self.unproved() from exc
        if state is not PowerState.OFF:
            self._nothing(f"{self.source.host} was off before the generation was raised, and is {state} after")
            raise self.unproved()
        again = self._observation(
            "power-state", f"off still, after generation {self.generation} was ended", {"power": "off"}
        )
        return replace(proof, observations=[*proof.observations, again])

    async def prove(self) -> Proof:
        """The first proof of any accepted class; what the power switch was asked for stands in it in any case.

        Raises:
            NotFencedError: none, or a write was accepted that must not be.
        """
        gentler = [asyncio.create_task(self.observed()), asyncio.create_task(self.lease_expired())]
        ways = {*gentler, asyncio.create_task(self.powered_off(gentler))}
        try:
            while ways:
                done, ways = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                proofs = [task.result() for task in done]  # a lie ends the attempt before any proof counts
                for proof in proofs:
                    if proof is not None:
                        return replace(proof, observations=[*self.asked, *proof.observations])
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        raise self.unproved()

    def unproved(self) -> NotFencedError:
        """What was found instead of a proof."""
        wanted = ", ".join(self.receipts)
        return NotFencedError(
            f"nothing proves that {self.source.host} has stopped under generation {self.generation} "
            f"(wanted: {wanted}): " + "; ".join(self.findings or ["no mechanism is allowed"]),
            effect=Effect.PARTIAL,
            hint="power it off and attach evidence, mend the way to it and resume the run, or approve a break-glass",
        )

    async def _told_last(self) -> LeaseState | None:
        """What the quorum says now; where it is silent, what it said after the raise."""
        with contextlib.suppress(QuorumLostError):
            return await self.store.state(self.service)
        return self.told

    def _open_ended(self, told: LeaseState | None) -> str | None:
        """Why no end of a lease proves anything about the old host; None: it was guarded when it last renewed."""
        host = self.source.host
        if told is None:
            return f"the lease store did not say whether {host} was guarded when it last renewed"
        if not told.unguarded_under(host, self.generation):
            return None
        return (
            f"{host} renewed unguarded under generation {told.unguarded_generation}: its edge does not close by "
            f"itself, so an expired lease proves nothing; power {host} off, or mend the way to it and observe it"
        )

    async def _no_holder(self) -> str:
        """Return as soon as the holder is seen gone, at the latest when its ttl has passed here."""
        with contextlib.suppress(QuorumLostError):
            started = self.clock.monotonic()
            if await self.store.wait_no_holder(self.service, self.generation, self.lease.ttl_s):
                return "the quorum store shows no holder"
            await self.clock.sleep(max(0.0, started + self.lease.ttl_s - self.clock.monotonic()))
            return "the whole ttl has passed on this runner's clock"
        await self.clock.sleep(self.lease.ttl_s)
        return "the quorum fell silent after the generation was raised; the whole ttl has passed on this runner's clock"

    async def _after_expiry(self, early: asyncio.Task[WriteProbeResult]) -> Observation:
        """A host that answers is asked once more now; one that has been silent all along is not waited for."""
        if not early.done():
            saw = f"{self.source.address} has not answered a connection since the generation was raised"
            return self._observation("write-probe", saw, {"verdict": "unreachable"})
        result = await self._write(PROBE_LIMIT_S)
        if result.verdict is WriteVerdict.ACCEPTED:
            raise self._lied(result)
        return self._saw(result)

    async def _moved_on(self) -> str | None:
        """Why this run has no say about the old host any more: the power switch itself knows no generations."""
        try:
            until = self.clock.monotonic() + LOOK_S
            now = await heard(lambda: self.store.state(self.service), self.clock, until, self.log)
        except (QuorumLostError, HyopsError) as exc:
            return f"the lease store does not answer: {exc}"
        stands = (now.generation, now.primary) == (self.generation, self.source.host)
        ended_here = (now.generation, now.changed_by) == (self.generation + 1, self.run_id)
        return None if stands or ended_here else f"generation {now.generation} belongs to {now.primary}"

    async def _settled(self, power: PowerSwitch) -> PowerState:
        """What the switch says once it says `off`, at the latest at the limit; until then it may be too busy to say."""
        end = self.clock.monotonic() + POWER_SETTLE_S
        while True:
            late = self.clock.monotonic() >= end
            try:
                state = await power.state(self.source.host)
            except FailedError:
                if late:
                    raise
            else:
                if late or state is PowerState.OFF:
                    return state
            await self.clock.sleep(POWER_LOOK_S)

    async def _silent(self) -> Proof | None:
        """The switch says off: then no write is accepted there, and nothing at all answers.

        A lie strikes out the switch and not the attempt: until the old lease has run out the old primary may still
        write by right, and the lease is judged by a look of its own after that.
        """
        result = await self._write(PROBE_LIMIT_S)
        if result.verdict is WriteVerdict.ACCEPTED:
            return self._nothing(f"the power switch lies: it says off, {self.source.host} still acknowledges writes")
        if result.answered or result.verdict is not WriteVerdict.UNREACHABLE:
            return self._nothing(f"the power switch says off, but {self.source.address} answers: {result.saw}")
        said = self._observation(
            "power-state", f"the power switch says that {self.source.host} is off", {"power": "off"}
        )
        return Proof(ReceiptClass.POWERED_OFF, [said, self._saw(result)], limits=POWER_LIMIT)

    async def _write(self, limit_s: float) -> WriteProbeResult:
        return await self.probe.try_write(
            address=self.source.address, port=self.source.port, generation=self.generation, timeout_s=limit_s
        )

    def _nothing(self, finding: str) -> Proof | None:
        self.findings.append(finding)
        self.log(finding)
        return None

    def _lied(self, result: WriteProbeResult) -> NotFencedError:
        return NotFencedError(
            f"{self.source.host} still acknowledges writes: {result.saw}",
            effect=Effect.PARTIAL,
            hint="power it off by other means and attach evidence; nothing was promoted",
            address=self.source.address,
        )

    def _told(self, status: AgentStatus) -> Observation:
        facts = {"generation": status.generation, "timeline": status.timeline or 0}
        saw = f"the fence agent says: edge {status.edge}, database {status.role}, no lease held"
        told = self._observation("fence-agent", saw, facts)
        return told.model_copy(update={"by": self.source.host})

    def _saw(self, result: WriteProbeResult) -> Observation:
        facts = {"verdict": str(result.verdict), "elapsed_s": round(result.elapsed_s, 4)}
        return self._observation("write-probe", f"{self.source.address}: {result.saw}"[:1000], facts)

    def _observation(self, how: str, saw: str, facts: dict[str, Any]) -> Observation:
        return Observation(by=self.vantage, how=how, saw=saw, at=self.clock.now(), facts=facts)
