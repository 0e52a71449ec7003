"""The fence agent: one per database host, and the only thing that opens the database's edge (FEN-2, INV-1 to INV-3).

`run` takes one turn after another; a turn looks, asks `lease.next_action`, acts, and looks again. What a runner asks
for (`verbs.py`) only changes the state that the turns look at, closes, or uses `hold_lease`. Everything between the
last look (`may_open`) and the kernel's grant is one synchronous stretch, so nothing can slip in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hyops.errors import Effect, HyopsError, RecordError, StaleGenerationError, TargetError, foreign
from hyops.fence import lease as rules
from hyops.fence.doubt import behind, not_outrun, untrue
from hyops.fence.lease import LeaseTimes, Seen
from hyops.fence.state import AgentMemory, AgentState, recall
from hyops.model.fence import LeaseState
from hyops.ports.clock import Clock
from hyops.ports.database import LocalDatabase, Role
from hyops.ports.edge import DatabaseEdge, EdgeState, Slot
from hyops.ports.lease import Grant, LeaseStore, QuorumLostError

ACTIONS_MAX = 20  # a turn that has not come to rest by then is a bug; the edge is closed and the next turn starts
STOP_LIMIT_S = 2.0  # after this an immediate stop becomes a kill
START_LIMIT_S = 60.0
READ_LIMIT_S = 2.0
DRAIN_AGAIN_S = 10.0
RETRY_MAX_S = 2.0  # between attempts to fence a host that resists


@dataclass(frozen=True)
class AgentParts:
    """All that an agent is made of."""

    store: LeaseStore
    edge: DatabaseEdge
    database: LocalDatabase
    memory: AgentMemory
    clock: Clock
    log: Callable[[str], None]
    members: frozenset[str] = frozenset()
    """Whose generation may be learnt; empty: anybody's."""


class FenceAgent:
    """Keeps the lease of `service` on `host` and the edge in step with it."""

    def __init__(self, service: str, host: str, times: LeaseTimes, parts: AgentParts) -> None:
        self.service, self.host, self.times, self.parts = service, host, times, parts
        self.state = recall(service, host, parts.memory, parts.log)
        if (self.state.service, self.state.host) != (service, host):
            raise RecordError(f"the agent's memory is of {self.state.service} on {self.state.host}, not of this host")
        self.grant: Grant | None = None
        self.lease: LeaseState | None = None
        self.why = "starting"
        self.busy = False
        self.edge_open = False
        self.edge_fault: str | None = None
        self.doubt: str | None = None
        self._asked = False
        self._failed_turns = 0
        self._resists = False
        self._renewed_at = float("-inf")
        self._lost_at: float | None = None
        self._lease_lock = asyncio.Lock()
        self._wake = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: one turn after another. Leaves the edge closed, or the database stopped, and the lease given
        up."""
        self.install_edge()
        try:
            while not stop.is_set():
                self._wake.clear()
                wait_s = await self._safe_turn()
                await _first_of(stop, self._wake, wait_s)
        finally:
            if not self.try_close("the agent stops") and self.role() in ("primary", "unknown"):
                await self.stop_database()
            await self.give_up_lease()

    def install_edge(self) -> bool:
        """Closed, before anything else; False (and `edge_fault`) when it could not be. Of an agent that was killed in
        the middle of a demotion the rules stand, and are closed to all but the standbys (`handover.py`)."""
        edge, going_on = self.parts.edge, self.state.handing_over() and self._rules_stand()
        done = self._edge_does((lambda: edge.drain(DRAIN_AGAIN_S)) if going_on else edge.install)
        self.edge_open = not done
        return done

    async def turn(self) -> float:
        """Act until there is nothing left to do now; returns how long that lasts."""
        self.lease, self._asked = None, False
        self._look_at_edge()
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

    def _look_at_edge(self) -> None:
        """Without its rules the edge is open to everybody: somebody flushed them, so close first and ask later."""
        edge = self.read_edge()
        if edge is None:
            self.edge_open = True  # nobody knows: it counts as open until it has been closed
        elif not edge.installed:
            self.parts.log("the edge's rules were gone: installing them again, closed")
            self.install_edge()
        else:
            self.edge_fault = None

    def read_edge(self) -> EdgeState | None:
        """What the kernel says now; None (and `edge_fault`) when it does not say."""
        found: list[EdgeState] = []
        self._edge_does(lambda: found.append(self.parts.edge.state()), mended=False)
        return found[0] if found else None

    def _edge_does(self, act: Callable[[], object], *, mended: bool = True) -> bool:
        """Whether the edge did it; `edge_fault` says why not, and `mended` clears it."""
        try:
            with foreign():  # the next rung must be taken all the same
                act()
        except HyopsError as exc:
            if exc.message != self.edge_fault:
                self.parts.log(f"the edge fails: {exc.message}")
            self.edge_fault = exc.message
            return False
        if mended:
            self.edge_fault = None
        return True

    def role(self) -> Role:
        """What the database is; one that cannot be looked at is `unknown`, and takes writes for all we know."""
        try:
            return self.parts.database.role()
        except (HyopsError, OSError) as exc:
            self.parts.log(f"the database cannot be looked at: {exc}")
            return "unknown"

    def seen(self) -> Seen:
        """All that decides, as it is now."""
        return Seen(
            now=self.parts.clock.monotonic(),
            state=self.state,
            role=self.role(),
            edge_open=self.edge_open,
            grant=self.grant,
            lease=self.lease,
            asked=self._asked,
            renewed_at=self._renewed_at,
            lost_at=self._lost_at,
            busy=self.busy,
            edge_fault=self.edge_fault,
        )

    def fencing(self) -> str:
        """What keeps this host from serving without a right (`lease.fencing`), for `status`."""
        return rules.fencing(self.seen(), self.times)

    def remember(self, state: AgentState) -> None:
        """Durably first, then in effect. What the quorum said before it is dropped (`doubt.not_outrun`)."""
        self.parts.memory.save(state)
        self.state, self.lease = state, not_outrun(self.lease, state)

    def restrict(self, state: AgentState) -> None:
        """In effect first: what only forbids must not wait for a disk. Raises when it could not be written."""
        self.state = state
        self.parts.memory.save(state)

    def close_edge(self, why: str) -> None:
        """At once, whatever else is under way. Counts as open until the kernel has closed it."""
        self.parts.edge.close()
        self.edge_open = False
        self.parts.log(f"edge closed: {why}")

    def try_close(self, why: str) -> bool:
        """`close_edge` where something has to follow in any case; False (and `edge_fault`) when it failed."""
        done = self._edge_does(lambda: self.close_edge(why))
        self.edge_open = not done
        return done

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

    def doubts(self, now: LeaseState) -> bool:
        """Such a record is never learnt, and counts as silence until it is right again; `doubt` says why."""
        why = untrue(now, self.parts.members)
        if why is not None and why != self.doubt:
            self.parts.log(why)
        self.doubt = why or behind(now, self.state)
        return why is not None

    def wake(self) -> None:
        """Take the next turn now."""
        self._wake.set()

    async def hold_lease(self) -> None:
        """Acquire (or renew) the lease of the generation in `state` and open the edge if all is as it must be.

        Raises:
            StaleGenerationError: no right to it. QuorumLostError: silence.
            TargetError: a new one is wanted, and the edge would not close by itself at its end.
        """
        async with self._lease_lock:
            generation, held = self.state.generation, self.grant
            slot = self._arm(held)  # the kernel counts from before anything is sent
            guarded = slot is not None and self._rules_stand()
            store, ttl_s = self.parts.store, self.times.ttl_s
            if held is None:
                if not guarded:
                    raise TargetError(f"the edge of {self.host} has no rules", effect=Effect.NONE, hint="mend it first")
                grant = await store.acquire(self.service, self.host, generation, ttl_s)
            else:
                grant = await store.renew(self.service, self.host, generation, held, ttl_s, guarded=guarded)
            if self.grant is not held:  # given up meanwhile: what came back is not wanted any more
                with contextlib.suppress(QuorumLostError):
                    await store.release(self.service, self.host, grant)
                return
            self.grant = grant
            self._open(slot, generation)

    async def give_up_lease(self) -> None:
        """After the edge was closed, and never before: others need not wait for the lease to run out."""
        if self.edge_open:
            return
        grant, self.grant = self.grant, None
        if grant is not None and self.parts.clock.monotonic() < grant.deadline:
            with contextlib.suppress(QuorumLostError):  # then it runs out by itself
                await self.parts.store.release(self.service, self.host, grant)

    def _arm(self, held: Grant | None) -> Slot | None:
        """None where a lease that is held must be kept although the edge fails; a new one is not asked for then."""
        if held is None:
            return self.parts.edge.arm(self.times.ttl_s)
        armed: list[Slot] = []
        self._edge_does(lambda: armed.append(self.parts.edge.arm(self.times.ttl_s)), mended=False)
        return armed[0] if armed else None

    def _rules_stand(self) -> bool:
        """Read from the kernel now (half a millisecond), never remembered: it is what a renewal says of its edge."""
        edge = self.read_edge()
        return edge is not None and edge.installed

    def _open(self, slot: Slot | None, generation: int) -> None:
        seen = self.seen()
        self._renewed_at = seen.now
        if slot is not None and rules.may_open(seen, generation):
            if not self.edge_open:
                self.parts.log(f"edge open under generation {generation}")
            self.edge_open, self._lost_at = True, None  # before the effect: whoever fails after it must close
            self.parts.edge.grant(slot)

    async def _act(self, action: rules.Action) -> None:
        match action:
            case rules.Ask():
                self._asked, before = True, self.state.generation
                with contextlib.suppress(QuorumLostError):
                    now = await self.parts.store.state(self.service)
                    if self.state.generation in (before, now.generation):  # else it is older by right: ask again later
                        self.lease = None if self.doubts(now) else now
            case rules.Learn():
                self.parts.log(f"generation {action.generation} belongs to {action.primary}")
                keep = self.remember if action.primary == self.host else self.restrict
                keep(self.state.learnt(action.generation, action.primary, going_on=action.going_on))
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
            if not self.try_close(why):
                return  # the turn goes on with the fault in view
            self._lost_at = self.parts.clock.monotonic()
        await self.give_up_lease()

    async def _stop(self, action: rules.Stop) -> None:
        self.parts.log(f"stopping the database: {action.why}")
        rewind = self.state.needs_rewind or not action.for_lease
        stopped = {"stopped_for_lease": action.for_lease, "needs_rewind": rewind}
        try:
            self.restrict(self.state.model_copy(update=stopped))
        except (HyopsError, OSError) as exc:
            self.parts.log(f"not remembered over a restart: {exc}")
        await self.stop_database()

    async def stop_database(self) -> None:
        """At once; where the server does not go, every process of it is killed.

        Raises:
            TargetError: something of it is left: this host is not fenced.
        """
        database = self.parts.database
        await self._tried(database.stop(mode="immediate", limit_s=STOP_LIMIT_S), "not stopped, killing it")
        self._resists = True
        if self.role() in ("primary", "unknown"):
            await self._tried(database.kill(limit_s=STOP_LIMIT_S), "not killed")
        if (left := self.role()) in ("primary", "unknown"):
            raise TargetError(f"{self.host} is {self.fencing()}: its database is {left} after a stop and a kill")
        self._resists = False

    async def _tried(self, act: Awaitable[None], otherwise: str) -> None:
        """What fails is told and not believed: whoever calls this looks at what is left."""
        try:
            with foreign():
                await act
        except HyopsError as exc:
            self.parts.log(f"the database was {otherwise}: {exc}")

    async def _safe_turn(self) -> float:
        """A fault of one turn closes the edge and is told; the next turn tries again (a service's loop, STYLE.md)."""
        self._resists = False
        try:
            wait_s = await self.turn()
        except Exception as exc:  # noqa: BLE001  # a service's loop
            self.why = f"{type(exc).__name__}: {exc}"
            self.parts.log(f"turn failed: {self.why}")
            return await self._after_failed_turn()
        self._failed_turns = 0
        return wait_s

    async def _after_failed_turn(self) -> float:
        """Closed, or else stopped, whatever has failed; says when to try again."""
        if rules.may_serve(self.seen(), self.times):
            return self.times.renew_s
        self._failed_turns += 1
        if self.edge_open and not self.try_close("a turn failed without a lease") and not self._resists:
            try:
                with foreign():
                    if self.role() in ("primary", "unknown"):
                        await self.stop_database()
            except HyopsError as exc:  # the next turn tries again
                self.parts.log(f"{self.host} is {self.fencing()}: {exc}")
        return min(RETRY_MAX_S, self.times.renew_s * float(2 ** min(self._failed_turns, 10)))


async def _first_of(stop: asyncio.Event, wake: asyncio.Event, limit_s: float) -> None:
    """Wait for either event or the limit."""
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(wake.wait())]
    try:
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
