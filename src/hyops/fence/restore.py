"""After the quorum store was restored from a snapshot: its record is raised past everything that anybody has seen.

Rules kept here: everybody is asked, or left out by name and with a reason; the newest primary goes on and an older one
never does; nobody else may be open or hold a lease at that moment; the record is changed by one compare-and-set of what
was read before anybody was asked. Afterwards everything that was promised under an older generation is dead, and the
store names the new primary as the last holder, because the snapshot's own word about that is as old as the snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hyops.errors import DeadlineError, HyopsError, NotFencedError, PrerequisiteError, StaleGenerationError
from hyops.model.fence import RESTORE, LeaseState
from hyops.ports.hostagent import AgentStatus, HostAgent
from hyops.ports.lease import LeaseStore, QuorumLostError

T = TypeVar("T")
LEASE_LIMIT_S = 10.0


@dataclass(frozen=True)
class Asked:
    """Whom to ask: the members' agents, and by name whatever else knows a generation (runners, DNS authorities)."""

    agents: Mapping[str, HostAgent]
    others: Mapping[str, Callable[[], Awaitable[int]]]


@dataclass(frozen=True)
class LeftOut:
    """Who is not asked, and why: it stands in the quorum store from then on."""

    names: Collection[str] = ()
    reason: str | None = None

    def words(self) -> str:
        """What the record says of it."""
        return f"{RESTORE} without {', '.join(sorted(self.names))}: {self.reason}" if self.names else f"{RESTORE} all"


async def restore_generation(
    store: LeaseStore, service: str, asked: Asked, without: LeftOut, primary: str | None = None
) -> LeaseState:
    """Raise it to one more than the highest that anybody reports, for the newest primary (or for `primary`).

    Raises:
        PrerequisiteError: somebody cannot be asked, the quorum is silent, or the newest primary is not to be told.
        NotFencedError: somebody else is open or holds a lease.
        StaleGenerationError: nothing is to be restored, or somebody acts on the store meanwhile.
    """
    _check(asked, without)
    before = await _state(store, service)
    told = await _members(asked, without)
    seen = {host: status.generation for host, status in told.items()} | await _others(asked, without)
    highest = max([before.generation, *seen.values()])
    chosen = primary or newest(told)
    by = without.words()
    if not before.foreign and before.generation >= max(seen.values(), default=0):
        if before.changed_by == by and before.primary == chosen:
            return before  # repeated
        raise StaleGenerationError(
            f"{service}: the quorum store is not behind: it is at generation {before.generation}, and the highest that "
            f"anybody has seen is {max(seen.values(), default=0)}",
            hint="nothing is to be restored; `hyops fence status` on the hosts says what they wait for",
        )
    _check_primary(chosen, told)
    _check_closed(chosen, told)
    try:
        await _check_lease(store, chosen, before)
        return await store.restore_generation(service, before=before, generation=highest + 1, primary=chosen, by=by)
    except QuorumLostError as exc:
        raise DeadlineError(f"no quorum while the generation was raised: {exc}", hint="do it again") from exc


def newest(told: Mapping[str, AgentStatus]) -> str:
    """The member whose own memory makes it the primary of the highest generation.

    Raises:
        PrerequisiteError: there is none, or a newer generation belongs to a member that was not asked.
    """
    owners = {host: s.generation for host, s in told.items() if s.facts.get("primary") == host and s.role != "standby"}
    if not owners:
        raise PrerequisiteError(
            "no member that was asked remembers to be the primary", hint="name the one that shall serve with --primary"
        )
    chosen = max(owners, key=lambda host: (owners[host], host))
    for host, status in told.items():
        owner = str(status.facts.get("primary") or "")
        if status.generation > owners[chosen] and owner not in told:
            raise PrerequisiteError(
                f"{host} remembers generation {status.generation} of {owner}, which was not asked: it may have served "
                f"after {chosen}",
                hint="bring it back and ask it, or name the one that shall serve with --primary",
            )
    return chosen


def _check(asked: Asked, without: LeftOut) -> None:
    known = {*asked.agents, *asked.others}
    if unknown := sorted(set(without.names) - known):
        raise PrerequisiteError(f"{', '.join(unknown)}: nobody of that name is asked", hint=", ".join(sorted(known)))
    if without.names and not (without.reason or "").strip():
        raise PrerequisiteError("whoever is left out is left out for a reason", hint="add --reason TEXT")


def _check_primary(chosen: str, told: Mapping[str, AgentStatus]) -> None:
    """It can go on: asked, and a primary that runs or was stopped for its lease."""
    if chosen not in told:
        raise PrerequisiteError(f"{chosen} was not asked, so it cannot be made primary", hint="bring its agent back")
    if told[chosen].role == "standby":
        raise PrerequisiteError(
            f"{chosen} is a standby: a record makes no primary of it", hint="restore first, then switch to it"
        )

    for host, status in told.items():
        serves = status.facts.get("primary") == host and status.role != "standby"
        if serves and status.generation > told[chosen].generation:
            raise StaleGenerationError(
                f"{host} was primary at generation {status.generation}, after {chosen} at {told[chosen].generation}",
                hint=f"leave --primary away: {host} goes on",
                seen=status.generation,
            )


def _check_closed(chosen: str, told: Mapping[str, AgentStatus]) -> None:
    """Nobody but the chosen one serves, or could: two places must never acknowledge writes (INV-1)."""
    for host, status in told.items():
        if host != chosen and (status.edge != "closed" or status.holds_lease):
            raise NotFencedError(
                f"{host} is not closed (edge {status.edge}, role {status.role}): it serves on the restored store",
                hint=f"stop the database of {host} first; what it acknowledged is not on {chosen}",
            )


async def _check_lease(store: LeaseStore, chosen: str, before: LeaseState) -> None:
    """A lease in the snapshot lives once more, for as long as it was granted for; one that is renewed does not end."""
    if before.holder in (None, chosen):
        return
    if not await store.wait_no_holder(before.service, before.generation, LEASE_LIMIT_S):
        raise NotFencedError(
            f"{before.holder} holds the lease of generation {before.generation} and renews it: it serves on the "
            f"restored store",
            hint=f"stop the database of {before.holder} first; what it acknowledged is not on {chosen}",
        )


async def _members(asked: Asked, without: LeftOut) -> dict[str, AgentStatus]:
    told = {
        host: await _answer(host, agent.status) for host, agent in asked.agents.items() if host not in without.names
    }
    for host, status in told.items():
        if status.host != host:
            raise PrerequisiteError(
                f"{host} cannot be asked: {status.host} answered in its place",
                hint="see where its address and the runner's way to it (options.access) lead; a proxy to one instance "
                "reaches no other",
            )
    return told


async def _others(asked: Asked, without: LeftOut) -> dict[str, int]:
    return {name: await _answer(name, ask) for name, ask in asked.others.items() if name not in without.names}


async def _answer(name: str, ask: Callable[[], Awaitable[T]]) -> T:
    try:
        return await ask()
    except HyopsError as exc:
        raise PrerequisiteError(
            f"{name} cannot be asked: {exc.message}",
            hint=f"bring it back, or leave it out: --without {name} --reason TEXT",
        ) from exc


async def _state(store: LeaseStore, service: str) -> LeaseState:
    try:
        return await store.state(service)
    except QuorumLostError as exc:
        raise PrerequisiteError(f"no quorum answers: {exc}", hint="start two of three restored members first") from exc


def reported(told: Sequence[int | None], name: str) -> int:
    """The one number that `name` reports.

    Raises:
        PrerequisiteError: it reports none.
    """
    found = [number for number in told if number is not None]
    if not found:
        raise PrerequisiteError(f"{name} reports no generation")
    return max(found)
