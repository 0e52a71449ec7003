"""Give a held host its place as primary back: after a demotion or fence whose run ended half-way, or a lost memory.

Never under the generation that was handed over. The generation is raised by compare-and-set in the quorum store, from
the one that is held to the next one, for this host: exactly one of this and the run's own raise succeeds. When this
one does, every receipt of the old generation is dead, because a promotion needs the quorum's word that its own run
raised it; when the run's did, this is refused. Repeating it after a crash goes on where it stood.
"""

from __future__ import annotations

from hyops.errors import DeadlineError, Effect, NotFencedError, StaleGenerationError, TargetError
from hyops.fence.agent import STOP_LIMIT_S, FenceAgent
from hyops.fence.state import AgentState
from hyops.model.fence import LeaseState
from hyops.ports.lease import QuorumLostError

READMIT = "readmit:"  # no run id has a colon: no run takes this raise for its own


def readmission(run_id: str) -> str:
    """What stands in the quorum store as the raiser."""
    return READMIT + run_id


def held_by(state: AgentState) -> str:
    """Who holds this host, and the safe ways on, for a refusal's hint."""
    run_id, generation = state.hold_run, max(state.generation, state.hold_generation)
    if state.hold == "forgotten":
        return (
            f"on {state.host}, `hyops fence readmit --run {run_id} --generation {generation}` gives it its place back"
        )
    return (
        f"(1) `hyops run resume {run_id}` lets that run go on, or (2) once it is cancelled, "
        f"on {state.host}: `hyops fence readmit --run {run_id} --generation {generation}`"
    )


async def give_place_back(agent: FenceAgent, generation: int, run_id: str, start_limit_s: float) -> None:
    """The whole of it but for the lease and the edge; see the module.

    Raises:
        DeadlineError: no quorum answered; perhaps it was raised. And everything that the parts below raise.
    """
    try:
        now = await agent.parts.store.state(agent.service)
        repeated = agent.state.hold == "none" and has_raised(agent, now, generation, run_id)
        if not repeated:
            check_hold(agent, generation, run_id)
            check_quorum(agent, now, generation, run_id)
            now = await raise_for(agent, generation, run_id)
        if not repeated or agent.role() != "primary":
            await take_place(agent, now, start_limit_s)
    except QuorumLostError as exc:
        raise DeadlineError(f"{agent.host}: no quorum answered: {exc}", hint="do it again when it does") from exc


def check_hold(agent: FenceAgent, generation: int, run_id: str) -> None:
    """Every reason of this host's own not to be readmitted.

    Raises:
        NotFencedError: it is held by another run, or by none. StaleGenerationError: for another generation.
        TargetError: what is on its disk is not a primary, or it cannot be closed.
    """
    state = agent.state
    if state.hold == "none" or state.hold_run is None:
        raise NotFencedError(
            f"{agent.host} is not held by any run", hint="`hyops fence status` shows what it waits for"
        )
    if state.hold_run != run_id:
        raise NotFencedError(f"{agent.host} is {state.hold} by {state.hold_run}, not by {run_id}", hint=held_by(state))
    held_at = state.generation if state.hold == "forgotten" else state.hold_generation
    if held_at != generation:
        raise _stale(held_at, f"{agent.host} is held at generation {held_at}", generation, held_by(state))
    if state.primary is not None and state.primary != agent.host:
        raise _stale(state.generation, f"generation {state.generation} belongs to {state.primary}", generation)
    if not agent.try_close(f"asked to readmit it after {run_id}"):
        raise TargetError(
            f"the edge of {agent.host} fails: {agent.edge_fault}", effect=Effect.NONE, hint="mend it first"
        )
    kind = agent.parts.database.would_start_as()
    if kind != "primary":
        raise TargetError(
            f"the database of {agent.host} would start as {kind}",
            effect=Effect.NONE,
            hint="only a primary is readmitted",
        )


def has_raised(agent: FenceAgent, now: LeaseState, generation: int, run_id: str) -> bool:
    """This very readmission has raised the generation before: it is being repeated."""
    return (now.generation, now.primary, now.changed_by) == (generation + 1, agent.host, readmission(run_id))


def check_quorum(agent: FenceAgent, now: LeaseState, generation: int, run_id: str) -> None:
    """The generation stands and is this host's, held by nobody; or this very readmission has raised it already.

    Raises:
        StaleGenerationError: it was raised for somebody, or somebody holds the lease.
    """
    raised = has_raised(agent, now, generation, run_id)
    if not raised and (now.generation, now.primary) != (generation, agent.host):
        raise _stale(
            now.generation,
            f"generation {now.generation} belongs to {now.primary} since {now.changed_by}",
            generation,
            f"resume that run, or switch unplanned from generation {now.generation}; "
            f"{agent.host} then follows (`hyops fence rejoin`)",
        )
    if now.holder is not None and not (raised and now.holder == agent.host):
        raise _stale(now.generation, f"{now.holder} holds the lease", generation, "wait until it has run out")


async def raise_for(agent: FenceAgent, generation: int, run_id: str) -> LeaseState:
    """The one compare-and-set that decides: after it no run can promote with what it got from this host."""
    return await agent.parts.store.raise_generation(
        agent.service, expected=generation, primary=agent.host, run_id=readmission(run_id)
    )


async def take_place(agent: FenceAgent, raised: LeaseState, start_limit_s: float) -> None:
    """Remember the new place first, then have the database run behind a closed edge; the lease comes after.

    An agent that dies on the way comes back to a database that was stopped for its lease, and goes on by itself.

    Raises:
        TargetError: it was fenced meanwhile.
    """
    agent.busy = True
    try:
        agent.close_edge(f"readmitted under generation {raised.generation}")
        runs = agent.role() == "primary"
        placed = agent.state.placed(raised.generation, agent.host)
        fresh = {"needs_rewind": False, "promotion_run": None, "stopped_for_lease": not runs}
        agent.remember(placed.model_copy(update=fresh))
        if not runs:  # stopped, or still on its way down
            await agent.parts.database.stop(mode="immediate", limit_s=STOP_LIMIT_S)
            await agent.parts.database.start(limit_s=start_limit_s)
            if agent.state.holding():
                raise TargetError(f"{agent.host} was fenced while it was readmitted")
            agent.remember(agent.state.model_copy(update={"stopped_for_lease": False}))
    finally:
        agent.busy = False
        agent.wake()


def _stale(seen: int, why: str, generation: int, hint: str | None = None) -> StaleGenerationError:
    return StaleGenerationError(f"not readmitted under generation {generation}: {why}", hint=hint, seen=seen)
