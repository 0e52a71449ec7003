"""The fence agent's decisions, without clock, disk or network (FEN-2, INV-1, INV-3).

Rules kept here: the edge is open only while this host is the primary of the newest generation it knows of, nothing is
held, and a lease is held whose deadline has not passed. Silence of the quorum never opens anything. Whoever runs as a
primary without being the current one is stopped. Where the edge cannot be closed or read, the database itself is the
edge: without a right to serve it is stopped at once, and nothing is acquired or started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyops.fence.doubt import behind
from hyops.fence.state import AgentState
from hyops.model.fence import LeaseState
from hyops.ports.database import Role
from hyops.ports.lease import Grant


@dataclass(frozen=True)
class LeaseTimes:
    """Durations of one service's lease, in seconds."""

    ttl_s: float = 2.0
    renew_s: float = 0.25
    stop_after_s: float = 1.0
    on_loss: Literal["self-fence", "stay"] = "self-fence"


@dataclass(frozen=True)
class Seen:
    """All that a decision is made of. `lease` is what the quorum said in this turn; None: nothing yet."""

    now: float
    state: AgentState
    role: Role
    edge_open: bool
    grant: Grant | None = None
    lease: LeaseState | None = None
    asked: bool = False
    renewed_at: float = float("-inf")
    lost_at: float | None = None
    busy: bool = False
    edge_fault: str | None = None
    """Why the edge cannot be relied on in this turn; None: it can."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do for so long; `why` is shown by `status`."""

    seconds: float
    why: str


@dataclass(frozen=True)
class Ask:
    """Read the service's state from the quorum."""


@dataclass(frozen=True)
class Learn:
    """Remember a newer generation, durably, before anything else. `going_on`: see `AgentState.learnt`."""

    generation: int
    primary: str
    going_on: bool = False


@dataclass(frozen=True)
class Acquire:
    """Try to become the holder under the current generation."""

    generation: int


@dataclass(frozen=True)
class Renew:
    """Prolong the lease, and the edge with it."""


@dataclass(frozen=True)
class Extend:
    """Keep the edge open without a lease: `on_loss: stay` only, while the quorum is silent."""


@dataclass(frozen=True)
class Close:
    """Close the edge and forget the lease."""

    why: str


@dataclass(frozen=True)
class Stop:
    """Stop the database at once; `for_lease`: it may be started again once the lease is back."""

    why: str
    for_lease: bool


@dataclass(frozen=True)
class Start:
    """Start the database that was stopped when the lease was lost."""


@dataclass(frozen=True)
class LetRead:
    """Let the monitors reach this standby."""


Action = Wait | Ask | Learn | Acquire | Renew | Extend | Close | Stop | Start | LetRead


def next_action(seen: Seen, times: LeaseTimes) -> Action:
    """The one thing to do now; the caller does it and asks again until it is told to wait."""
    if seen.edge_fault is not None:
        return _learn(seen) or _without_edge(seen, times, seen.edge_fault)
    return _must_close(seen, times) or _must_stop(seen, times) or _may_go_on(seen, times)


def may_open(seen: Seen, generation: int) -> bool:
    """The last look before the edge opens, after every wait: does all that `generation` needs still hold?"""
    return (
        seen.state.generation == generation
        and seen.state.primary == seen.state.host
        and not seen.state.holding()
        and seen.role == "primary"
        and seen.grant is not None
        and seen.now < seen.grant.deadline
    )


def may_serve(seen: Seen, times: LeaseTimes) -> bool:
    """Whether this host has a right to acknowledge writes now, whatever its edge does."""
    wanted = seen.state.primary == seen.state.host and not seen.state.holding()
    held = seen.grant is not None and seen.now < seen.grant.deadline
    return wanted and (held or times.on_loss == "stay")


def _learn(seen: Seen) -> Action | None:
    if seen.lease is not None and (seen.lease.generation > seen.state.generation or seen.state.primary is None):
        return Learn(seen.lease.generation, seen.lease.primary, seen.lease.reinstated)
    return None


def fencing(seen: Seen, times: LeaseTimes) -> Literal["enforced", "degraded", "by stopping", "unfenced"]:
    """What keeps this host from serving without a right: the edge, its own clock alone, its database's end, nothing."""
    if seen.edge_fault is None:
        return "enforced"
    if may_serve(seen, times):
        return "degraded"
    return "unfenced" if seen.role in ("primary", "unknown") else "by stopping"


def _without_edge(seen: Seen, times: LeaseTimes, fault: str) -> Action:
    """The second fault: nothing closes. With a right, serve and say so; without one, the database is stopped.

    A verb that is under way does not put it off: whatever it does, it must not end in an open primary.
    """
    state = seen.state
    if not may_serve(seen, times):
        if seen.role == "primary" or (seen.role == "unknown" and not seen.busy):
            wanted = state.primary == state.host and not state.holding()
            return Stop(f"it has no right to serve, and its edge cannot be closed: {fault}", for_lease=wanted)
        if not seen.asked:
            return Ask()
        return Wait(times.renew_s, f"kept from serving by its database alone ({seen.role}): {fault}")
    if seen.grant is None:  # on_loss: stay
        return Wait(times.renew_s, f"degraded, and without a lease: {fault}") if seen.asked else Ask()
    untold = seen.grant.guarded  # whoever waits for this lease must not take its end for a proof: say so at once
    if not seen.asked and (untold or seen.now >= seen.renewed_at + times.renew_s):
        return Renew()
    return Wait(max(times.renew_s / 4, seen.renewed_at + times.renew_s - seen.now), f"degraded: {fault}")


def _must_close(seen: Seen, times: LeaseTimes) -> Action | None:
    """What may not wait, whatever else goes on."""
    state = seen.state
    if (learn := _learn(seen)) is not None:
        return learn
    if seen.grant is not None and seen.now >= seen.grant.deadline and times.on_loss == "self-fence":
        return Close("the lease ran out")
    wanted = state.primary == state.host and not state.holding()
    if not wanted and (seen.edge_open or (seen.grant is not None and not seen.busy)):
        return Close(f"{state.hold} at generation {state.hold_generation}" if state.holding() else _whose(state))
    if seen.edge_open and seen.grant is None and times.on_loss == "self-fence":
        return Close("no lease is held")
    if seen.edge_open and seen.lease is not None and (why := behind(seen.lease, state)) is not None:
        return Close(why)  # also with `stay`: an older primary may begin there
    return None


def _must_stop(seen: Seen, times: LeaseTimes) -> Action | None:
    """A primary that has no right to be one is stopped, within its bound."""
    state = seen.state
    if seen.busy or seen.role not in ("primary", "unknown"):
        return None
    if state.holding():  # one that hands over is shut down by its verb, cleanly; it is closed and has no lease
        stop = Stop(f"fenced at generation {state.hold_generation}", for_lease=False)
        return stop if state.hold == "fenced" else None
    if seen.role == "primary" and state.primary is not None and state.primary != state.host:
        return Stop(_whose(state), for_lease=False)
    overdue = seen.lost_at is not None and seen.now >= seen.lost_at + times.stop_after_s
    if overdue and seen.grant is None and times.on_loss == "self-fence":
        return Stop("the lease was lost", for_lease=True)
    return None


def _may_go_on(seen: Seen, times: LeaseTimes) -> Action:
    """Everything that needs the quorum's word."""
    state, lease = seen.state, seen.lease
    if state.holding() and state.hold != "forgotten":
        return Wait(times.renew_s, f"{state.hold} at generation {state.hold_generation}")
    if seen.grant is not None:
        if seen.role == "stopped" and state.stopped_for_lease and not seen.busy:
            return Start()
        if seen.now >= seen.renewed_at + times.renew_s or (seen.role == "primary" and not seen.edge_open):
            return Renew() if not seen.asked else Wait(times.renew_s / 4, "the quorum is silent; renewing")
        return Wait(max(0.0, seen.renewed_at + times.renew_s - seen.now), "holds the lease")
    if not seen.asked:
        return Ask()
    if lease is None:
        if times.on_loss == "stay" and seen.edge_open:
            return Extend()
        return Wait(times.renew_s / 2, "no quorum")
    if (why := behind(lease, state)) is not None:
        return Wait(times.renew_s, why)
    if seen.role == "standby" and not seen.busy:
        return LetRead()  # also where the generation is its own already: whoever decides must see that it is there
    if lease.primary != state.host:
        return Wait(times.renew_s, _whose(state))
    if state.holding():
        return Wait(times.renew_s, f"its memory is lost, and generation {state.generation} is its own: readmit it")
    if lease.holder is not None:
        return Wait(times.renew_s / 2, f"waiting for the lease of {lease.holder} to end")
    if not seen.busy and (seen.role == "primary" or (seen.role == "stopped" and state.stopped_for_lease)):
        return Acquire(lease.generation)
    return Wait(times.renew_s, f"the database is {seen.role}")


def _whose(state: AgentState) -> str:
    return f"generation {state.generation} belongs to {state.primary}"
