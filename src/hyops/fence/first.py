"""A service's first generation: created once, and never where anybody remembers or holds one (GEN-1, INV-5)."""

from __future__ import annotations

import asyncio

from hyops.errors import PrerequisiteError, RecordError, StaleGenerationError
from hyops.fence.state import AgentState
from hyops.model.fence import LeaseState
from hyops.ports.lease import LeaseStore, QuorumLostError

LOOK_S = 0.5  # between two looks for a quorum; a store that is down sends no event


def refuse_if_known(known: AgentState | None) -> None:
    """An agent that has seen a generation must not be told that the service is new: the store may have been lost."""
    if known is not None and known.generation > 0:
        raise PrerequisiteError(
            f"this host has seen generation {known.generation}; the service is not new",
            hint="if etcd was lost, restore it and raise the generation above what any host has seen",
        )


async def create(store: LeaseStore, service: str, generation: int, primary: str, wait_s: float) -> LeaseState:
    """Create it; waits up to `wait_s` for a quorum.

    Raises:
        StaleGenerationError: the store has one already. PrerequisiteError: no quorum within the limit.
    """
    end = asyncio.get_running_loop().time() + wait_s
    while True:
        try:
            await _refuse_if_there(store, service)
            now = await store.initialise(service, generation, primary)
        except QuorumLostError as exc:
            if asyncio.get_running_loop().time() >= end:
                raise PrerequisiteError(f"no quorum: {exc}", hint="start two of three etcd members first") from exc
            await asyncio.sleep(LOOK_S)
            continue
        if (now.generation, now.primary, now.changed_by) != (generation, primary, "initialise"):
            raise _exists(now)  # somebody else was faster
        return now


async def _refuse_if_there(store: LeaseStore, service: str) -> None:
    try:
        now = await store.state(service)
    except RecordError:  # none yet; where it is there and damaged, `initialise` leaves it alone and says so
        return
    raise _exists(now)


def _exists(now: LeaseState) -> StaleGenerationError:
    return StaleGenerationError(
        f"{now.service} has generation {now.generation} already, with primary {now.primary}: it is not new",
        hint=f"start the agent; on {now.primary}, where its memory was lost, `hyops fence readmit` gives it its place",
        seen=now.generation,
    )
