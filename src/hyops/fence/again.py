"""A fence agent that is gone for a moment is asked again: an agent that is killed is back within a second (FEN-2).

Only a lost agent or answer is asked again (`AgentLostError`), never a refusal. That is safe because every verb says the
same when the same run repeats it (`verbs.py`). What an earlier try may have done is never forgotten: once an answer was
lost, no later error says that nothing was touched. Nothing tells a runner that an agent is back, so the pauses between
tries grow from a fraction of a restart to a second.

A demotion is not waited for past `until` either, however its agent hangs: what is kept of the step is to take it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hyops.errors import AgentLostError, DeadlineError, Effect, HyopsError
from hyops.model.fence import DemotionReceipt, FenceReceipt
from hyops.ports.clock import Clock
from hyops.ports.driver import StepContext
from hyops.ports.hostagent import AgentStatus, HostAgent

T = TypeVar("T")
PAUSES_S = (0.05, 1.0)  # the first one, doubled up to the last one
RESERVE_S = 5.0  # of a step's time, left to end in good order after an agent was given up: one last try, no effect
AWAY_S = 10.0  # a host that was not reached for so long is down; an agent that restarts is back within a second
LOOK_S = 5.0  # a look (preflight, probe) has a limit of its own that must not pass without a reason being given


class AskedAgain:
    """`HostAgent` over another one. `until` is on `clock`; `unreached`: also where the host was never reached."""

    def __init__(
        self, agent: HostAgent, clock: Clock, until: float, log: Callable[[str], None], *, unreached: bool = False
    ) -> None:
        self._agent, self._clock, self._until, self._log, self._unreached = agent, clock, until, log, unreached

    async def status(self) -> AgentStatus:
        """Look."""
        return await self._ask(self._agent.status)

    async def fence(self, *, generation: int, run_id: str) -> AgentStatus:
        """Close the edge, stop the database."""
        return await self._ask(lambda: self._agent.fence(generation=generation, run_id=run_id))

    async def prepare(self, *, generation: int, run_id: str) -> AgentStatus:
        """Write down what is meant to come."""
        return await self._ask(lambda: self._agent.prepare(generation=generation, run_id=run_id))

    async def demote(self, *, generation: int, run_id: str) -> DemotionReceipt:
        """Hand over; raises DeadlineError where there is no answer by `until`."""
        agent = self._agent
        return await self._ask(lambda: self._in_time(agent.demote(generation=generation, run_id=run_id)))

    async def undo_demote(self, *, generation: int, run_id: str) -> AgentStatus:
        """Serve again."""
        return await self._ask(lambda: self._agent.undo_demote(generation=generation, run_id=run_id))

    async def readmit(self, *, generation: int, run_id: str) -> AgentStatus:
        """Serve again under the next generation."""
        return await self._ask(lambda: self._agent.readmit(generation=generation, run_id=run_id))

    async def promote(
        self, *, receipt: FenceReceipt, generation: int, run_id: str, demotion: DemotionReceipt | None
    ) -> AgentStatus:
        """Become the primary."""
        return await self._ask(
            lambda: self._agent.promote(receipt=receipt, generation=generation, run_id=run_id, demotion=demotion)
        )

    async def follow(self, *, primary: str, generation: int, run_id: str) -> AgentStatus:
        """Become a standby."""
        return await self._ask(lambda: self._agent.follow(primary=primary, generation=generation, run_id=run_id))

    async def _in_time(self, answer: Awaitable[T]) -> T:
        left_s = max(0.0, self._until - self._clock.monotonic())
        try:
            async with asyncio.timeout(left_s) as limit:
                return await answer
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise DeadlineError(
                f"no answer to demote within {left_s:g} s; the rest of the step's time is kept to take it back",
                hint="resume the run: it asks again, and whatever was done by then counts",
            ) from exc

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        pause_s, unknown, reached_at = PAUSES_S[0], False, None
        while True:
            try:
                return await ask()
            except AgentLostError as exc:
                unknown, now = unknown or exc.effect is not Effect.NONE, self._clock.monotonic()
                reached_at = now if exc.reached else reached_at
                worth_it = self._unreached or (reached_at is not None and now - reached_at < AWAY_S)
                if not worth_it or now + pause_s >= self._until:
                    _say_touched(exc, unknown)
                    raise
                self._log(f"{exc.message}; asking again")
            except HyopsError as exc:
                _say_touched(exc, unknown)
                raise
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSES_S[1])


def within_step(
    agent: HostAgent, clock: Clock, context: StepContext, *, unreached: bool = False, undo_s: float = 0.0
) -> AskedAgain:
    """For an effect: asked again while the step has time, less what it needs to give up in good order.

    `undo_s`: what taking it back may last by the limits of its own parts; where the step is too short for that, it gets
    half of what is left. Whoever takes it back asks again too, so he gets another one of these, without `undo_s`.
    """
    left_s = max(0.0, context.deadline - clock.monotonic())
    reserve_s = RESERVE_S if undo_s == 0.0 else max(RESERVE_S, min(undo_s + RESERVE_S, left_s / 2))
    return AskedAgain(agent, clock, context.deadline - reserve_s, context.log, unreached=unreached)


def for_a_look(agent: HostAgent, clock: Clock, context: StepContext) -> AskedAgain:
    """For preflights and probes."""
    return AskedAgain(agent, clock, clock.monotonic() + LOOK_S, context.log)


def _say_touched(error: HyopsError, unknown: bool) -> None:
    """It does not say any more that nothing was touched, where an answer was lost before it."""
    if unknown and error.effect is Effect.NONE:
        error.effect = Effect.UNKNOWN
