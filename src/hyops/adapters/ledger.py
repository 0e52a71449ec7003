"""The ledger of a service's writers over SSH, and the count of what survived over PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

from hyops.adapters.ssh_pinned import SshTarget, forced_command
from hyops.errors import RecordError, TargetError
from hyops.model import canonical

if TYPE_CHECKING:
    import psycopg

RANGES_MAX = 100_000
LEDGER_BYTES_MAX = canonical.BYTES_MAX
LOST_SHOWN_MAX = 1000

GAPS = """
with ranges (lo, hi) as (select * from unnest(%s::bigint[], %s::bigint[])),
marks as (
    select lo, t.{column} as id from ranges join {table} t on t.{column} between lo and hi
    union all select lo, lo - 1 from ranges
    union all select lo, hi + 1 from ranges),
gaps as (select id + 1 as first, lead(id) over (partition by lo order by id) - 1 as last from marks),
missing as (select first, last from gaps where last >= first)
select pg_is_in_recovery(), (select coalesce(sum(last - first + 1), 0)::bigint from missing),
    array(select first from missing order by first limit %s), array(select last from missing order by first limit %s)
"""
"""What is missing, from the gaps between rows that are there: one snapshot, and no work for ids that never were."""


def read_ranges(data: bytes, *, source: str) -> list[tuple[int, int]]:
    """Parse `{"ranges": [[first, last], ...]}`.

    Raises:
        TargetError: another shape, ranges that descend or overlap, or more than RANGES_MAX of them.
    """
    try:
        value = canonical.parse(data, source=source, bytes_max=LEDGER_BYTES_MAX)
        found = value["ranges"]
        if not isinstance(found, list) or len(found) > RANGES_MAX:
            raise TargetError(f"{source}: not a list of at most {RANGES_MAX} ranges")
        ranges = [(_id(first), _id(last)) for first, last in found]
    except (RecordError, TypeError, KeyError, ValueError) as exc:
        raise TargetError(f"{source}: not a ledger: {exc}") from exc
    before = None
    for first, last in ranges:
        if last < first or (before is not None and first <= before):
            raise TargetError(f"{source}: range {first}-{last} is out of order")
        before = last
    return ranges


def _id(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a row id")
    return value


class SshLedger:
    """Asks a host for its ledger through a forced command; the key can do nothing else there."""

    def __init__(
        self,
        *,
        host: str,
        address: str,
        user: str,
        key_file: str,
        known_hosts: str,
        timeout_s: float,
        port: int = 22,
    ) -> None:
        self._target, self._timeout_s = SshTarget(host, address, user, key_file, known_hosts, port), timeout_s

    async def acknowledged(self) -> list[tuple[int, int]]:
        """Inclusive ranges of acknowledged row ids; raises TargetError."""
        source = f"ledger on {self._target.host}"
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                forced_command(self._target, "ledger", limit_s=self._timeout_s) as process,
            ):
                data = bytearray()
                while chunk := await process.stdout.read(64 * 1024):
                    data += chunk
                    if len(data) > LEDGER_BYTES_MAX:
                        raise TargetError(f"{source}: more than {LEDGER_BYTES_MAX} bytes")
                await process.wait_closed()
                status = process.exit_status
        except OSError as exc:  # TimeoutError is one
            raise TargetError(f"{source}: {str(exc) or 'no answer in time'}") from exc
        if status != 0:  # None: the connection broke, so the ledger may be cut off
            raise TargetError(f"{source}: exit {status}")
        return read_ranges(bytes(data), source=source)


class PostgresRowCounter:
    """Counts ids of one table's key column."""

    def __init__(self, *, table: str, column: str, dsn: dict[str, Any], timeout_s: float) -> None:
        self._table, self._column, self._dsn, self._timeout_s = table, column, dsn, timeout_s

    async def surviving(self, address: str, port: int, ranges: list[tuple[int, int]]) -> tuple[int, list[int]]:
        """How many ids of `ranges` are there, and which (up to 1000) are not; raises TargetError.

        A standby is refused: what it has now is not what it will have.
        """
        import psycopg
        from psycopg import sql

        where, loop = f"counting rows at {address}:{port}", asyncio.get_running_loop()
        table, column = sql.Identifier(*self._table.split(".")), sql.Identifier(self._column)
        lows, highs = [lo for lo, _ in ranges], [hi for _, hi in ranges]
        deadline = loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._connected(address, port)
            # a cancelled query would wait for a silent server; one whose socket is shut ends at once
            cut = loop.call_at(deadline, _shut, connection.fileno())
            try:
                cursor = await connection.execute(
                    sql.SQL(GAPS).format(table=table, column=column), (lows, highs, LOST_SHOWN_MAX, LOST_SHOWN_MAX)
                )
                row = await cursor.fetchone()
            finally:
                cut.cancel()
                await connection.close()
        except TimeoutError as exc:
            raise TargetError(f"{where}: no connection within {self._timeout_s:g} s") from exc
        except (psycopg.Error, OSError) as exc:
            raise TargetError(f"{where}: {exc}") from exc
        assert row is not None
        in_recovery, missing, firsts, lasts = row
        if in_recovery:
            raise TargetError(f"{where}: it is a standby; the count would not be final")
        return sum(hi - lo + 1 for lo, hi in ranges) - int(missing), _spelled_out(firsts, lasts)

    async def _connected(self, address: str, port: int) -> psycopg.AsyncConnection[Any]:
        import psycopg

        limit = f"-c statement_timeout={max(1, int(self._timeout_s * 1000))}"
        dsn = {"host": address, "port": port, "options": limit, **self._dsn}
        return await psycopg.AsyncConnection.connect(autocommit=True, **dsn)


def _shut(fileno: int) -> None:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fileno)) as same:
        same.shutdown(socket.SHUT_RDWR)


def _spelled_out(firsts: list[int], lasts: list[int]) -> list[int]:
    shown: list[int] = []
    for first, last in zip(firsts, lasts, strict=True):
        shown.extend(range(first, min(last + 1, first + LOST_SHOWN_MAX - len(shown))))
    return shown
