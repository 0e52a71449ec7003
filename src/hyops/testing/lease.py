"""A lease store in memory, and the contract that it and every real one keep (FEN-2, GEN-1)."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from hyops.errors import RecordError, StaleGenerationError
from hyops.model.fence import LeaseState
from hyops.ports.clock import Clock
from hyops.ports.lease import Grant, LeaseStore, QuorumLostError


@dataclass
class _Service:
    generation: int
    primary: str
    changed_by: str
    holder: tuple[str, int, int] | None = None  # host, generation, lease id
    expires_at: float = 0.0
    unguarded: tuple[str, int] | None = None  # host, generation
    last: tuple[str, int] | None = None  # host, generation
    cluster: str | None = "1"


@dataclass
class MemoryLeaseStore:
    """`LeaseStore` on a test's clock. A quorum does not answer when `silent`; `elect` for a while."""

    clock: Clock
    silent: bool = False
    cluster: str = "1"
    _services: dict[str, _Service] = field(default_factory=dict)
    _leases: int = 0
    _revision: int = 0
    _calls: int = 0  # since `elect`
    _silent_at: int = 0
    _silent_for_s: float = 0.0
    _silent_until: float = 0.0

    def elect(self, *, after: int, for_s: float) -> None:
        """Lose the leader when `after` more calls were answered, and have another one so many seconds later."""
        self._calls, self._silent_at = 0, after + 1
        self._silent_for_s = for_s

    async def state(self, service: str) -> LeaseState:
        """See the port."""
        found = self._get(service)
        return LeaseState(
            service=service,
            generation=found.generation,
            primary=found.primary,
            changed_by=found.changed_by,
            holder=found.holder[0] if found.holder else None,
            holder_generation=found.holder[1] if found.holder else None,
            unguarded=found.unguarded[0] if found.unguarded else None,
            unguarded_generation=found.unguarded[1] if found.unguarded else None,
            last_holder=found.last[0] if found.last else None,
            last_holder_generation=found.last[1] if found.last else None,
            cluster=found.cluster,
            foreign=found.cluster not in (None, self.cluster),
            revision=self._revision,
        )

    def snapshot(self) -> dict[str, _Service]:
        """All that stands now."""
        return copy.deepcopy(self._services)

    def restore(self, snapshot: dict[str, _Service], cluster: str) -> None:
        """As after `etcdctl snapshot restore`, with a token of its own (another `cluster`) or without."""
        self._services, self.cluster = copy.deepcopy(snapshot), cluster

    async def initialise(self, service: str, generation: int, primary: str) -> LeaseState:
        """See the port."""
        self._answers()
        self._services.setdefault(service, _Service(generation, primary, "initialise", cluster=self.cluster))
        return await self.state(service)

    async def raise_generation(
        self, service: str, *, expected: int, primary: str, run_id: str, last_holder: str | None = None
    ) -> LeaseState:
        """See the port."""
        found = self._own(service)
        if found.generation == expected:
            if last_holder is not None and (found.last is None or found.last[0] != last_holder):
                raise StaleGenerationError(f"{found.last} was given a lease last, not {last_holder}")
            found.generation, found.primary, found.changed_by = expected + 1, primary, run_id
            found.cluster = self.cluster
            self._revision += 1
        elif (found.generation, found.changed_by, found.primary) != (expected + 1, run_id, primary):
            raise StaleGenerationError(f"generation is {found.generation}, not {expected}")
        return await self.state(service)

    async def restore_generation(
        self, service: str, *, before: LeaseState, generation: int, primary: str, by: str
    ) -> LeaseState:
        """See the port."""
        found = self._get(service)
        held_by = found.holder[0] if found.holder else None
        if (found.generation, found.cluster) == (before.generation, before.cluster) and held_by in (None, primary):
            found.generation, found.primary, found.changed_by = generation, primary, by
            found.last, found.cluster = (primary, generation - 1), self.cluster
            self._revision += 1
        now = await self.state(service)
        if (now.generation, now.changed_by, now.primary, now.foreign) != (generation, by, primary, False):
            raise StaleGenerationError(f"it is generation {now.generation} of {now.primary}, holder {now.holder}")
        return now

    async def acquire(self, service: str, host: str, generation: int, ttl_s: float) -> Grant:
        """See the port."""
        found = self._own(service)
        if found.generation != generation or found.primary != host or found.holder is not None:
            raise StaleGenerationError(f"{host} has no right to the lease of generation {generation}")
        self._leases += 1
        found.holder, found.expires_at = (host, generation, self._leases), self.clock.monotonic() + ttl_s
        found.last = (host, generation)
        if found.unguarded is not None and found.unguarded[0] == host:
            found.unguarded = None
        return Grant(self._leases, found.expires_at)

    async def renew(
        self, service: str, host: str, generation: int, grant: Grant, ttl_s: float, *, guarded: bool
    ) -> Grant:
        """See the port."""
        found = self._own(service)
        if found.holder == (host, generation, grant.lease_id) and not guarded:
            found.unguarded = (host, generation)
        if found.generation != generation or found.holder != (host, generation, grant.lease_id):
            raise StaleGenerationError(f"{host} has lost the lease of generation {generation}")
        if guarded and found.unguarded == (host, generation):
            found.unguarded = None
        found.expires_at = self.clock.monotonic() + ttl_s
        found.cluster = self.cluster
        return Grant(grant.lease_id, found.expires_at, guarded)

    def write_unstamped(self, service: str, generation: int, primary: str) -> None:
        """A record as an older hyops wrote it: it does not say in which cluster."""
        self._services[service] = _Service(generation, primary, "initialise", cluster=None)

    async def release(self, service: str, host: str, grant: Grant) -> None:
        """See the port."""
        found = self._get(service)
        if found.holder is not None and found.holder[2] == grant.lease_id:
            found.holder = None

    async def close(self) -> None:
        """Nothing to drop."""

    async def wait_no_holder(self, service: str, generation: int, timeout_s: float) -> bool:
        """See the port; waiting moves the clock to the next thing that could happen."""
        end = self.clock.monotonic() + timeout_s
        while True:
            found = self._get(service)
            if found.holder is None or found.holder[1] > generation:
                return True
            left = end - self.clock.monotonic()
            if left <= 0:
                return False
            await self.clock.sleep(min(left, max(0.05, found.expires_at - self.clock.monotonic())))

    def _own(self, service: str) -> _Service:
        found = self._get(service)
        if found.cluster not in (None, self.cluster):
            raise StaleGenerationError(f"{service}: the record is of cluster {found.cluster}, not of {self.cluster}")
        return found

    def _get(self, service: str) -> _Service:
        self._answers()
        if service not in self._services:
            raise RecordError(f"{service}: has no generation yet")
        found = self._services[service]
        if found.holder is not None and self.clock.monotonic() >= found.expires_at:
            found.holder = None
        return found

    def _answers(self) -> None:
        self._calls += 1
        if self._calls == self._silent_at:
            self._silent_until = self.clock.monotonic() + self._silent_for_s
        if self.silent or self.clock.monotonic() < self._silent_until:
            raise QuorumLostError("silent")


class LeaseStoreContract:
    """What every lease store does. A subclass opens one with a clock that `let_pass` moves."""

    ttl_s = 1.0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[LeaseStore]:
        """An empty store."""
        raise NotImplementedError
        yield

    async def let_pass(self, seconds: float) -> None:
        """Let the store's time pass."""
        raise NotImplementedError

    async def write_unstamped(self, store: LeaseStore, service: str, generation: int, primary: str) -> None:
        """Put a record there as an older hyops wrote it: it does not say in which cluster."""
        raise NotImplementedError

    @pytest.mark.req("GEN-1", "FEN-2")
    def test_the_holder_stamps_a_record_of_an_older_hyops(self) -> None:
        """With its next renewal, once; nothing else of the record changes, and it is raised as always."""

        async def scenario() -> None:
            async with self.opened() as store:
                await self.write_unstamped(store, "pg", 3, "a")
                first = await store.state("pg")
                assert (first.generation, first.cluster, first.foreign) == (3, None, False)
                grant = await store.acquire("pg", "a", 3, self.ttl_s)
                assert (await store.state("pg")).cluster is None  # as long as nobody renews
                grant = await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=True)
                now = await store.state("pg")
                assert now.cluster is not None
                assert (now.generation, now.primary, now.changed_by) == (3, "a", first.changed_by)
                assert (now.holder, now.foreign) == ("a", False)
                await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=True)
                assert (await store.state("pg")).revision == now.revision
                raised = await store.raise_generation("pg", expected=3, primary="b", run_id="run-1", last_holder="a")
                assert (raised.generation, raised.cluster) == (4, now.cluster)

        asyncio.run(scenario())

    @pytest.mark.req("GEN-1")
    def test_the_generation_is_raised_once_per_run(self) -> None:
        """The same run may ask again; another run, or a stale one, is refused and changes nothing."""

        async def scenario() -> None:
            async with self.opened() as store:
                with pytest.raises(RecordError):
                    await store.state("pg")
                first = await store.initialise("pg", 7, "a")
                assert (first.generation, first.primary, first.holder) == (7, "a", None)
                assert (await store.initialise("pg", 1, "b")).primary == "a"
                raised = await store.raise_generation("pg", expected=7, primary="b", run_id="run-1")
                assert (raised.generation, raised.primary, raised.changed_by) == (8, "b", "run-1")
                again = await store.raise_generation("pg", expected=7, primary="b", run_id="run-1")
                assert again.generation == 8
                for expected, run_id in ((7, "run-2"), (6, "run-1"), (9, "run-1")):
                    with pytest.raises(StaleGenerationError):
                        await store.raise_generation("pg", expected=expected, primary="a", run_id=run_id)
                assert (await store.state("pg")).primary == "b"

        asyncio.run(scenario())

    @pytest.mark.req("GEN-1")
    def test_of_many_runs_that_race_exactly_one_wins(self) -> None:
        """Eight runs raise the same generation at once: one succeeds, seven are told so."""

        async def scenario() -> None:
            async with self.opened() as store:
                await store.initialise("pg", 1, "a")
                tries = [store.raise_generation("pg", expected=1, primary="b", run_id=f"run-{n}") for n in range(8)]
                results = await asyncio.gather(*tries, return_exceptions=True)
                winners = [result for result in results if isinstance(result, LeaseState)]
                assert len(winners) == 1, results
                assert all(isinstance(r, LeaseState | StaleGenerationError) for r in results)
                now = await store.state("pg")
                assert (now.generation, now.changed_by) == (2, winners[0].changed_by)

        asyncio.run(scenario())

    @pytest.mark.req("FEN-2")
    def test_only_the_current_primary_gets_the_lease_and_only_once(self) -> None:
        """Another host, another generation and a second holder are refused; a release frees it."""

        async def scenario() -> None:
            async with self.opened() as store:
                await store.initialise("pg", 3, "a")
                for host, generation in (("b", 3), ("a", 2), ("a", 4)):
                    with pytest.raises(StaleGenerationError):
                        await store.acquire("pg", host, generation, self.ttl_s)
                grant = await store.acquire("pg", "a", 3, self.ttl_s)
                now = await store.state("pg")
                assert (now.holder, now.holder_generation) == ("a", 3)
                with pytest.raises(StaleGenerationError):
                    await store.acquire("pg", "a", 3, self.ttl_s)
                await store.release("pg", "a", grant)
                assert (await store.state("pg")).holder is None
                await store.acquire("pg", "a", 3, self.ttl_s)

        asyncio.run(scenario())

    @pytest.mark.req("FEN-2", "INV-3")
    def test_a_raised_generation_ends_every_renewal(self) -> None:
        """The holder of the old generation cannot renew, and its lease is gone after its ttl."""

        async def scenario() -> None:
            async with self.opened() as store:
                await store.initialise("pg", 3, "a")
                grant = await store.acquire("pg", "a", 3, self.ttl_s)
                grant = await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=True)
                await store.raise_generation("pg", expected=3, primary="b", run_id="run-1")
                with pytest.raises(StaleGenerationError):
                    await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=True)
                with pytest.raises(StaleGenerationError):  # the old holder has not run out yet
                    await store.acquire("pg", "b", 4, self.ttl_s)
                assert not await store.wait_no_holder("pg", 3, 0.01)
                assert await store.wait_no_holder("pg", 3, self.ttl_s * 6)
                await store.acquire("pg", "b", 4, self.ttl_s)
                assert await store.wait_no_holder("pg", 3, 0.5)  # a newer holder is none of the old

        asyncio.run(scenario())

    @pytest.mark.req("FEN-2")
    def test_a_lease_that_ran_out_cannot_be_renewed(self) -> None:
        """Waking up late is too late."""

        async def scenario() -> None:
            async with self.opened() as store:
                await store.initialise("pg", 1, "a")
                grant = await store.acquire("pg", "a", 1, self.ttl_s)
                await self.let_pass(self.ttl_s * 1.1)
                with pytest.raises(StaleGenerationError):
                    await store.renew("pg", "a", 1, grant, self.ttl_s, guarded=True)

        asyncio.run(scenario())

    @pytest.mark.req("FEN-1", "FEN-2")
    def test_an_unguarded_holder_is_told_until_it_is_whole_again(self) -> None:
        """The word outlives the lease, the release and a raised generation; a guarded renewal takes it back."""

        async def scenario() -> None:
            async with self.opened() as store:
                await store.initialise("pg", 3, "a")
                grant = await store.acquire("pg", "a", 3, self.ttl_s)
                assert (grant.guarded, (await store.state("pg")).unguarded) == (True, None)
                grant = await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=False)
                now = await store.state("pg")
                assert (grant.guarded, now.unguarded, now.unguarded_generation) == (False, "a", 3)
                grant = await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=False)
                grant = await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=True)
                assert (grant.guarded, (await store.state("pg")).unguarded) == (True, None)
                await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=False)
                await self.let_pass(self.ttl_s * 1.1)
                assert await store.wait_no_holder("pg", 3, self.ttl_s * 6)
                raised = await store.raise_generation("pg", expected=3, primary="b", run_id="run-1")
                assert (raised.holder, raised.unguarded, raised.unguarded_generation) == (None, "a", 3)
                assert raised.unguarded_under("a", 3)
                assert not raised.unguarded_under("a", 2)
                assert not raised.unguarded_under("b", 3)

        asyncio.run(scenario())

    @pytest.mark.req("FEN-1", "GEN-1")
    def test_whose_generation_is_over_still_says_that_it_is_unguarded(self) -> None:
        """The renewal is refused and the word stands; who is not the holder says nothing in the holder's name."""

        async def scenario() -> None:
            async with self.opened() as store:
                await store.initialise("pg", 3, "a")
                grant = await store.acquire("pg", "a", 3, self.ttl_s)
                await store.raise_generation("pg", expected=3, primary="b", run_id="run-1")
                with pytest.raises(StaleGenerationError):
                    await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=False)
                assert (await store.state("pg")).unguarded_under("a", 3)
                with pytest.raises(StaleGenerationError):  # nor does it take it back: it has no say any more
                    await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=True)
                assert (await store.state("pg")).unguarded_under("a", 3)
                await store.release("pg", "a", grant)
                newer = await store.acquire("pg", "b", 4, self.ttl_s)
                assert (await store.state("pg")).unguarded == "a"  # b was promoted by another proof: a's word stands
                await store.renew("pg", "b", 4, newer, self.ttl_s, guarded=False)
                with pytest.raises(StaleGenerationError):
                    await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=False)
                now = await store.state("pg")
                assert (now.unguarded, now.unguarded_generation) == ("b", 4)

        asyncio.run(scenario())

    @pytest.mark.req("FEN-1", "FEN-2")
    def test_a_new_lease_is_a_guarded_one(self) -> None:
        """Its own word of an older lease or generation is gone with it, another host's stays."""

        async def scenario() -> None:
            async with self.opened() as store:
                await store.initialise("pg", 3, "a")
                grant = await store.acquire("pg", "a", 3, self.ttl_s)
                await store.renew("pg", "a", 3, grant, self.ttl_s, guarded=False)
                await store.release("pg", "a", grant)
                await store.raise_generation("pg", expected=3, primary="a", run_id="readmit:run-1")
                assert (await store.state("pg")).unguarded == "a"
                await store.acquire("pg", "a", 4, self.ttl_s)
                assert (await store.state("pg")).unguarded is None

        asyncio.run(scenario())

    @pytest.mark.req("FEN-2", "GEN-1", "INV-1")
    def test_who_was_given_a_lease_last_is_known_after_its_end(self) -> None:
        """And a raise on the condition that it was this host is refused once another one was given it."""

        async def scenario() -> None:
            async with self.opened() as store:
                await store.initialise("pg", 3, "a")
                assert (await store.state("pg")).last_holder is None
                with pytest.raises(StaleGenerationError):  # nobody said so: no proof
                    await store.raise_generation("pg", expected=3, primary="a", run_id="run-0", last_holder="a")
                grant = await store.acquire("pg", "a", 3, self.ttl_s)
                await store.release("pg", "a", grant)
                await store.raise_generation("pg", expected=3, primary="b", run_id="run-1")
                now = await store.state("pg")
                assert (now.holder, now.last_holder, now.last_holder_generation) == (None, "a", 3)
                with pytest.raises(StaleGenerationError):
                    await store.raise_generation("pg", expected=4, primary="b", run_id="run-2", last_holder="b")
                assert (await store.state("pg")).generation == 4
                for _ in range(2):  # repeated, it says the same
                    raised = await store.raise_generation(
                        "pg", expected=4, primary="a", run_id="run-3", last_holder="a"
                    )
                    assert (raised.generation, raised.primary) == (5, "a")
                with pytest.raises(StaleGenerationError):  # whoever comes late with the lost generation
                    await store.acquire("pg", "b", 4, self.ttl_s)
                await store.raise_generation("pg", expected=5, primary="b", run_id="run-4")
                await store.acquire("pg", "b", 6, self.ttl_s)
                with pytest.raises(StaleGenerationError):
                    await store.raise_generation("pg", expected=6, primary="a", run_id="run-5", last_holder="a")
                now = await store.state("pg")
                assert (now.generation, now.last_holder) == (6, "b")

        asyncio.run(scenario())
