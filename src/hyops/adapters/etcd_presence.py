"""A running stage shows itself in etcd, so that its records are not moved away from under it (LOOP-3).

A key with a lease, `/hyops/<env>/serving/<stage>/<host>-<pid>`: it goes with the process, at the latest `TTL_S` after.
What it says beside that is in `etcd_presence_told`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from hyops.adapters import etcd_records_keys as k
from hyops.adapters.etcd_gateway import LeaseGoneError, b64
from hyops.adapters.etcd_presence_told import Telling, Told
from hyops.adapters.etcd_records_session import EtcdSession
from hyops.errors import PrerequisiteError
from hyops.ports.lease import QuorumLostError

TTL_S, KEEP_S = 15, 4.0
LAPSE_S = KEEP_S + 2.0 * TTL_S  # from one look to the next sign of life; and a new leader of etcd begins a lease anew
TOLD = ("version", "since", "clock", "confirmed_s", "behind", "every_s", "lapse_s")
MEND = (
    "take `store` out of the stage's configuration if its records are in files again; or finish the move with "
    "`hyops control migrate`"
)


@contextmanager
def present(
    session: EtcdSession, stage: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Iterator[None]:
    """Show it from now on. Without a quorum the stage begins all the same, and shows itself when there is one.

    Raises:
        PrerequisiteError: the records of this loop are not in etcd (any more), or etcd refuses this user.
    """
    refuse_closed(session)
    key = f"{k.serving_prefix(session.env)}{stage}/{socket.gethostname()}-{os.getpid()}"
    task = session.do(lambda: _begin(session, key, Told(session, LAPSE_S, clock)))
    try:
        yield
    finally:
        with contextlib.suppress(PrerequisiteError):
            session.do(lambda: _end(session, key, task))


def refuse_closed(session: EtcdSession) -> None:
    """Raise PrerequisiteError where a sign says that the records are elsewhere; nobody knows without a quorum."""

    async def look() -> k.Kept | None:
        try:
            return k.found(
                await session.gateway.call("/v3/kv/txn", {"success": [k.get(k.closed_key(session.env))]}, limit_s=1.5),
                0,
            )
        except QuorumLostError as exc:
            if type(exc) is not QuorumLostError:
                raise
            return None

    if (closed := session.do(look)) is not None:
        said = closed.value.decode(errors="backslashreplace")[:500]
        raise PrerequisiteError(f"{session.place}: {said}; nothing was read or written here", hint=MEND)


def who_serves(session: EtcdSession) -> list[str]:
    """`<stage>/<host>-<pid>` of every stage that shows itself."""
    prefix = k.serving_prefix(session.env)

    async def look() -> list[str]:
        page = k.page(prefix, k.after(prefix), 1000, None)
        return [key for key, _ in k.names(await session.gateway.call("/v3/kv/txn", {"success": [page]}), 0)]

    return [key.removeprefix(prefix) for key in session.do(look)]


def who_serves_what(session: EtcdSession) -> list[dict[str, Any]]:
    """Stage, host and pid of each, with what it says of itself (`TOLD`): what an older hyops does not say is None."""
    prefix = k.serving_prefix(session.env)
    asked = {"request_range": {"key": b64(prefix), "range_end": b64(k.after(prefix)), "limit": "1000"}}

    async def look() -> list[tuple[str, k.Kept]]:
        return k.names(await session.gateway.call("/v3/kv/txn", {"success": [asked]}), 0)

    found = []
    for key, kept in session.do(look):
        stage, _, process = key.removeprefix(prefix).partition("/")
        host, _, pid = process.rpartition("-")
        try:
            said = json.loads(kept.value)
        except ValueError:
            said = None
        told = said if isinstance(said, dict) else {}
        found.append({"stage": stage, "host": host, "pid": pid} | {n: told.get(n) for n in TOLD})
    return found


async def _begin(session: EtcdSession, key: str, told: Told) -> asyncio.Task[None]:
    return asyncio.create_task(_keep(session, key, told))


async def _end(session: EtcdSession, key: str, task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await session.gateway.call("/v3/kv/txn", {"success": [k.delete(key)]}, limit_s=1.0)


async def _keep(session: EtcdSession, key: str, told: Told) -> None:
    lease = 0
    while True:
        with contextlib.suppress(QuorumLostError, TimeoutError):
            try:
                if not lease:
                    lease = await _shown(session, key, told)
                kept = await session.gateway.call("/v3/lease/keepalive", {"ID": str(lease)}, limit_s=KEEP_S)
                if int(kept.get("result", {}).get("TTL", 0)) <= 0:
                    lease = 0
                    continue
                await told.look()
                now = told.now()
                if told.news(now) and not await _say(session, key, lease, told, now, anew=False):
                    lease = 0  # somebody took it away
                    continue
            except LeaseGoneError:
                lease = 0
        await asyncio.sleep(KEEP_S if lease else 0.5)


async def _shown(session: EtcdSession, key: str, told: Told) -> int:
    lease = secrets.randbits(62) + 1
    with contextlib.suppress(QuorumLostError):  # a repeated grant says that it exists
        await session.gateway.call("/v3/lease/grant", {"TTL": str(TTL_S), "ID": str(lease)}, limit_s=2.0)
    await _say(session, key, lease, told, told.now(), anew=True)
    return lease


async def _say(session: EtcdSession, key: str, lease: int, told: Told, now: Telling, *, anew: bool) -> bool:
    """Write the key; one that is not `anew` only where it stands, so that no late copy brings back what has ended."""
    put = {"request_put": {"key": b64(key), "value": b64(told.words(now)), "lease": str(lease)}}
    stands = {"key": b64(key), "target": "VERSION", "result": "GREATER", "version": "0"}
    body = {"success": [put]} if anew else {"compare": [stands], "success": [put]}
    said = bool((await session.gateway.call("/v3/kv/txn", body, limit_s=2.0)).get("succeeded"))
    if said:
        told.last = now
    return said
