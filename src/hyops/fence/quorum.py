"""A quorum that is silent for a moment is asked again: one that loses its leader elects another within seconds (FEN-2).

Only silence is asked again, never an answer. That is safe because reads change nothing and a raise says the same when
the same run repeats it (`ports/lease.py`). A store waits itself for what a member may last; what is added here is the
time of an election, which no single request outlives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from hyops.ports.clock import Clock
from hyops.ports.lease import QuorumLostError

T = TypeVar("T")
ELECTION_S = 10.0  # many times what etcd needs with its default time-outs (one to three seconds)
PAUSE_S = 0.05  # a member that refuses at once is not asked in a busy loop


async def heard(ask: Callable[[], Awaitable[T]], clock: Clock, until: float, log: Callable[[str], None]) -> T:
    """What the quorum answers by `until`, which is on `clock`; at least one try.

    Raises:
        QuorumLostError: nobody answered any of the tries.
    """
    while True:
        try:
            return await ask()
        except QuorumLostError as exc:
            if clock.monotonic() + PAUSE_S >= until:
                raise
            log(f"the lease store does not answer ({exc}); asking again")
        await clock.sleep(PAUSE_S)
