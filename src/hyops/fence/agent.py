"""The fence agent: one per database host, and the only thing that opens the database's edge (FEN-2, INV-1 to INV-3).

`run` takes one turn after another; a turn looks, asks `lease.next_action`, acts, and looks again. What a runner asks
for (`verbs.py`) only changes the state that the turns look at, closes, or uses `hold_lease`. Everything between the
last look (`may_open`) and the kernel's grant is one synchronous stretch, so nothing can slip in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from hyops.errors import HyopsError, PrerequisiteError, RecordError, StaleGenerationError
from hyops.fence import lease as rules
from hyops.fence.lease import LeaseTimes, Seen
from hyops.fence.state import AgentMemory, AgentState
from hyops.model.fence import LeaseState
from hyops.ports.clock import Clock
from hyops.ports.database import LocalDatabase
from hyops.ports.edge import DatabaseEdge, Slot
from hyops.ports.lease import Grant, LeaseStore, QuorumLostError

ACTIONS_MAX = 20  # a turn that has not come to rest by then is a bug; the edge is closed and the next turn starts
STOP_LIMIT_S = 2.0  # after this an immediate stop becomes a kill
START_LIMIT_S = 60.0
READ_LIMIT_S = 2.0


@dataclass(frozen=True)
class AgentParts:
    """All that an agent is made of."""

    store: LeaseStore
    edge: DatabaseEdge
    database: LocalDatabase
    memory: AgentMemory
    clock: Clock
    log: Callable[[str], None]


class FenceAgent:
    """Keeps the lease of `service` on `host` and the edge in step with it."""

    def __init__(self, service: str, host: str, times: LeaseTimes, parts: AgentParts) -> None:
        self.service, self.host, self.times, self.parts = service, host, times, parts
        self.state = parts.memory.load() or AgentState(service=service, host=host)
        if (self.state.service, self.state.host) != (service, host):
            raise RecordError(f"the agent's memory is of {self.state.service} on {self.state.host}, not of this host")
        self.grant: Grant | None = None
        self.lease: LeaseState | None = None
        self.why = "starting"
        self.busy = False
        self.edge_open = False
        self._asked = False
        self._renewed_at = float("-inf")
        self._lost_at: float | None = None
        self._lease_lock = asyncio.Lock()
        self._wake = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: one turn after another. Leaves the edge closed and the lease given up."""
        self.parts.edge.install()
        try:
            while not stop.is_set():
                self._wake.clear()
                wait_s = await self._safe_turn()
                await _first_of(stop, self._wake, wait_s)
        finally:
            self.close_edge("the agent stops")
            await self.give_up_lease()

    async def turn(self) -> float:
        """Act until there is nothing left to do now; returns how long that lasts."""
        self.lease, self._asked = None, False
        self._keep_installed()
        for _ in range(ACTIONS_MAX):
            action = rules.next_action(self.seen(), self.times)
            match action:
                case rules.Wait():
                    self.why = action.why
                    return action.seconds
                case rules.Extend():
                    self.parts.edge.grant(self.parts.edge.arm(self.times.ttl_s))
                    self.why = "open without a lease: the quorum is silent and on_loss is stay"
                    return self.times.renew_s
                case rules.LetRead():
                    self.parts.edge.read(READ_LIMIT_S)
                    self.why = "standby"
                    return self.times.renew_s * 2
                case _:
                    await self._act(action)
        raise HyopsError(f"the fence agent does not come to rest: {rules.next_action(self.seen(), self.times)}")

    def _keep_installed(self) -> None:
        """Without its rules the edge is open to everybody: somebody flushed them, so close first and ask later."""
        if not self.parts.edge.state().installed:
            self.parts.log("the edge's rules were gone: installed again, closed")
            self.edge_open = False
            self.parts.edge.install()

    def seen(self) -> Seen:
        """All that decides, as it is now."""
        return Seen(
            now=self.parts.clock.monotonic(),
            state=self.state,
            role=self.parts.database.role(),
            edge_open=self.edge_open,
            grant=self.grant,
            lease=self.lease,
            asked=self._asked,
            renewed_at=self._renewed_at,
            lost_at=self._lost_at,
            busy=self.busy,
        )

    def remember(self, state: AgentState) -> None:
        """Durably first, then in effect."""
        self.parts.memory.save(state)
        self.state = state

    def restrict(self, state: AgentState) -> None:
        """In effect first: what only forbids must not wait for a disk. Raises when it could not be written."""
        self.state = state
        self.parts.memory.save(state)

    def close_edge(self, why: str) -> None:
        """At once, whatever else is under way. Counts as open until the kernel has closed it."""
        self.parts.edge.close()
        self.edge_open = False
        self.parts.log(f"edge closed: {why}")

    def drain_edge(self, why: str, limit_s: float) -> None:
        """Closed to all but the peers, in one step: one packet of theirs that met a closed edge would be answered by
        a reset, and the standby would be cut off from the last rows of a primary that hands over."""
        try:
            self.parts.edge.drain(limit_s)
        except HyopsError:
            self.close_edge(f"could not drain: {why}")
            raise
        self.edge_open = False
        self.parts.log(f"edge closed but for the peers: {why}")

    def wake(self) -> None:
        """Take the next turn now."""
        self._wake.set()

    async def hold_lease(self) -> None:
        """Acquire (or renew) the lease of the generation in `state` and open the edge if all is as it must be.

        Raises:
            StaleGenerationError: no right to it. QuorumLostError: silence.
        """
        async with self._lease_lock:
            generation, held = self.state.generation, self.grant
            slot = self.parts.edge.arm(self.times.ttl_s)  # the kernel counts from before anything is sent
            store, ttl_s = self.parts.store, self.times.ttl_s
            if held is None:
                grant = await store.acquire(self.service, self.host, generation, ttl_s)
            else:
                grant = await store.renew(self.service, self.host, generation, held, ttl_s)
            if self.grant is not held:  # given up meanwhile: what came back is not wanted any more
                with contextlib.suppress(QuorumLostError):
                    await store.release(self.service, self.host, grant)
                return
            self.grant = grant
            self._open(slot, generation)

    async def give_up_lease(self) -> None:
        """After the edge was closed: others need not wait for the lease to run out."""
        grant, self.grant = self.grant, None
        if grant is not None and not self.edge_open and self.parts.clock.monotonic() < grant.deadline:
            with contextlib.suppress(QuorumLostError):  # then it runs out by itself
                await self.parts.store.release(self.service, self.host, grant)

    def _open(self, slot: Slot, generation: int) -> None:
        seen = self.seen()
        self._renewed_at = seen.now
        if rules.may_open(seen, generation):
            if not self.edge_open:
                self.parts.log(f"edge open under generation {generation}")
            self.edge_open, self._lost_at = True, None  # before the effect: whoever fails after it must close
            self.parts.edge.grant(slot)

    async def _act(self, action: rules.Action) -> None:
        match action:
            case rules.Ask():
                self._asked = True
                with contextlib.suppress(QuorumLostError):
                    self.lease = await self.parts.store.state(self.service)
            case rules.Learn():
                self.parts.log(f"generation {action.generation} belongs to {action.primary}")
                keep = self.remember if action.primary == self.host else self.restrict
                keep(self.state.learnt(action.generation, action.primary))
            case rules.Close():
                await self._close(action.why)
            case rules.Stop():
                await self._stop(action)
            case rules.Start():
                self.parts.log("the lease is back: starting the database")
                self.remember(self.state.model_copy(update={"stopped_for_lease": False}))
                await self.parts.database.start(limit_s=START_LIMIT_S)
            case rules.Acquire() | rules.Renew():
                await self._renew()

    async def _renew(self) -> None:
        self._asked = True
        before = self.grant
        try:
            await self.hold_lease()
        except QuorumLostError:
            return
        except StaleGenerationError as exc:
            self.parts.log(exc.message)
            if self.grant is before:
                self.grant = None
            self._asked = False  # it was answered: look what stands now

    async def _close(self, why: str) -> None:
        if self.edge_open:
            self.close_edge(why)
            self._lost_at = self.parts.clock.monotonic()
        await self.give_up_lease()

    async def _stop(self, action: rules.Stop) -> None:
        self.parts.log(f"stopping the database: {action.why}")
        rewind = self.state.needs_rewind or not action.for_lease
        stopped = {"stopped_for_lease": action.for_lease, "needs_rewind": rewind}
        try:
            self.restrict(self.state.model_copy(update=stopped))
        except PrerequisiteError as exc:
            self.parts.log(exc.message)
        await self.parts.database.stop(mode="immediate", limit_s=STOP_LIMIT_S)

    async def _safe_turn(self) -> float:
        """A fault of one turn closes the edge and is told; the next turn tries again (a service's loop, STYLE.md)."""
        try:
            return await self.turn()
        except Exception as exc:  # noqa: BLE001  # one of the three homes of a catch-all
            self.why = f"{type(exc).__name__}: {exc}"
            self.parts.log(f"turn failed: {self.why}")
            seen = self.seen()
            if self.edge_open and (seen.grant is None or seen.now >= seen.grant.deadline):
                try:
                    self.close_edge("a turn failed without a lease")
                except HyopsError as fault:  # the kernel's own countdown ends it; the next turn tries again
                    self.parts.log(f"edge not closed: {fault.message}")
            return self.times.renew_s


async def _first_of(stop: asyncio.Event, wake: asyncio.Event, limit_s: float) -> None:
    """Wait for either event or the limit."""
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(wake.wait())]
    try:
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
