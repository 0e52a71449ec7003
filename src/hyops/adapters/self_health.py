"""Whether this process may speak for what it sees: it gets turns, its clock runs evenly, its network answers (DEC-4).

A prober that is starved, paused or cut off sees every primary die. What it says then is marked, with the reason, and
is no vote. Each fault speaks at once, by whoever asks first, and for a while after it has ended.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Sequence

import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype

LAG_CHECK_S = 0.05
LAG_MAX_S = 0.2  # later than this and a time-out here may be our own fault
STEP_MAX_S = (
    0.5  # wall and monotonic clock apart by more, between two beats: set by somebody, or the machine was paused
)
UNWELL_FOR_S = 1.0
WITNESS_EVERY_S = 0.2
WITNESS_LIMIT_S = 0.6
WITNESS_FRESH_S = 0.5  # shorter than any `confirm_for_s` worth having: an answer this old vouches for nothing


class SelfHealth:
    """Judged at every look, as a look may get its turn before `watch` does."""

    def __init__(
        self,
        witnesses: Sequence[str] = (),
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`witnesses` as in `Watchlist`; the clocks can be moved by a test."""
        self._witnesses = tuple(witnesses)
        self._monotonic, self._wall = monotonic, wall
        self._reason, self._unwell_until = "", 0.0
        self._beat, self._apart = monotonic(), wall() - monotonic()
        self._answered: float | None = None

    @property
    def well(self) -> bool:
        """Whether what is seen now may count."""
        return self.unwell is None

    @property
    def unwell(self) -> str | None:
        """Why it may not; None when all is well."""
        now = self._monotonic()
        late_s, step_s = now - self._beat, self._wall() - now - self._apart
        if late_s > LAG_CHECK_S + LAG_MAX_S:
            self._say(now, f"it got no turn for {late_s:.2f} s")
        if abs(step_s) > STEP_MAX_S:
            self._apart += step_s
            self._say(now, f"its clock was moved by {step_s:+.1f} s")
        if now < self._unwell_until:
            return self._reason
        if self._witnesses and (self._answered is None or now - self._answered > WITNESS_FRESH_S):
            return f"none of its witnesses answers ({', '.join(self._witnesses)})"
        return None

    async def watch(self) -> None:
        """Measure for ever."""
        asking = [asyncio.create_task(self._ask(witness)) for witness in self._witnesses]
        try:
            self._beat = self._monotonic()
            while True:
                await asyncio.sleep(LAG_CHECK_S)
                _ = self.unwell
                self._beat = now = self._monotonic()
                self._apart = self._wall() - now  # slewing, which is slow, adds up to no step
        finally:
            for task in asking:
                task.cancel()

    def _say(self, now: float, reason: str) -> None:
        self._reason, self._unwell_until = reason, now + UNWELL_FOR_S

    async def _ask(self, witness: str) -> None:
        while True:
            began = self._monotonic()
            if await answers(witness):
                self._answered = max(self._answered or began, began)  # it answered a question of then, not of now
            await asyncio.sleep(max(0.0, WITNESS_EVERY_S - (self._monotonic() - began)))


async def answers(witness: str) -> bool:
    """Whether a witness is reached within the limit; a refused connection is an answer too. Never raises."""
    scheme, _, place = witness.partition("://")
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        async with asyncio.timeout(WITNESS_LIMIT_S):
            if scheme == "dns":
                query = dns.message.make_query(".", dns.rdatatype.NS)
                await dns.asyncquery.udp(query, host, port=int(port), ignore_unexpected=True, ignore_errors=True)
                return True
            _, writer = await asyncio.open_connection(host, int(port))
            writer.transport.abort()
            return True
    except OSError as exc:
        return exc.errno == errno.ECONNREFUSED
    except (dns.exception.DNSException, ValueError, OverflowError):
        return False
