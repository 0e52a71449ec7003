"""The PostgreSQL cluster on this host, under systemd or as a plain cluster (FEN-2).

Stopping is done with the server's own signals and waited for on a pidfd, because it must work when nothing else does;
systemd is told afterwards. SQL goes through `psql` as the database's user on the local socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hyops.adapters import postgres_control as control
from hyops.adapters.postgres_control import ClusterState
from hyops.errors import DeadlineError, TargetError
from hyops.ports.database import DatabaseFacts, Role, StoppedAt

OUTPUT_BYTES_MAX = 65_536
STREAMING_LIMIT_S = 15.0
UNNAMED_S = 0.5  # several times what a fast shutdown takes; a connection that speaks has done so long before
ENDING_S = 2.0  # of the time for a fast shutdown, at most half of it: for what is left when its senders are ended
_FACTS = """select pg_is_in_recovery(), (select system_identifier from pg_control_system()),
 case when pg_is_in_recovery() then null else pg_current_wal_lsn() end,
 pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(),
 case when pg_is_in_recovery() then coalesce((select received_tli from pg_stat_wal_receiver),
   (select timeline_id from pg_control_checkpoint())) else
   ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
 case when pg_is_in_recovery() then exists (select from pg_stat_wal_receiver where status = 'streaming')
   else exists (select from pg_stat_replication where state = 'streaming') end,
 case when pg_is_in_recovery() then pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
   else (select max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)) from pg_stat_replication) end"""

_SETTLED = """(select timeline_id from pg_control_checkpoint())
 = ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"""


@dataclass(frozen=True)
class PostgresPlace:
    """Where the cluster is and how it is started. With `unit`, systemd starts it; else `pg_ctl` with `options`."""

    data_dir: Path
    bin_dir: Path
    socket_dir: Path
    port: int = 5432
    os_user: str | None = "postgres"
    unit: str | None = None
    options: str = ""
    log_file: Path | None = None
    source: dict[str, str] = field(default_factory=lambda: {"user": "replicator"})
    """Connection words for following and rewinding: user, passfile, sslmode, ..."""


class LocalPostgres:
    """`LocalDatabase` for one cluster."""

    def __init__(self, place: PostgresPlace) -> None:
        self._place = place

    def role(self) -> Role:
        """From `postmaster.pid` and the control file: tens of microseconds."""
        server = control.running(self._place.data_dir)
        if server is None:
            return "stopped"
        state = control.read_control(self._place.data_dir).state
        if state == ClusterState.PRODUCTION and server.ready == "ready":
            return "primary"
        return "standby" if state == ClusterState.ARCHIVE_RECOVERY else "unknown"

    def would_start_as(self) -> Literal["primary", "standby", "absent"]:
        """A cluster without `standby.signal` starts as a primary, whatever it was before."""
        if not (self._place.data_dir / "PG_VERSION").exists():
            return "absent"
        return "standby" if (self._place.data_dir / "standby.signal").exists() else "primary"

    async def facts(self) -> DatabaseFacts:
        """Ask the server; a stopped one is reported from its control file."""
        if self.role() == "stopped":
            seen = control.read_control(self._place.data_dir)
            return DatabaseFacts("stopped", seen.system_identifier, seen.timeline)
        return self._facts_in(await self.sql(_FACTS, limit_s=5.0))

    @staticmethod
    def _facts_in(answer: str) -> DatabaseFacts:
        words = [word or None for word in answer.strip().split("|")]
        if len(words) != 8:
            raise TargetError(f"psql answered {answer[:200]!r}")
        recovery, system, lsn, received, replayed, timeline, streaming, lag = words
        return DatabaseFacts(
            role="standby" if recovery == "t" else "primary",
            system_identifier=system,
            timeline=int(timeline) if timeline else None,
            lsn=lsn,
            receive_lsn=received,
            replay_lsn=replayed,
            lag_bytes=int(lag) if lag else None,
            streaming=streaming == "t",
        )

    async def start(self, *, limit_s: float) -> None:
        """Start, and wait until the server has said that it is ready."""
        if self._place.unit is not None:
            await self._run("systemctl", "start", self._place.unit, limit_s=limit_s)
        elif control.running(self._place.data_dir) is None:
            place = self._place
            words = ["-D", str(place.data_dir), "-w", "-t", str(max(1, int(limit_s))), "-o", place.options]
            log = ["-l", str(place.log_file)] if place.log_file else []
            await self._as_owner(str(place.bin_dir / "pg_ctl"), "start", *words, *log, limit_s=limit_s)
        if self.role() == "stopped":
            raise TargetError("PostgreSQL did not start", hint="look at its log on the database host")

    async def stop(self, *, mode: Literal["fast", "immediate"], limit_s: float) -> None:
        """Signal the server and wait on its pidfd; an immediate stop that hangs becomes a kill."""
        server = control.running(self._place.data_dir)
        if server is not None and mode == "immediate":
            await self._end(server.pid, signal.SIGQUIT, limit_s)
        if server is not None and mode == "fast":
            await self._stop_fast(server.pid, limit_s)
        if mode == "immediate" and control.processes(self._place.data_dir):  # also backends without their postmaster
            await self.kill(limit_s=limit_s)
        if self._place.unit is not None:
            with contextlib.suppress(TargetError, DeadlineError):  # it is stopped; this tells systemd
                await self._run("systemctl", "stop", "--no-block", self._place.unit, limit_s=limit_s)

    async def _stop_fast(self, postmaster: int, limit_s: float) -> None:
        """A fast shutdown waits for more than it should, so who holds it up is ended, without any risk:
        - a connection that came in its very moment, until it has said who it is (`authentication_timeout`, 60 s by
          default): behind an edge that closes its words are lost. It would be refused in any case.
        - every standby, until it has confirmed the last record, and one that is half gone (`wal_sender_timeout`, 60 s
          by default): near the end of the time. Who promotes compares its position with where this server ended."""
        data_dir, loop = self._place.data_dir, asyncio.get_running_loop()
        end = loop.time() + limit_s
        patience = end - min(ENDING_S, limit_s / 2)
        left_s = math.inf
        while left_s > UNNAMED_S:
            left_s = max(0.0, patience - loop.time())
            if await self._end(postmaster, signal.SIGINT, min(UNNAMED_S, left_s)):
                return
            _terminate(control.unnamed(data_dir, postmaster))
        _terminate(control.wal_senders(data_dir))
        if not await self._end(postmaster, signal.SIGINT, max(0.0, end - loop.time())):
            left = "; ".join(f"{pid} {title}" for pid, title in control.titles(data_dir).items())
            raise DeadlineError(f"PostgreSQL has not stopped within {limit_s:g} s; left: {left}")

    async def kill(self, *, limit_s: float) -> None:
        """SIGKILL to the whole unit, then to whatever still works in the data folder: a backend outlives its
        postmaster for as long as it is busy, and may acknowledge meanwhile."""
        if self._place.unit is not None:
            with contextlib.suppress(TargetError, DeadlineError, OSError):  # who is left is killed one by one
                await self._run("systemctl", "kill", "--signal=KILL", self._place.unit, limit_s=limit_s)
        end = asyncio.get_running_loop().time() + limit_s
        while left := control.processes(self._place.data_dir):
            wait_s = end - asyncio.get_running_loop().time()
            gone = [await self._end(pid, signal.SIGKILL, wait_s) for pid in left] if wait_s > 0 else [False]
            if not all(gone):
                raise DeadlineError(f"PostgreSQL (processes {left}) has outlived a SIGKILL by {limit_s:g} s")

    async def stopped_at(self) -> StoppedAt:
        """The shutdown checkpoint."""
        seen = control.read_control(self._place.data_dir)
        if control.running(self._place.data_dir) is not None or seen.state != ClusterState.SHUT_DOWN:
            raise TargetError(f"PostgreSQL was not shut down cleanly as a primary: {seen.state.name}")
        return StoppedAt(seen.system_identifier, seen.timeline, seen.checkpoint_lsn)

    async def checkpoint(self, *, limit_s: float) -> None:
        """Write a checkpoint."""
        await self.sql("checkpoint", limit_s=limit_s)

    async def promote(self, *, limit_s: float) -> DatabaseFacts:
        """`pg_promote` where there is still a standby, then look for oneself; both in one call of psql."""
        once = f"select case when pg_is_in_recovery() then pg_promote(true, {max(1, int(limit_s))}) end"
        said = await self.sql(once, _FACTS, limit_s=limit_s)
        facts = self._facts_in(said.strip().rpartition("\n")[2])  # the last line: the server may have warned
        if facts.role != "primary":
            raise TargetError("pg_promote returned and the database is still in recovery", hint="look at its log")
        end = asyncio.get_running_loop().time() + limit_s
        while self.role() != "primary":  # the server writes its files a moment after it takes writes
            if asyncio.get_running_loop().time() > end:
                raise DeadlineError("the promoted database does not say that it is ready")
            await asyncio.sleep(0.005)
        return facts

    async def ensure_slots(self, names: list[str]) -> None:
        """Create what is missing; reserves WAL from now on, so that an old primary can come back."""
        for name in names:
            if not re.fullmatch(r"[a-z0-9_]{1,63}", name):
                raise TargetError(f"{name!r} is not a slot name")
            await self.sql(
                f"select pg_create_physical_replication_slot('{name}', true)"  # noqa: S608  # checked above
                f" where not exists (select from pg_replication_slots where slot_name = '{name}')",
                limit_s=5.0,
            )

    async def follow(self, *, address: str, port: int, slot: str, limit_s: float) -> bool:
        """Stop, rewind a former primary, write who is followed, start."""
        place = self._place
        was_primary = self.would_start_as() == "primary"
        await self.stop(mode="fast", limit_s=limit_s)
        words = {"host": address, "port": str(port), "connect_timeout": "3"} | place.source
        rewound = False
        if was_primary:
            source = _conninfo(words | {"dbname": words.get("dbname", "postgres")})
            await self._source_is_settled(source, limit_s)
            told = await self._as_owner(
                str(place.bin_dir / "pg_rewind"),
                *("-D", str(place.data_dir), "--source-server", source, *_rewind_options(place)),
                limit_s=limit_s,
            )
            rewound = "no rewind required" not in told
        name = words | {"application_name": slot}
        _write_following(place.data_dir, _conninfo({k: v for k, v in name.items() if k != "dbname"}), slot)
        await self.start(limit_s=limit_s)
        await self._until("(select status from pg_stat_wal_receiver) = 'streaming'", None, STREAMING_LIMIT_S)
        return rewound

    async def _source_is_settled(self, source: str, limit_s: float) -> None:
        """Wait for the new primary's first checkpoint: until then pg_rewind sees its old timeline there, says that
        nothing is to be done, and would leave this side's own rows in place."""
        await self._until(_SETTLED, source, limit_s)

    async def _until(self, condition: str, source: str | None, limit_s: float) -> None:
        """Ask (here, or at `source`) until the condition holds; PostgreSQL has no event for these."""
        end = asyncio.get_running_loop().time() + limit_s
        while True:
            try:
                if (await self.sql(f"select {condition}", limit_s=5.0, source=source)).strip() == "t":
                    return
                fault = f"not yet true: {condition}"
            except TargetError as exc:
                fault = exc.message
            if asyncio.get_running_loop().time() >= end:
                raise TargetError(f"{fault}", hint="look at PostgreSQL's logs on both sides")
            await asyncio.sleep(0.05)

    async def sql(self, *queries: str, limit_s: float, source: str | None = None) -> str:
        """One statement after the other, unaligned output; on the local socket, or where `source` (a conninfo) says."""
        place = self._place
        here = f"host={place.socket_dir} port={place.port} dbname=postgres"
        words = ["-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", source or here]
        words += [word for query in queries for word in ("-c", query)]
        return await self._as_owner(str(place.bin_dir / "psql"), *words, limit_s=limit_s)

    async def _end(self, pid: int, how: signal.Signals, limit_s: float) -> bool:
        """Signal and wait for the end of the process; True when it is gone."""
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            if not control.is_postmaster(pid, self._place.data_dir):
                return True
            loop, gone = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(handle, gone.set)
            try:
                signal.pidfd_send_signal(handle, how)
                async with asyncio.timeout(limit_s):
                    await gone.wait()
            except ProcessLookupError:
                return True
            except TimeoutError:
                return False
            finally:
                loop.remove_reader(handle)
            return True
        finally:
            os.close(handle)

    async def _as_owner(self, *argv: str, limit_s: float) -> str:
        owner = self._place.os_user
        prefix = ["runuser", "-u", owner, "--"] if owner is not None and os.geteuid() == 0 else []
        return await self._run(*prefix, *argv, limit_s=limit_s)

    async def _run(self, *argv: str, limit_s: float) -> str:
        """Run one program; its output, or TargetError with what it said."""
        read, write = os.pipe()  # not a pipe of asyncio: a server that pg_ctl leaves behind would keep it open
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=write, stderr=write, cwd="/", start_new_session=True
            )
            os.close(write)
            write = -1
            try:
                async with asyncio.timeout(limit_s + 1.0):
                    code = await process.wait()
            except TimeoutError as exc:
                process.kill()
                await process.wait()
                raise DeadlineError(f"{argv[0]} took more than {limit_s:g} s") from exc
            os.set_blocking(read, False)
            said = b""
            with contextlib.suppress(BlockingIOError):
                said = os.read(read, OUTPUT_BYTES_MAX)
        except OSError as exc:
            raise TargetError(f"cannot run {argv[0]}: {exc}") from exc
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)
        text = said.decode(errors="replace")
        if code != 0:
            raise TargetError(f"{Path(argv[0]).name} ended with {code}: {text.strip()[-500:]}")
        return text


def _terminate(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _rewind_options(place: PostgresPlace) -> list[str]:
    """Debian keeps `postgresql.conf` outside the data folder; pg_rewind must be told for its own crash recovery."""
    match = re.search(r"config_file=(\S+)", place.options)
    return ["--config-file", match.group(1)] if match else []


def _conninfo(words: dict[str, str]) -> str:
    def quoted(value: str) -> str:
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

    return " ".join(f"{key}={quoted(value)}" for key, value in words.items())


def _write_following(data_dir: Path, conninfo: str, slot: str) -> None:
    """Make it a standby and name its primary; standby.signal first: a crash must not leave a primary."""
    auto = data_dir / "postgresql.auto.conf"
    owner = data_dir.stat()
    old = auto.read_text(encoding="utf-8").splitlines() if auto.exists() else []
    kept = [line for line in old if not re.match(r"\s*(primary_conninfo|primary_slot_name)\s*=", line)]
    literal = conninfo.replace("'", "''")
    new = "\n".join([*kept, f"primary_conninfo = '{literal}'", f"primary_slot_name = '{slot}'", ""])
    for path, text in ((data_dir / "standby.signal", ""), (auto, new)):
        partial = path.with_name(path.name + ".hyops")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, text.encode())
            os.fchown(handle, owner.st_uid, owner.st_gid)
            os.fsync(handle)
        finally:
            os.close(handle)
        partial.rename(path)
