"""A planned demotion on the old primary's host: closed to all but the standbys, shut down cleanly, given up (FEN-2).

It may be begun again at any point, by an agent that was killed on the way and came back. Until then the kernel counts
on, and an agent that comes up half-way leaves the standbys their way in (`FenceAgent.install_edge`): one reset from a
closed edge would cut them off from the last rows. Where that happened all the same, they are waited for before the
database is told to stop, because one that stops with nobody connected waits for nobody.
"""

from __future__ import annotations

import asyncio

from hyops.errors import DeadlineError, TargetError
from hyops.fence.agent import FenceAgent
from hyops.model.fence import DemotionReceipt

LOOK_S = 0.05  # PostgreSQL tells nobody that a standby is back


async def hand_over(agent: FenceAgent, generation: int, run_id: str, limit_s: float) -> DemotionReceipt:
    """Returns where it ended, once that is remembered; `limit_s` is for each of its parts.

    Raises:
        TargetError: it was fenced meanwhile, or did not stop cleanly. DeadlineError: it did not stop in time.
    """
    database, cut_off = agent.parts.database, not agent.edge_open
    agent.busy = True
    try:
        held = {"hold": "demoted", "hold_generation": generation, "hold_run": run_id, "demotion": None}
        agent.remember(agent.state.model_copy(update=held))
        agent.drain_edge(f"demoted by {run_id}", limit_s)
        if cut_off:
            await _standbys_back(agent, limit_s)
            agent.drain_edge(f"demoted by {run_id}", limit_s)
        await database.stop(mode="fast", limit_s=limit_s)
        end = await database.stopped_at()
        demotion = DemotionReceipt(
            host=agent.host,
            generation=generation,
            system_identifier=end.system_identifier,
            timeline=end.timeline,
            last_lsn=end.last_lsn,
            at=agent.parts.clock.now(),
        )
        if (agent.state.hold, agent.state.hold_run) != ("demoted", run_id):
            raise TargetError(f"{agent.host} was fenced while it handed over")
        agent.remember(agent.state.model_copy(update={"demotion": demotion}))
        agent.parts.edge.close()
        await agent.give_up_lease()
    finally:
        agent.busy = False
    return demotion


async def _standbys_back(agent: FenceAgent, limit_s: float) -> None:
    """Return when a standby streams, the database is on its way down, or the limit is over: the runner looks at what
    the standby has in any case."""
    end = agent.parts.clock.monotonic() + limit_s
    while agent.role() == "primary" and agent.parts.clock.monotonic() < end:
        try:
            async with asyncio.timeout(limit_s):
                if (await agent.parts.database.facts()).streaming:
                    return
        except (TargetError, DeadlineError, TimeoutError):  # it shuts down already
            return
        await agent.parts.clock.sleep(LOOK_S)
