"""Write one row at a time and keep a ledger of the ids whose commit was acknowledged.

Files in the configured folder, one line per id: `ledger` (acknowledged), `in-doubt` (the connection was lost before
the reply), `refused` (the server said no). A line is `<id> <monotonic ns> <wall ns> <server address> [SQLSTATE]` and
is written after the reply; an id is never used twice.
"""

import json
import os
import random
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rdatatype
import psycopg

TIMEOUT_S = 1.0
RETRY_S = 0.02
PORT = 5432


class Watchdog:
    """Break the connection of a statement that has no reply in time, as a client with a socket timeout does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._socket: int | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self, connection: "psycopg.Connection[Any]") -> None:
        """The reply to a statement on `connection` is due in `TIMEOUT_S`."""
        with self._lock:
            self._deadline, self._socket = time.monotonic() + TIMEOUT_S, connection.fileno()

    def end(self) -> None:
        """The reply came, or the connection failed."""
        with self._lock:
            self._deadline = None

    def _watch(self) -> None:
        while True:
            time.sleep(0.05)
            with self._lock:
                if self._deadline is not None and self._socket is not None and time.monotonic() > self._deadline:
                    self._deadline = None
                    broken = socket.socket(fileno=os.dup(self._socket))
                    with broken:
                        broken.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Write until stopped."""
    config = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) for name in NAMES}
    next_id = max([config["first_id"] - 1, *(last_id(folder / name) for name in NAMES)]) + 1
    watchdog = Watchdog()
    connection: psycopg.Connection[Any] | None = None
    address = ""
    while True:
        started = time.monotonic()
        if connection is None:
            try:
                address = config["address"] or resolve(config["endpoint"], config["nameserver"])
                connection = connect(address, config["password"])
            except (OSError, dns.exception.DNSException, psycopg.Error):
                time.sleep(RETRY_S)
                continue
        outcome, keep, detail = write(connection, watchdog, next_id, address)
        line = f"{next_id} {time.monotonic_ns()} {time.time_ns()} {address} {detail}".rstrip() + "\n"
        os.write(files[outcome], line.encode())
        next_id += 1
        # a client that follows DNS asks again after a refusal; one that keeps its connection just goes on
        if not keep or (outcome != "ledger" and config["address"] is None):
            connection.close()
            connection = None
            time.sleep(RETRY_S)
        else:
            time.sleep(max(0.0, config["interval_s"] - (time.monotonic() - started)))


NAMES = ("ledger", "in-doubt", "refused")


def write(
    connection: "psycopg.Connection[Any]", watchdog: Watchdog, row_id: int, address: str
) -> tuple[str, bool, str]:
    """Write one row; return the file that its id belongs to, whether the connection still serves, and the SQLSTATE."""
    watchdog.begin(connection)
    try:
        connection.execute("INSERT INTO ledger (id, via) VALUES (%s, %s)", (row_id, address), prepare=True)
    except psycopg.OperationalError as error:  # also a server that is shutting down: it may have committed
        return "in-doubt", False, error.sqlstate or ""
    except psycopg.Error as error:
        return "refused", not connection.closed, error.sqlstate or ""
    finally:
        watchdog.end()
    return "ledger", True, ""


def connect(address: str, password: str) -> "psycopg.Connection[Any]":
    """Connect, or fail within about a second also where nothing answers; libpq itself waits two at least."""
    socket.create_connection((address, PORT), TIMEOUT_S).close()
    return psycopg.connect(
        host=address,
        port=PORT,
        user="app",
        dbname="app",
        password=password,
        autocommit=True,
        connect_timeout=2,
        tcp_user_timeout=1000,
        keepalives_idle=1,
        keepalives_interval=1,
        keepalives_count=1,
    )


def resolve(name: str, nameserver: str) -> str:
    """Ask the authority itself for the address; nothing is cached."""
    query = dns.message.make_query(name, dns.rdatatype.A, id=random.randrange(1 << 16))
    reply = dns.query.udp(query, nameserver, timeout=TIMEOUT_S)
    for rrset in reply.answer:
        for record in rrset:
            if record.rdtype == dns.rdatatype.A:
                return str(record)
    raise OSError(f"no address for {name}")


def last_id(path: Path) -> int:
    """Return the last id in a file, 0 if there is none."""
    if not path.exists():
        return 0
    lines = path.read_text().splitlines()
    return int(lines[-1].split()[0]) if lines else 0


if __name__ == "__main__":
    main()
