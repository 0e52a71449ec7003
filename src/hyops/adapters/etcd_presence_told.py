"""What a running stage tells of itself beside its name: what time it has, and when its mirrors were last confirmed.

It is told anew where it changes (its clock was set, its mirrors fall behind or catch up) and every `EVERY_S`, not at
each sign of life: each telling is one more revision in a store that keeps all of them until it is compacted, and
twelve stages that told it every four seconds would fill etcd's space within weeks. So a reader knows the time of a
telling to within `EVERY_S` and the time that a key may outlive its process; the telling itself names both.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from hyops._version import __version__
from hyops.adapters.clock_system import boottime
from hyops.adapters.etcd_records_session import EtcdSession
from hyops.errors import RecordError
from hyops.ports.lease import QuorumLostError

EVERY_S = 60.0
STEP_S = 1.0  # NTP slews less than that; more was set
BEHIND_MAX = 300
NOT_YET: str | None = "nothing was confirmed yet"


@dataclass(frozen=True)
class Telling:
    """One telling. `behind`: why the mirrors are not confirmed now; `at_s` is of the clock that nobody sets."""

    clock: datetime
    at_s: float
    confirmed_s: float
    behind: str | None


class Told:
    """What one stage tells. `lapse_s`: how long its key may stand after it last looked."""

    def __init__(
        self, session: EtcdSession, lapse_s: float, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._session, self._lapse_s, self._clock = session, lapse_s, clock
        self._since = clock().isoformat(timespec="seconds")
        self._confirmed_at_s, self._behind = boottime(), NOT_YET
        self.last: Telling | None = None
        """What was told last, set by whoever told it."""

    async def look(self) -> None:
        """Find out whether the mirrors are up to date; what cannot be found out is not. In the session's own thread."""
        try:
            async with asyncio.timeout(self._session.call_limit_s):
                await self._session.confirm(counted=False)
        except (QuorumLostError, TimeoutError, RecordError) as exc:
            self._behind = (str(exc) or "no answer in time")[:BEHIND_MAX]
        else:
            self._confirmed_at_s, self._behind = boottime(), None

    def now(self) -> Telling:
        """How it is, as of the last look."""
        at_s = boottime()
        return Telling(self._clock(), at_s, at_s - self._confirmed_at_s, self._behind)

    def news(self, now: Telling) -> bool:
        """Whether it is to be told."""
        if (last := self.last) is None or (last.behind is None) != (now.behind is None):
            return True
        passed_s = now.at_s - last.at_s
        return passed_s >= EVERY_S or abs((now.clock - last.clock).total_seconds() - passed_s) > STEP_S

    def words(self, now: Telling) -> str:
        """The value of the key. An older hyops reads `version` and `since` of it."""
        return json.dumps(
            {
                "version": __version__,
                "since": self._since,
                "clock": now.clock.isoformat(timespec="milliseconds"),
                "confirmed_s": round(now.confirmed_s, 3),
                "behind": now.behind,
                "every_s": EVERY_S,
                "lapse_s": self._lapse_s,
            }
        )
