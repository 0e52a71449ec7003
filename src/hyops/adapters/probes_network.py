"""Looks at PostgreSQL, a TCP port, or a DNS name. A refusal or silence of the primary is `bad`; what cannot be told
apart from a fault of our own (credentials, too many connections, a broken reply) is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import struct
from typing import Any

import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype
import psycopg

from hyops.adapters.probes_stream import Probe
from hyops.adapters.sampling import Look
from hyops.ports.signals import Watched, Watchlist

NOT_RECEIVING_S = 86400.0
IDLE_KEPT = 2
STATEMENTS = {
    "primary": "select (not pg_is_in_recovery())::int::float8",
    "standby": "select pg_is_in_recovery()::int::float8",
    "wal_received": "select case when status = 'streaming' then greatest(0, extract(epoch from clock_timestamp() - "
    "last_msg_receipt_time))::float8 when status is not null then 86400 end from pg_stat_wal_receiver",
    "lag_bytes": "select pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::float8",
}
FAILING = ("53100", "53200", "57P01", "57P02", "57P03", "58", "XX")
"""What a server says that cannot serve: disk or memory full, shutting down or starting up, I/O error, damaged. Every
other answer comes from one that lives, and turns the probe away or misunderstands it."""
OUR_ERRNOS = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL),
    *(errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENETDOWN),
}
"""This host's own faults: no descriptor, memory or port left, a rule of its own firewall, no network."""
CUT_SHARE = 0.9  # of the time limit: then the socket is shut, as psycopg waits seconds for a cancelled query
GREETING_BYTES_MAX = 8192


class PostgresProbe:
    """Keeps a connection per address and takes a fresh one whenever the kept one is busy or has failed."""

    def __init__(self, password: str | None = None) -> None:
        self._password = password
        self._idle: dict[tuple[str, int, str, str], list[Any]] = {}

    async def __call__(self, watched: Watched, watchlist: Watchlist) -> Look:
        """One look; never raises for what the network or the server does."""
        statement, limit_s = STATEMENTS[watched.signal.measure], watched.signal.timeout_s * CUT_SHARE
        user, dbname = login_of(watched, watchlist)
        idle = self._idle.setdefault((watched.address, watched.port, user, dbname), [])
        while idle:  # a kept connection that fails says nothing of the server; a fresh one does
            with contextlib.suppress(psycopg.Error, OSError):
                return self._value(watched, await self._row(idle.pop(), statement, idle, limit_s))
        try:
            connection = await psycopg.AsyncConnection.connect(
                host=watched.address,
                port=watched.port,
                user=user,
                dbname=dbname,
                password=self._password,
                prepare_threshold=None,
                autocommit=True,
                application_name=f"hyops-probe-{watchlist.vantage}",
                connect_timeout=max(2, int(watched.signal.timeout_s) + 1),
            )
        except (psycopg.Error, OSError) as exc:  # libpq hides why, and its words are in the server's language
            return self._failed(watched, exc, await greeting(watched, watchlist))
        try:
            return self._value(watched, await self._row(connection, statement, idle, limit_s))
        except (psycopg.Error, OSError) as exc:
            return self._failed(watched, exc, getattr(exc, "sqlstate", None))

    def close(self) -> None:
        """End the kept connections."""
        for idle in self._idle.values():
            for connection in idle:
                connection.pgconn.finish()
            idle.clear()

    @staticmethod
    async def _row(connection: Any, statement: str, idle: list[Any], limit_s: float) -> Any:
        kept, cut = False, None
        try:
            cut = asyncio.get_running_loop().call_later(limit_s, _shut, connection.fileno())
            row = await (await connection.execute(statement)).fetchone()
            kept = len(idle) < IDLE_KEPT
            return row
        finally:
            if cut is not None:
                cut.cancel()
            if kept:
                idle.append(connection)
            else:
                with contextlib.suppress(psycopg.Error, OSError):
                    connection.pgconn.finish()

    @staticmethod
    def _value(watched: Watched, row: Any) -> Look:
        value = row[0] if row else None
        if watched.signal.measure == "wal_received" and row is None:
            return Look(NOT_RECEIVING_S, "no WAL receiver is streaming")
        if watched.signal.measure == "wal_received" and value is None:
            return Look(None, "the WAL receiver's status is hidden: the probing user needs pg_monitor")
        return Look(value) if isinstance(value, float) else Look(None, "the server gave no number")

    @staticmethod
    def _failed(watched: Watched, exc: Exception, state: str | None) -> Look:
        """`state`: what the server said (SQLSTATE, "" when it only asked for a login), None when it said nothing."""
        text = " ".join(str(exc).split())[:300]
        bad = watched.signal.about == "primary" and (state is None or state.startswith(FAILING))
        return Look(0.0 if bad else None, text)


def login_of(watched: Watched, watchlist: Watchlist) -> tuple[str, str]:
    """User and database: those of the service, or of the whole watchlist."""
    return watched.user or watchlist.user, watched.dbname or watchlist.dbname


def _shut(fileno: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fileno)) as same:
        same.shutdown(socket.SHUT_RDWR)


async def greeting(watched: Watched, watchlist: Watchlist) -> str | None:
    """SQLSTATE of the server's answer to a start-up message, "" when it asks for a login, None when nobody answers.

    Raises:
        OSError: this host's own fault. ValueError: the peer is no PostgreSQL.
    """
    user, dbname = login_of(watched, watchlist)
    pairs = f"user\0{user}\0database\0{dbname}\0\0".encode()
    try:
        reader, writer = await asyncio.open_connection(watched.address, watched.port)
    except OSError as exc:
        if ours(exc):
            raise
        return None
    try:
        writer.write(struct.pack("!ii", len(pairs) + 8, 196608) + pairs)
        kind, length = struct.unpack("!ci", await reader.readexactly(5))
        if kind not in (b"R", b"E") or not 4 <= length <= GREETING_BYTES_MAX:
            raise ValueError("the answer is not of PostgreSQL")
        fields = (await reader.readexactly(length - 4)).split(b"\0")
    except (OSError, EOFError):
        return None
    finally:
        writer.transport.abort()
    return "" if kind == b"R" else next((f[1:].decode() for f in fields if f[:1] == b"C"), "")


def ours(exc: OSError) -> bool:
    """Whether the fault lies on this host, so that it tells nothing of the other one."""
    return isinstance(exc, socket.gaierror) or exc.errno in OUR_ERRNOS


async def probe_tcp(watched: Watched, watchlist: Watchlist) -> Look:
    """1 when the port takes a connection, 0 when it refuses or is silent."""
    try:
        _, writer = await asyncio.open_connection(watched.address, watched.port)
    except OSError as exc:
        return Look(None if ours(exc) else 0.0, exc.strerror or str(exc))
    writer.transport.abort()
    return Look(1.0)


async def probe_dns(watched: Watched, watchlist: Watchlist) -> Look:
    """1 when the authority answers with the address of the member that is asked about, 0 when with another or none."""
    host, _, port = (watched.authority or "").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return Look(None, f"authority {watched.authority!r} is not address:port")
    query = dns.message.make_query(watched.endpoint or "", dns.rdatatype.A)
    try:
        # a datagram that is no answer to the query is passed over: anybody may have sent it
        reply = await dns.asyncquery.udp(
            query, host, port=int(port), timeout=watched.signal.timeout_s, ignore_unexpected=True, ignore_errors=True
        )
    except dns.exception.Timeout:
        return Look(0.0, "the authority is silent")
    except (dns.exception.DNSException, OSError, ValueError) as exc:
        return Look(None, str(exc)[:300])
    found = sorted(item.address for rrset in reply.answer for item in rrset if item.rdtype == dns.rdatatype.A)
    return Look(float(found == [watched.address]), ", ".join(found) or "no address")


def network_probes(password: str | None = None) -> dict[str, Probe]:
    """One probe per source that a vantage point can look at; the password is that of the probing database user."""
    return {"postgresql": PostgresProbe(password), "tcp": probe_tcp, "dns": probe_dns, "http": HttpWhenAsked()}


class HttpWhenAsked:
    """The HTTP probe; its client is loaded by the first look, so who watches no HTTP does without its 5 MB."""

    def __init__(self) -> None:
        self._probe: Probe | None = None

    async def __call__(self, watched: Watched, watchlist: Watchlist) -> Look:
        """One look."""
        if self._probe is None:
            from hyops.adapters.probes_http import HttpProbe

            self._probe = HttpProbe()
        return await self._probe(watched, watchlist)
