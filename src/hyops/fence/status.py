"""What an agent tells of itself and its host. It never claims more than was read: an edge that cannot be read is not
closed, and one without its rules is open (FEN-1)."""

from __future__ import annotations

import asyncio
from typing import Literal

from hyops.errors import DeadlineError, TargetError
from hyops.fence.agent import FenceAgent
from hyops.model.protocol import AGENT_PROTOCOL
from hyops.ports.database import DatabaseFacts
from hyops.ports.edge import EdgeState
from hyops.ports.hostagent import AgentStatus


async def status_of(agent: FenceAgent, facts_limit_s: float) -> AgentStatus:
    """Look at edge, database and lease; a database that does not answer within the limit is told as such."""
    edge, facts, note = agent.read_edge(), DatabaseFacts(role=agent.role()), None
    try:
        async with asyncio.timeout(facts_limit_s):
            facts = await agent.parts.database.facts()
    except (TimeoutError, TargetError, DeadlineError) as exc:
        note = f"{type(exc).__name__}: {exc}"
    return AgentStatus(
        host=agent.host,
        service=agent.service,
        edge=edge_word(edge),
        role=facts.role,
        generation=agent.state.generation,
        holds_lease=agent.grant is not None and agent.parts.clock.monotonic() < agent.grant.deadline,
        timeline=facts.timeline,
        lsn=facts.lsn,
        receive_lsn=facts.receive_lsn,
        replay_lsn=facts.replay_lsn,
        lag_bytes=facts.lag_bytes,
        facts={
            "protocol": AGENT_PROTOCOL,
            "why": agent.why,
            "hold": agent.state.hold,
            "primary": agent.state.primary or "",
            "hold_run": agent.state.hold_run or "",
            "hold_generation": agent.state.hold_generation,
            "needs_rewind": agent.state.needs_rewind,
            "prepared_run": agent.state.prepared_run or "",
            "prepared_generation": agent.state.prepared_generation or 0,
            "fencing": agent.fencing(),
            "edge_fault": agent.edge_fault or "",
            "quorum": agent.doubt or "believed",
            "told_unguarded": agent.grant is not None and not agent.grant.guarded,
            "edge_installed": edge is not None and edge.installed,
            "streaming": facts.streaming,
            "system_identifier": facts.system_identifier or "",
            "database": note or "answers",
        },
    )


def edge_word(edge: EdgeState | None) -> Literal["open", "closed", "unknown"]:
    """What may be claimed of the edge; None: it could not be read."""
    if edge is None:
        return "unknown"
    return "closed" if edge.installed and not edge.open else "open"
