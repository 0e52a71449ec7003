"""The write probe over psycopg: one fresh connection, one row, one commit (FEN-1).

Only a reset or refused connection counts as `refused`. A server that answers "shutting down", "starting up" or
"password wrong" is alive and proves nothing, so it is `unreachable` with what it said; a connection that breaks after
the row was sent may have committed, so that proves nothing either.
"""

from __future__ import annotations

import asyncio
import errno
import re
import time
import uuid
from collections.abc import Mapping

import psycopg
from psycopg import errors, sql

from hyops.ports.probe import WriteProbeResult, WriteVerdict

_REFUSED = re.compile(r"Connection refused|Connection reset by peer", re.IGNORECASE)


class PsycopgWriteProbe:
    """`WriteProbe`. `conninfo`: the words that are the same everywhere (dbname, user, password or passfile, ...)."""

    def __init__(self, conninfo: Mapping[str, str], *, table: str = "hyops_probe", vantage: str = "probe") -> None:
        self._conninfo = dict(conninfo)
        self._table = sql.Identifier(*table.split("."))
        self._vantage = vantage

    async def try_write(self, *, address: str, port: int, generation: int, timeout_s: float) -> WriteProbeResult:
        """Never raises for what it may meet."""
        started = time.monotonic()
        verdict, saw, answered = WriteVerdict.UNREACHABLE, f"no answer within {timeout_s:g} s", False
        try:
            async with asyncio.timeout(timeout_s):
                refused = await _connect_refused(address, port)
                answered = True
                if refused is not None:
                    verdict, saw = WriteVerdict.REFUSED, refused
                else:
                    verdict, saw = await self._write(address, port, generation)
        except TimeoutError:
            pass
        except (psycopg.Error, OSError, ValueError) as exc:
            saw = f"{type(exc).__name__}: {_first_line(exc)}"
        return WriteProbeResult(verdict, saw, time.monotonic() - started, answered)

    async def _write(self, address: str, port: int, generation: int) -> tuple[WriteVerdict, str]:
        words = self._conninfo | {"host": address, "port": str(port), "application_name": "hyops-probe"}
        try:
            link = await psycopg.AsyncConnection.connect(**words, autocommit=True)  # type: ignore[arg-type]
        except psycopg.OperationalError as exc:
            if exc.sqlstate is None and _REFUSED.search(str(exc)):
                return WriteVerdict.REFUSED, _first_line(exc)
            return WriteVerdict.UNREACHABLE, _first_line(exc)
        try:
            row = (f"{self._vantage}-{uuid.uuid4().hex[:16]}", generation)
            statement = sql.SQL("insert into {} (probe_id, generation) values (%s, %s)").format(self._table)
            await link.execute(statement, row)
        except errors.ReadOnlySqlTransaction as exc:
            return WriteVerdict.READ_ONLY, _first_line(exc)
        finally:
            await link.close()
        return WriteVerdict.ACCEPTED, f"row {row[0]} committed"


async def _connect_refused(address: str, port: int) -> str | None:
    """What the plain connection met, when it was refused; libpq would only say it in a translated text."""
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError as exc:
        if exc.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
            return f"connection refused: {exc.strerror}"
        raise
    writer.close()
    return None


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
