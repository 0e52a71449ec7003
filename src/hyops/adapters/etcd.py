"""The lease store on etcd: one generation and at most one leased holder per service (FEN-2, GEN-1).

Keys: `/hyops/services/<service>/generation` (JSON: generation, primary, run id, and the id of the cluster in which it
was written, so that a restored snapshot is seen to be one) and `.../holder` (JSON: host, generation; attached to an
etcd lease, so it vanishes with it); attached to nothing, `.../unguarded` and `.../last` (JSON: host, generation): who
renewed without an edge that closes by itself, and who was given a lease last. The latter is written by the very
transaction that makes somebody the holder, so a raise that compares it cannot overlook one.

Why an expired lease proves that the old side has stopped:
1. A holder's deadline counts from before it sends. A renewal is two requests: a linearizable transaction that shows
   the generation and the holder to be unchanged, and only then the keep-alive. With t0 read before the transaction,
   the deadline is t0 + ttl.
2. The generation is raised by compare-and-set at some point C of etcd's order. A transaction that succeeded under the
   old generation stands before C, so its t0 is before C, and the holder's deadline is before C + ttl. After C no
   transaction of the old generation succeeds, so no deadline is ever moved again; a keep-alive that is still on its
   way after C prolongs the key, not the deadline, which errs on the safe side.
3. Hence, once the promoter has seen its compare-and-set return, either of these means "past every old deadline":
   (a) a linearizable read no longer shows a holder of the old generation: etcd removes the key no earlier than ttl
   after the last keep-alive it processed, which is after that renewal's t0; or the holder gave it up, which it does
   only after it has closed its edge. (b) ttl has passed on the promoter's own monotonic clock since the return.
4. Clocks are never compared, only durations; `margin_s` covers unlike clock rates and the time it takes to enforce.

That holds for a holder whose edge closes at its deadline. One whose edge does not writes `unguarded` in the very
transaction of its renewal, and under the condition that it is the holder, not that the generation stands: what it
says just after C still reaches the promoter, who reads the key after C. Each unguarded renewal writes the key anew, and
it is deleted only at the revision that was read: a deletion that was on its way when the edge failed again is void.
A guarded renewal only reads, so it costs etcd no write, but for the one that stamps a record of an older hyops with
the cluster in which it stands: until then a restored snapshot could not be told from the store that it was taken of.

A member's answer is trusted only where etcd makes it linearizable: transactions and (default) reads go through
the quorum. Every request here is safe to repeat, because the gateway may send it to several members.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import secrets
from typing import Any

from hyops.adapters.etcd_gateway import EtcdGateway, LeaseGoneError, b64
from hyops.errors import RecordError, StaleGenerationError
from hyops.model import canonical
from hyops.model.fence import LeaseState
from hyops.ports.clock import Clock
from hyops.ports.lease import Grant, QuorumLostError

RAISE_TRIES = 3  # the holder may stamp the record between a read and its compare-and-set, once
STAMP_LIMIT_S = 0.2  # of a renewal: less than `renew_s`, so that a quorum that refuses writes costs no lease
RESCAN_S = 0.25  # a member that is cut off sends no event and no error: look again this often while waiting


class EtcdLeaseStore:
    """`LeaseStore` over an etcd cluster."""

    def __init__(self, gateway: EtcdGateway, clock: Clock, *, root: str = "/hyops") -> None:
        self._etcd = gateway
        self._clock = clock
        self._root = root

    async def close(self) -> None:
        """Give the connections back."""
        await self._etcd.close()

    async def state(self, service: str) -> LeaseState:
        """Generation, primary and present holder; linearizable."""
        answer = await self._etcd.call("/v3/kv/txn", {"success": self._read_all(service)})
        return _state(service, answer)

    async def initialise(self, service: str, generation: int, primary: str) -> LeaseState:
        """Create the first generation, or return what stands."""
        absent = _absent(self._generation_key(service))
        seen = await self._etcd.call("/v3/kv/txn", {"success": self._read_all(service)})
        value = _generation_value(generation, primary, "initialise", _cluster(seen))
        put = _put(self._generation_key(service), value)
        await self._etcd.call("/v3/kv/txn", {"compare": [absent], "success": [put]})
        return await self.state(service)

    async def raise_generation(
        self, service: str, *, expected: int, primary: str, run_id: str, last_holder: str | None = None
    ) -> LeaseState:
        """Compare-and-set `expected` -> `expected + 1`; idempotent by `run_id`."""
        for left in reversed(range(RAISE_TRIES + 1)):  # read once more: a repeated request may have been ours
            seen = await self._etcd.call("/v3/kv/txn", {"success": self._read_all(service)})
            now = _state(service, seen)
            fits = now.generation == expected and last_holder in (None, now.last_holder) and not now.foreign
            if not fits or not left:
                break
            compare = [_as_read(self._generation_key(service), seen, 0)]
            if last_holder is not None:
                compare.append(_as_read(self._last_key(service), seen, 3))
            put = _put(self._generation_key(service), _generation_value(expected + 1, primary, run_id, _cluster(seen)))
            await self._etcd.call("/v3/kv/txn", {"compare": compare, "success": [put]})
        if (now.generation, now.changed_by, now.primary) == (expected + 1, run_id, primary) and not now.foreign:
            return now
        raise StaleGenerationError(
            f"{service}: generation is {now.generation} (primary {now.primary}, last lease {now.last_holder}), "
            f"not {expected}" + (f" with the last lease of {last_holder}" if last_holder else ""),
            service=service,
            expected=expected,
            found=now.generation,
            changed_by=now.changed_by,
        )

    async def restore_generation(
        self, service: str, *, before: LeaseState, generation: int, primary: str, by: str
    ) -> LeaseState:
        """Compare-and-set over the foreign record; the last holder and the generation in one transaction."""
        seen = await self._etcd.call("/v3/kv/txn", {"success": self._read_all(service)})
        now = _state(service, seen)
        if now.holder in (None, primary) and (now.generation, now.cluster) == (before.generation, before.cluster):
            compare = [_as_read(self._generation_key(service), seen, 0)]
            if now.holder is None:
                compare.append(_absent(self._holder_key(service)))
            work = [
                _put(self._generation_key(service), _generation_value(generation, primary, by, _cluster(seen))),
                _put(self._last_key(service), _host_value(primary, generation - 1)),
            ]
            await self._etcd.call("/v3/kv/txn", {"compare": compare, "success": work})
            now = await self.state(service)
        if (now.generation, now.changed_by, now.primary) == (generation, by, primary) and not now.foreign:
            return now
        raise StaleGenerationError(
            f"{service}: it is generation {now.generation} (primary {now.primary}, holder {now.holder}) by now, "
            f"not {before.generation} as it was read",
            hint="ask again: somebody acts on the restored store",
            service=service,
            found=now.generation,
        )

    async def acquire(self, service: str, host: str, generation: int, ttl_s: float) -> Grant:
        """Become the holder under the current generation, and be guarded from here on."""
        before = await self._etcd.call("/v3/kv/txn", {"success": self._read_all(service)})
        now = _state(service, before)
        if now.generation != generation or now.primary != host or now.holder is not None or now.foreign:
            raise _stale(service, host, generation, now)
        sent_at = self._clock.monotonic()
        lease_id = secrets.randbits(62) + 1  # chosen here, so that a repeated grant makes one lease
        holder = _holder_value(host, generation, lease_id)
        with contextlib.suppress(_DuplicateLeaseError):
            await self._grant(lease_id, lease_seconds(ttl_s))
        absent, unchanged = _absent(self._holder_key(service)), _as_read(self._generation_key(service), before, 0)
        last = _put(self._last_key(service), _host_value(host, generation))
        compare, work = [absent, unchanged], [_put(self._holder_key(service), holder, lease_id), last]
        if now.unguarded == host:
            compare.append(_as_read(self._unguarded_key(service), before, 2))
            work.append(_delete(self._unguarded_key(service)))
        try:
            await self._etcd.call("/v3/kv/txn", {"compare": compare, "success": work})
        except LeaseGoneError as exc:
            raise QuorumLostError("the lease ran out before it could be used") from exc
        answer = await self._etcd.call("/v3/kv/txn", {"success": self._read_all(service)})
        now = _state(service, answer)
        if now.generation == generation and _mine(answer, lease_id):
            return Grant(lease_id, sent_at + ttl_s)
        raise _stale(service, host, generation, now)

    async def renew(
        self, service: str, host: str, generation: int, grant: Grant, ttl_s: float, *, guarded: bool
    ) -> Grant:
        """Prolong: first the transaction, then the keep-alive (see the module's argument)."""
        sent_at = self._clock.monotonic()
        left = grant.deadline - sent_at
        if left <= 0:
            raise StaleGenerationError(f"{service}: the lease of {host} has run out", service=service, host=host)
        request: dict[str, Any] = {"success": self._read_all(service)}
        if not guarded:
            put = _put(self._unguarded_key(service), _host_value(host, generation))
            request = {"compare": [self._still_mine(service, host, generation, grant)], "failure": request["success"]}
            request["success"] = [*request["failure"], put]
        answer = await self._etcd.call("/v3/kv/txn", request, limit_s=left)
        now = _state(service, answer)
        if (now.generation, now.primary, now.foreign) != (generation, host, False) or not _mine(answer, grant.lease_id):
            raise _stale(service, host, generation, now)
        if guarded and (now.unguarded, now.unguarded_generation) == (host, generation):
            again = _as_read(self._unguarded_key(service), answer, 2)  # not even written with the same words
            compare = [self._still_mine(service, host, generation, grant), again]
            clear = {"compare": compare, "success": [_delete(self._unguarded_key(service))]}
            await self._etcd.call("/v3/kv/txn", clear, limit_s=max(grant.deadline - self._clock.monotonic(), 0.01))
        left = grant.deadline - self._clock.monotonic()
        try:
            kept = await self._etcd.call("/v3/lease/keepalive", {"ID": str(grant.lease_id)}, limit_s=max(left, 0.01))
        except LeaseGoneError as exc:
            raise _stale(service, host, generation, now) from exc
        kept_ttl = int(kept.get("result", {}).get("TTL", 0))
        if kept_ttl <= 0:
            raise _stale(service, host, generation, now)
        if now.cluster is None:
            await self._stamp(service, host, grant, answer)
        return Grant(grant.lease_id, sent_at + min(kept_ttl, ttl_s), guarded)

    async def _stamp(self, service: str, host: str, grant: Grant, seen: dict[str, Any]) -> None:
        """Say in which cluster the record was written, where an older hyops did not; the same record otherwise.

        Only its holder does, and only over what it has just read: nobody else's word is touched. A quorum that does not
        take it keeps no renewal from counting: the next one tries again.
        """
        now = _state(service, seen)
        value = _generation_value(now.generation, now.primary, now.changed_by or "", _cluster(seen))
        compare = [
            self._still_mine(service, host, now.generation, grant),
            _as_read(self._generation_key(service), seen, 0),
        ]
        request = {"compare": compare, "success": [_put(self._generation_key(service), value)]}
        with contextlib.suppress(QuorumLostError):
            await self._etcd.call("/v3/kv/txn", request, limit_s=STAMP_LIMIT_S)

    async def release(self, service: str, host: str, grant: Grant) -> None:
        """Revoke the lease; the holder key goes with it."""
        with contextlib.suppress(LeaseGoneError):
            await self._etcd.call("/v3/lease/revoke", {"ID": str(grant.lease_id)})

    async def wait_no_holder(self, service: str, generation: int, timeout_s: float) -> bool:
        """Wait by watch, with a slow linearizable rescan; only a linearizable read says True."""
        end = self._clock.monotonic() + timeout_s
        attempt = 0
        while True:
            with contextlib.suppress(QuorumLostError):
                now = await self.state(service)
                if now.holder is None or (now.holder_generation or 0) > generation:
                    return True
                attempt += 1
                left = end - self._clock.monotonic()
                if left > 0:
                    await self._event(service, now.revision + 1, attempt, min(left, RESCAN_S))
            if self._clock.monotonic() >= end:
                return False

    async def _event(self, service: str, revision: int, attempt: int, limit_s: float) -> None:
        """Return at the next event of the service's keys, or at the limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                watch = self._etcd.watch([self._generation_key(service), self._holder_key(service)], revision, attempt)
                async with contextlib.aclosing(watch) as batches:  # type: ignore[type-var]
                    async for events in batches:
                        if events:
                            return
                await asyncio.sleep(limit_s)  # the member gave up: the rescan goes on with the next one

    async def _grant(self, lease_id: int, ttl: int) -> None:
        try:
            await self._etcd.call("/v3/lease/grant", {"TTL": str(ttl), "ID": str(lease_id)})
        except QuorumLostError as exc:
            if "lease already exists" in str(exc):  # an earlier attempt of this very request got through
                raise _DuplicateLeaseError from exc
            raise

    def _generation_key(self, service: str) -> str:
        return f"{self._root}/services/{service}/generation"

    def _holder_key(self, service: str) -> str:
        return f"{self._root}/services/{service}/holder"

    def _unguarded_key(self, service: str) -> str:
        return f"{self._root}/services/{service}/unguarded"

    def _last_key(self, service: str) -> str:
        return f"{self._root}/services/{service}/last"

    def _read_all(self, service: str) -> list[dict[str, Any]]:
        plain = (self._generation_key(service), self._holder_key(service), self._unguarded_key(service))
        keys = (*plain, self._last_key(service))
        return [{"request_range": {"key": b64(key)}} for key in keys]

    def _still_mine(self, service: str, host: str, generation: int, grant: Grant) -> dict[str, str]:
        value = _holder_value(host, generation, grant.lease_id)
        return _same(self._holder_key(service), value)


class _DuplicateLeaseError(Exception):
    """The lease id exists: a repeated request."""


def lease_seconds(ttl_s: float) -> int:
    """Etcd leases are whole seconds: rounded up, so that the key never goes before the holder's own deadline."""
    return max(1, math.ceil(ttl_s))


def _generation_value(generation: int, primary: str, run_id: str, cluster: str | None) -> str:
    """`cluster` is missing in what was written before it was kept."""
    value = {"cluster": cluster, "generation": generation, "primary": primary, "run_id": run_id}
    return canonical.encode({k: v for k, v in value.items() if v is not None}).decode()


def _cluster(answer: dict[str, Any]) -> str | None:
    """Which cluster answered: a restore with a token of its own makes another one of the same members."""
    found = answer.get("header", {}).get("cluster_id")
    return None if found is None else str(found)


def _holder_value(host: str, generation: int, lease_id: int) -> str:
    return canonical.encode({"generation": generation, "host": host, "lease": str(lease_id)}).decode()


def _host_value(host: str, generation: int) -> str:
    return canonical.encode({"generation": generation, "host": host}).decode()


def _same(key: str, value: str) -> dict[str, str]:
    return {"key": b64(key), "target": "VALUE", "result": "EQUAL", "value": b64(value)}


def _as_read(key: str, answer: dict[str, Any], index: int) -> dict[str, str]:
    """Not written since `answer` read it at `index`. By revision, never by value: another hyops may have written the
    same record with a field more or less."""
    revision = str(answer["responses"][index]["response_range"]["kvs"][0]["mod_revision"])
    return {"key": b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision}


def _absent(key: str) -> dict[str, str]:
    return {"key": b64(key), "target": "VERSION", "result": "EQUAL", "version": "0"}


def _delete(key: str) -> dict[str, Any]:
    return {"request_delete_range": {"key": b64(key)}}


def _put(key: str, value: str, lease_id: int | None = None) -> dict[str, Any]:
    request = {"key": b64(key), "value": b64(value)}
    return {"request_put": request if lease_id is None else request | {"lease": str(lease_id)}}


def _value(answer: dict[str, Any], index: int) -> dict[str, Any] | None:
    """The decoded JSON of the key read at `index`; None when it does not exist."""
    try:
        found = answer["responses"][index]["response_range"].get("kvs", [])
        if not found:
            return None
        value = canonical.parse(base64.b64decode(found[0]["value"], validate=True), source="etcd")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        raise RecordError(f"etcd answered something that is not a transaction: {exc!r}") from exc
    if not isinstance(value, dict):
        raise RecordError("etcd holds a value for this service that is not an object")
    return value


def _mine(answer: dict[str, Any], lease_id: int) -> bool:
    holder = _value(answer, 1)
    return holder is not None and holder.get("lease") == str(lease_id)


def _state(service: str, answer: dict[str, Any]) -> LeaseState:
    generation, holder, unguarded, last = (_value(answer, index) for index in range(4))
    if generation is None:
        raise RecordError(f"{service}: has no generation yet", hint="`hyops` initialises it once, from the policy")
    body = {
        "service": service,
        "generation": generation.get("generation"),
        "primary": generation.get("primary"),
        "changed_by": generation.get("run_id"),
        "revision": int(answer.get("header", {}).get("revision", 0)),
    }
    if (cluster := generation.get("cluster")) is not None:
        body |= {"cluster": cluster, "foreign": cluster != _cluster(answer)}
    if holder is not None:
        body |= {"holder": holder.get("host"), "holder_generation": holder.get("generation")}
    if unguarded is not None:
        body |= {"unguarded": unguarded.get("host"), "unguarded_generation": unguarded.get("generation")}
    if last is not None:
        body |= {"last_holder": last.get("host"), "last_holder_generation": last.get("generation")}
    return LeaseState.of(body, source=f"etcd: {service}")


def _stale(service: str, host: str, generation: int, now: LeaseState) -> StaleGenerationError:
    return StaleGenerationError(
        f"{service}: {host} has no right to the lease of generation {generation}; it is generation {now.generation}, "
        f"primary {now.primary}, holder {now.holder}",
        service=service,
        generation=generation,
        found=now.generation,
        primary=now.primary,
        holder=now.holder,
    )
