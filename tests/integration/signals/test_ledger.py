"""The ledger over a real sshd, and the count of surviving rows in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.driver_count_loss import count
from hyops.adapters.ledger import PostgresRowCounter, SshLedger
from hyops.errors import TargetError
from hyops_lab.guest import ledger_ranges


def ledger(sshd: Any, timeout_s: float = 20.0) -> SshLedger:
    """Of the host behind the server."""
    target = sshd.target
    return SshLedger(
        host=target.host,
        address=target.address,
        user=target.user,
        key_file=target.key_file,
        known_hosts=target.known_hosts_file,
        timeout_s=timeout_s,
        port=target.port,
    )


def counter(timeout_s: float = 20.0, **words: Any) -> PostgresRowCounter:
    """Of the table `public.acked`."""
    return PostgresRowCounter(
        table=words.pop("table", "public.acked"),
        column="id",
        dsn={"user": "plain", "dbname": "postgres", **words},
        timeout_s=timeout_s,
    )


@pytest.fixture
def rows(pair: Any) -> Iterator[Any]:
    """A table of ids on the primary; gives the pair."""
    pair.primary.sql("create table acked(id bigint); grant select on acked to plain")
    try:
        yield pair
    finally:
        pair.primary.sql("drop table acked")


def surviving(pair: Any, ranges: list[tuple[int, int]], **words: Any) -> tuple[int, list[int]]:
    """Counted on the primary."""
    return asyncio.run(counter(**words).surviving("127.0.0.1", pair.primary.port, ranges))


@pytest.mark.fault(25)
@pytest.mark.req("EVD-1")
def test_a_client_file_and_a_table_give_the_exact_loss(sshd: Any, rows: Any, tmp_path: Path) -> None:
    """From the client's own file through SSH to the rows of the database: which ids are lost, and no other."""
    file = tmp_path / "ledger"
    file.write_text("".join(f"{n} 1 2 10.77.1.10\n" for n in [*range(1, 101), *range(120, 131)]) + "131 1")
    sshd.command(f"exec {sys.executable} -IS {ledger_ranges.__file__} {file}")
    rows.primary.sql("insert into acked select n from generate_series(1, 125) n where n not in (7, 50, 51)")

    loss = asyncio.run(count(ledger(sshd), counter(), "127.0.0.1", rows.primary.port))

    assert (loss.acknowledged, loss.surviving, loss.lost) == (111, 103, 8)
    assert loss.lost_ids == (7, 50, 51, 126, 127, 128, 129, 130)
    assert loss.how == "exact"


def test_a_row_that_stands_twice_hides_no_lost_one(rows: Any) -> None:
    """Without a unique key duplicates must not make up for what is gone."""
    rows.primary.sql("insert into acked values (1), (1), (1), (3)")

    assert surviving(rows, [(1, 3)]) == (2, [2])


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], (0, [])),
        ([(5, 5)], (1, [])),
        ([(4, 6)], (1, [4, 6])),
        ([(1, 2), (3, 5), (6, 6)], (1, [1, 2, 3, 4, 6])),
        ([(1, 10**9)], (1, [1, 2, 3, 4, *range(6, 1002)])),
    ],
    ids=["none", "all", "edges", "touching", "vast"],
)
def test_ranges_are_counted_to_their_edges(
    rows: Any, ranges: list[tuple[int, int]], expected: tuple[int, list[int]]
) -> None:
    """Also a range of a thousand million ids, of which the first thousand lost ones are named."""
    rows.primary.sql("insert into acked values (5)")

    assert surviving(rows, ranges) == expected


@pytest.mark.req("EVD-1")
def test_a_standby_is_not_counted(rows: Any) -> None:
    """What a standby has now is not what it will have: refused, not a number."""
    with pytest.raises(TargetError, match="standby"):
        asyncio.run(counter(table="public.ledger", user="postgres").surviving("127.0.0.1", rows.standby.port, [(1, 2)]))


@pytest.mark.parametrize(
    "words",
    [{"table": "no_such"}, {"dbname": "no_such"}, {"user": "locked"}, {"table": 'acked"; drop table acked; --'}],
)
def test_a_count_that_fails_is_an_error(rows: Any, words: dict[str, str]) -> None:
    """No table, database or right: TargetError, never 0 survivors."""
    with pytest.raises(TargetError):
        surviving(rows, [(1, 2)], **words)


def test_a_frozen_database_ends_the_count_at_its_limit(rows: Any) -> None:
    """The server accepts and never answers: TargetError soon after the limit."""

    async def run() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TargetError):
            await counter(timeout_s=0.5).surviving("127.0.0.1", rows.primary.port, [(1, 2)])
        return loop.time() - began

    postmaster = int((rows.primary.data / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGSTOP)
    try:
        took = asyncio.run(run())
    finally:
        os.kill(postmaster, signal.SIGCONT)
    assert took < 20  # without the limit: for ever


def test_a_lock_that_is_held_ends_the_count_at_its_limit(rows: Any) -> None:
    """Somebody holds the table: the count ends by its time limit, and the server does not go on with it."""
    import psycopg

    with psycopg.connect(host="127.0.0.1", port=rows.primary.port, user="postgres", dbname="postgres") as holder:
        holder.execute("lock table acked in access exclusive mode")
        with pytest.raises(TargetError):
            surviving(rows, [(1, 2)], timeout_s=0.5)
    assert rows.primary.sql("select count(*) from pg_stat_activity where usename = 'plain' and state = 'active'") == "0"


@pytest.mark.fault(16)
@pytest.mark.req("RUN-3")
def test_a_changed_host_key_gives_no_ledger(sshd: Any) -> None:
    """Refused before the command runs."""
    sshd.command(f"touch {sshd.folder}/ran; echo '{json.dumps({'ranges': []})}'")
    sshd.pin("other_key")

    with pytest.raises(TargetError, match=r"[Hh]ost key"):
        asyncio.run(ledger(sshd).acknowledged())
    assert not (sshd.folder / "ran").exists()


@pytest.mark.req("INV-5")
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo '{\"ranges\": []}'; exit 1", "exit 1"),
        ("echo '{\"ranges\": []}'; kill -9 $$", "exit"),
        ("exit 0", "empty"),
        ("echo hello", "ledger on witness"),
        ("head -c 50000000 /dev/zero", "more than"),
    ],
    ids=["failed", "killed", "nothing", "text", "endless"],
)
def test_an_answer_that_may_be_cut_off_is_no_ledger(sshd: Any, script: str, why: str) -> None:
    """Only a command that ended well gives ranges; a good-looking half does not."""
    sshd.command(script)

    with pytest.raises(TargetError, match=why):
        asyncio.run(ledger(sshd).acknowledged())


@pytest.mark.fault(14)
def test_a_host_that_says_nothing_ends_at_the_limit(sshd: Any) -> None:
    """The command hangs: TargetError at the limit."""
    sshd.command("exec cat >&2")

    with pytest.raises(TargetError, match="in time"):
        asyncio.run(ledger(sshd, timeout_s=1.0).acknowledged())


def test_a_host_that_is_not_there_is_an_error(sshd: Any) -> None:
    """Nobody listens: TargetError."""
    sshd.kill()

    with pytest.raises(TargetError, match="ledger on witness"):
        asyncio.run(ledger(sshd).acknowledged())
