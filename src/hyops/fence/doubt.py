"""When a record of the quorum is not acted on, and what the operator is told of it (FEN-2, INV-1, INV-5).

- It names no member: silence until it is right again.
- It was written in another cluster: the store was restored from a snapshot. Nobody acquires, renews or raises there,
  so whoever serves without a lease (`on_loss: stay`) may go on, and nobody else can begin.
- It is older than what this host remembers: restored too, and a host that remembers as little as the record may begin.
  So this one is closed, also with `on_loss: stay`, although it may be the newest primary: it alone cannot know that.

Out of the last two, one command leads: `hyops fence restore-generation` asks everybody, and then raises the record.
"""

from __future__ import annotations

from collections.abc import Collection

from hyops.fence.state import AgentState
from hyops.model.fence import LeaseState

RAISE = "see that it is the right snapshot, then run `hyops fence restore-generation` on a runner"


def untrue(now: LeaseState, members: Collection[str]) -> str | None:
    """Why the record counts as silence; None: it does not."""
    if members and now.primary not in members:
        return f"generation {now.generation} of {now.primary}, which is no member: not learnt"
    if now.foreign:
        return (
            f"the quorum store was restored from a snapshot: its generation {now.generation} of {now.primary} is "
            f"believed by nobody; {RAISE}"
        )
    return None


def behind(now: LeaseState, state: AgentState) -> str | None:
    """Why nothing opens under the record; None: it is as new as this host's memory, or newer."""
    if now.generation >= state.generation:
        return None
    return (
        f"the quorum store is older than this host's memory: it says generation {now.generation} of {now.primary}, and "
        f"generation {state.generation} of {state.primary} was seen here; {RAISE}"
    )


def not_outrun(said: LeaseState | None, state: AgentState) -> LeaseState | None:
    """What the quorum said, unless this host has learnt of a newer generation since: then it is older by right, and no
    sign of a restored store, which would close a primary that was promoted a moment ago."""
    return said if said is not None and said.generation >= state.generation else None
