"""The right to dial in etcd: a key on this process's lease, and what happens when that lease is lost (EXE-1, LOOP-3).

One lease a process, kept alive by the session's own thread while any right is held, however busy the stage is. Its
deadline counts from before a renewal is sent, on a clock that goes on while a machine sleeps, so this process stops to
believe in it before etcd gives the keys away. A lease that is lost is never taken up again: what is held by it is lost
with it, and the tasks that hold it are cancelled. A process that was frozen finds out before it does anything else
here, and whatever it sends before it finds out is refused in etcd, where each transaction compares the key's value,
which is drawn anew for each right.

A request may reach etcd more than once, and late: a slow member applies a copy of it after the right that it took was
given back, or after it was refused, and nobody would own that right. So a right that is given back or was not got is
made void: it is deleted, where it is ours, and `back/<lease>` is written, which goes with the lease. A request to take
a right holds only while that was not written since the request was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hyops.adapters import etcd_records_keys as k
from hyops.adapters.clock_system import boottime
from hyops.adapters.etcd_gateway import EXHAUSTED, EtcdRefusedError, LeaseGoneError, b64
from hyops.adapters.etcd_records_session import EtcdSession
from hyops.ports.lease import QuorumLostError

LINGER_S = 30.0  # a lease that nobody uses is given back after that
RETRY_S = 0.05
TAKE_TRIES = 32  # each one more means that this process gave another right back in that very moment
REVOKE_LIMIT_S = 0.5


@dataclass(eq=False)
class Right:
    """One right, from the moment etcd gave it until `lost` is called or it is given back."""

    key: str
    value: bytes
    lease: Lease
    lost: Callable[[], None] = lambda: None

    @property
    def guard(self) -> dict[str, str]:
        """Only if it is still ours, in etcd's own order."""
        return {"key": b64(self.key), "target": "VALUE", "result": "EQUAL", "value": b64(self.value.decode())}

    @property
    def held(self) -> bool:
        """Whether it may be believed in now."""
        return self.lease.believed


@dataclass(eq=False)
class Lease:
    """A lease of etcd's that this process keeps."""

    number: int
    deadline: float
    cluster: str
    revision: int
    """Of the newest answer: what a request that is made now may know of."""
    gone: bool = False
    rights: set[Right] = field(default_factory=set)
    leaving: set[Right] = field(default_factory=set)
    """Given back here; etcd has not taken it yet, and must, since the lease lives on."""
    used_at: float = 0.0

    @property
    def believed(self) -> bool:
        """Whether it has not run out by our clock."""
        return not self.gone and boottime() < self.deadline


class Rights:
    """Those of one process. Everything here runs in the session's thread, but for what says otherwise."""

    def __init__(self, session: EtcdSession, ttl_s: int) -> None:
        self._session, self._ttl_s = session, ttl_s
        self._lease: Lease | None = None
        self._granting = asyncio.Lock()

    async def take(self, key: str, look: list[dict[str, Any]]) -> tuple[Right | None, dict[str, Any]]:
        """The right, or None where somebody has it; and the answer, whose first reads are `look`."""
        gone = 0
        for _ in range(TAKE_TRIES):
            lease = await self._leased()
            right = Right(key, _drawn(), lease)
            try:
                taken, answer = await self._ask_for(right, look)
            except LeaseGoneError:
                self._lost(lease)
                gone += 1
                if gone == 1:
                    continue
                raise QuorumLostError("etcd gives no lease that lasts") from None
            if taken is not None:
                return (right if taken else None), answer
        raise QuorumLostError("rights are given back all the time")

    async def _ask_for(self, right: Right, look: list[dict[str, Any]]) -> tuple[bool | None, dict[str, Any]]:
        """Whether we have it; None where only a giving back came between, so that it is to be asked for anew."""
        lease = right.lease
        put = k.put(right.key, right.value)
        put["request_put"]["lease"] = str(lease.number)
        closed = k.closed_key(self._session.env)
        compare = [k.absent(right.key), k.absent(closed), k.not_after(self._back(lease), lease.revision)]
        body = {"compare": compare, "success": [*look, put], "failure": [*look, k.get(right.key), k.get(closed)]}
        lease.rights.add(right)
        answered = False
        try:
            answer = await self._call(lease, body)
            answered = True
        finally:
            if not answered:
                self._leave(right)  # it may have been given: then it goes as soon as etcd answers
        if answer.get("succeeded"):
            return True, answer
        there = k.found(answer, len(look))
        if there is not None and there.value == right.value:
            return True, answer  # an earlier attempt of this very call got it
        if there is None and k.found(answer, len(look) + 1) is None:
            lease.rights.discard(right)  # no copy of this request can take it any more
            return None, answer
        self._leave(right)  # a copy may come when whoever has it has ended: it is made void at the next renewal
        return False, answer

    async def give_back(self, right: Right) -> None:
        """Free it; where etcd does not answer, this is tried again for as long as the lease is kept."""
        self._leave(right)
        with contextlib.suppress(QuorumLostError):
            await self._flush(right.lease)

    def _leave(self, right: Right) -> None:
        right.lease.rights.discard(right)
        right.lease.used_at = boottime()
        if not right.lease.gone:
            right.lease.leaving.add(right)

    async def _flush(self, lease: Lease) -> None:
        """Make void what is given back. A full etcd takes nothing but deletions: that frees it for others at once."""
        for right in list(lease.leaving):
            back = k.put(self._back(lease), b"")  # also where it is not there: it may be on its way
            back["request_put"]["lease"] = str(lease.number)
            try:
                await self._call(
                    lease, {"compare": [right.guard], "success": [k.delete(right.key), back], "failure": [back]}
                )
            except LeaseGoneError:
                self._lost(lease)
                return
            except EtcdRefusedError as exc:
                if exc.code != EXHAUSTED:
                    raise
                await self._call(lease, {"compare": [right.guard], "success": [k.delete(right.key)]})
            else:
                lease.leaving.discard(right)

    async def _call(self, lease: Lease, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._session.gateway.call("/v3/kv/txn", body, limit_s=self._session.ask_limit_s)
        lease.revision = max(lease.revision, k.revision_of(answer))
        return answer

    def _back(self, lease: Lease) -> str:
        return f"{k.starts_prefix(self._session.env)}back/{lease.number}"

    async def _leased(self) -> Lease:
        async with self._granting:
            if self._lease is not None and self._lease.believed:
                return self._lease
            if self._lease is not None:
                self._lost(self._lease)
            number, sent_at = secrets.randbits(62) + 1, boottime()
            body = {"TTL": str(self._ttl_s), "ID": str(number)}
            try:
                answer = await self._session.gateway.call("/v3/lease/grant", body, limit_s=self._session.ask_limit_s)
                cluster, ttl_s = _cluster(answer), int(answer.get("TTL", self._ttl_s))
                revision = k.revision_of(answer)
            except EtcdRefusedError as exc:
                if "already exists" not in str(exc):
                    raise
                cluster, ttl_s, revision = "", self._ttl_s, 0  # an earlier attempt of this very call
            lease = Lease(number, sent_at + min(ttl_s, self._ttl_s), cluster, revision, used_at=sent_at)
            self._lease = lease
            self._session.keep(self._kept(lease))
            return lease

    async def _kept(self, lease: Lease) -> None:
        """Until it is lost, or nobody needs it any more."""
        try:
            while lease.believed:
                await asyncio.sleep(min(self._ttl_s / 3, max(0.0, lease.deadline - boottime())))
                if not lease.rights and not lease.leaving and boottime() - lease.used_at > LINGER_S:
                    break
                while lease.believed and not await self._renewed(lease):
                    await asyncio.sleep(RETRY_S)
                if lease.leaving and lease.believed:
                    with contextlib.suppress(QuorumLostError):
                        await self._flush(lease)
        finally:
            self._lost(lease)
        with contextlib.suppress(QuorumLostError, LeaseGoneError):
            await self._session.gateway.call("/v3/lease/revoke", {"ID": str(lease.number)}, limit_s=REVOKE_LIMIT_S)

    async def _renewed(self, lease: Lease) -> bool:
        """Whether etcd prolonged it; the deadline then counts from before it was asked."""
        sent_at = boottime()
        if (left_s := lease.deadline - sent_at) <= 0:
            return False
        try:
            said = await self._session.gateway.call("/v3/lease/keepalive", {"ID": str(lease.number)}, limit_s=left_s)
        except LeaseGoneError:
            self._lost(lease)
            return False
        except QuorumLostError:
            return False
        result = said.get("result", {})
        ttl_s, cluster = int(result.get("TTL", 0)), _cluster(result)
        if ttl_s <= 0 or (lease.cluster and cluster and cluster != lease.cluster) or not lease.believed:
            self._lost(lease)  # also where another store, made from a snapshot, has a lease of the same number
            return False
        lease.cluster = lease.cluster or cluster
        lease.deadline = sent_at + min(ttl_s, self._ttl_s)
        return True

    def _lost(self, lease: Lease) -> None:
        lease.gone = True
        if self._lease is lease:
            self._lease = None
        rights, lease.rights = lease.rights, set()
        lease.leaving.clear()
        for right in rights:
            right.lost()


class Freed:
    """Tells those who wait for a right that it is free: one watch for all of them, while anybody waits."""

    RESCAN_S = 5.0  # a member that is cut off sends no event and no error
    PAUSE_S = 0.1

    def __init__(self, session: EtcdSession, prefix: str) -> None:
        self._session, self._prefix = session, prefix
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, key: str) -> None:
        """Return when nobody has it; in the session's thread. Without a quorum nobody knows, and it goes on waiting."""
        event = asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        try:
            if self._task is None or self._task.done():
                self._task = self._session.keep(self._run())
            else:
                with contextlib.suppress(QuorumLostError):  # the watch has begun: what went before it is asked for
                    answer = await self._session.gateway.call("/v3/kv/txn", {"success": [k.get(key, names_only=True)]})
                    if k.found(answer, 0) is None:
                        return
            await event.wait()
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]

    async def _run(self) -> None:
        which = 0
        while self._waiting:
            try:
                revision = await self._look()
            except QuorumLostError:
                await asyncio.sleep(self.PAUSE_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.RESCAN_S):
                    await self._watch(revision + 1, which)
                    which += 1
                    await asyncio.sleep(self.PAUSE_S)

    async def _look(self) -> int:
        answer = await self._session.gateway.call(
            "/v3/kv/txn", {"success": [k.page(self._prefix, k.after(self._prefix), 0, None)]}
        )
        there = {key for key, _ in k.names(answer, 0)}
        for key in [key for key in self._waiting if key not in there]:
            self._free(key)
        return k.revision_of(answer)

    async def _watch(self, revision: int, which: int) -> None:
        stream = self._session.gateway.stream(self._prefix, k.after(self._prefix), revision, which)
        async with contextlib.aclosing(stream) as results:  # type: ignore[type-var]
            async for result in results:
                for key, kept, _ in [k.event_of(event) for event in result.get("events", [])]:
                    if kept is None:
                        self._free(key)
                if not self._waiting:
                    return

    def _free(self, key: str) -> None:
        for event in self._waiting.get(key, ()):
            event.set()


def _drawn() -> bytes:
    """The value of a new right; what it says of its holder is for people."""
    told = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "token": secrets.token_hex(8),
    }
    return json.dumps(told).encode()


def _cluster(answer: dict[str, Any]) -> str:
    return str(answer.get("header", {}).get("cluster_id", ""))
