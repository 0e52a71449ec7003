"""The quorum store as this product needs it: one generation and one lease holder per service (FEN-2, GEN-1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hyops.model.fence import LeaseState


class QuorumLostError(Exception):
    """No quorum answered in time. Silence is not an answer: the caller must act as if nothing were known."""


@dataclass(frozen=True)
class Grant:
    """A held lease. `deadline` is on the holder's monotonic clock, counted from before the renewal was sent.

    `guarded` is what the holder said of its edge with it, and what the store tells the others.
    """

    lease_id: int
    deadline: float
    guarded: bool = True


class LeaseStore(Protocol):
    """Linearizable reads and compare-and-set; every call raises QuorumLostError within its time limit."""

    async def state(self, service: str) -> LeaseState:
        """Generation, primary and present holder; raises RecordError when the service has no (readable) one."""

    async def initialise(self, service: str, generation: int, primary: str) -> LeaseState:
        """Create the service's first generation; returns what stands if it exists."""

    async def raise_generation(
        self, service: str, *, expected: int, primary: str, run_id: str, last_holder: str | None = None
    ) -> LeaseState:
        """Compare-and-set `expected` -> `expected + 1` for `primary`; ends every renewal under `expected`.

        With `last_holder`, in the same compare-and-set: only while that host is who was given a lease last. Calling it
        again with the same `run_id` returns the raised state.

        Raises:
            StaleGenerationError: the generation is not `expected`, and not `expected + 1` by this run; or somebody
            else was given a lease since; or the record is a foreign one (`LeaseState.foreign`), which ends acquiring
            and renewing too.
        """

    async def restore_generation(
        self, service: str, *, before: LeaseState, generation: int, primary: str, by: str
    ) -> LeaseState:
        """After the store was restored from a snapshot: compare-and-set `before`, as it was read, to `generation`.

        `primary` is the last holder from then on. `by` begins with `restore:`; called again with the same words, it
        returns what stands.

        Raises:
            StaleGenerationError: it is not as it was read any more, or somebody else holds a lease.
        """

    async def acquire(self, service: str, host: str, generation: int, ttl_s: float) -> Grant:
        """Become the holder; refused unless the generation is current, `host` is its primary and no one holds it.

        Only a host whose edge closes by itself asks for it; whatever it said of itself as an unguarded one is over. It
        is the `last_holder` from then on, in the same step, for as long as nobody else is given a lease.

        Raises:
            StaleGenerationError: another generation, another primary, or somebody else holds the lease.
        """

    async def renew(
        self, service: str, host: str, generation: int, grant: Grant, ttl_s: float, *, guarded: bool
    ) -> Grant:
        """Prolong; refused when the generation has moved on or the lease is gone.

        An unguarded holder is published as such before anything is prolonged, and the word outlives its lease; the
        holder says so too when the generation has moved on, for as long as it is the holder. A guarded one takes its
        own word back.
        """

    async def release(self, service: str, host: str, grant: Grant) -> None:
        """Give the lease up, after writes have been stopped."""

    async def wait_no_holder(self, service: str, generation: int, timeout_s: float) -> bool:
        """True as soon as no holder of `generation` or older is left (by watch); False at the time limit."""

    async def close(self) -> None:
        """Drop the connections; what is held stays held."""
