"""Give a held host its place as primary back: after a demotion or fence whose run ended half-way, or a lost memory.

Never under the generation that was handed over. The generation is raised by compare-and-set in the quorum store, from
the one that stands to the next one, for this host. Where the run has not raised it, exactly one of this and the run's
own raise succeeds. Where it has, this one succeeds only while this host is still who was given a lease last: a
promotion takes the lease of its generation first, so then nobody was promoted, and the target cannot take that lease
any more. Afterwards every receipt of the old generations is dead, because a promotion needs the quorum's word that its
own run raised its generation. Repeating it after a crash goes on where it stood.
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
    run_id = state.hold_run
    generation = state.generation if state.hold == "forgotten" else state.hold_generation
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
        if agent.doubts(now) or agent.doubt is not None:
            raise _stale(now.generation, str(agent.doubt), generation)
        repeated = agent.state.hold == "none" and has_raised(agent, now, generation, run_id)
        if not repeated:
            check_hold(agent, generation, run_id)
            check_quorum(agent, now, generation, run_id)
            now = await raise_for(agent, now, generation, run_id)
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
    return now.generation > generation and (now.primary, now.changed_by) == (agent.host, readmission(run_id))


def check_quorum(agent: FenceAgent, now: LeaseState, generation: int, run_id: str) -> None:
    """The generation stands and is this host's; or it was raised for another one that was never given its lease; or
    this very readmission has raised it already. And nobody else holds the lease.

    Raises:
        StaleGenerationError: it was raised for somebody who may be promoted, or somebody holds the lease.
    """
    raised = has_raised(agent, now, generation, run_id)
    if not raised and (now.generation, now.primary) != (generation, agent.host) and not _abandoned(agent, now):
        raise _stale(
            now.generation,
            f"generation {now.generation} belongs to {now.primary} since {now.changed_by}, and the last lease was "
            f"{now.last_holder or 'nobody'}'s",
            generation,
            f"{now.primary} may be promoted: resume that run, or switch unplanned from generation {now.generation}; "
            f"{agent.host} then follows (`hyops fence rejoin`)",
        )
    if now.holder is not None and not (raised and now.holder == agent.host):
        raise _stale(now.generation, f"{now.holder} holds the lease", generation, "wait until it has run out")


async def raise_for(agent: FenceAgent, now: LeaseState, generation: int, run_id: str) -> LeaseState:
    """The one compare-and-set that decides: after it no run can promote with what it got from this host."""
    raised = has_raised(agent, now, generation, run_id)
    return await agent.parts.store.raise_generation(
        agent.service,
        expected=now.generation - 1 if raised else now.generation,
        primary=agent.host,
        run_id=readmission(run_id),
        last_holder=None if now.primary == agent.host else agent.host,
    )


def _abandoned(agent: FenceAgent, now: LeaseState) -> bool:
    """Raised for another host, and nobody but this one was ever given a lease since it served."""
    return now.generation > agent.state.hold_generation and now.last_holder == agent.host


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
