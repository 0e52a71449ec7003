"""A real etcd of three members on loopback, each with its own folder and fsync, and what a client sees arrive in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any

from hyops.adapters.etcd_gateway import EtcdGateway
from hyops.adapters.etcd_records_keys import SLOTS, Keys, event_of, put
from hyops.model.base import Record
from hyops.model.etcd import EtcdStore

MEMBERS = 3
PUTS_AT_ONCE = 100  # etcd takes 128 in a transaction
READY_LIMIT_S = 60.0


@contextmanager
def cluster(folder: Path) -> Iterator[list[str]]:
    """Members as the lab runs them (heartbeat 50 ms, election 500 ms); yields their endpoints, ends them by id."""
    ports = _ports(2 * MEMBERS)
    clients = [f"http://127.0.0.1:{port}" for port in ports[:MEMBERS]]
    peers = [f"http://127.0.0.1:{port}" for port in ports[MEMBERS:]]
    whole = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
    processes = []
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            words = ["etcd", "--name", f"m{number}", "--data-dir", str(folder / f"m{number}")]
            words += ["--listen-client-urls", client, "--advertise-client-urls", client]
            words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", whole]
            words += ["--heartbeat-interval", "50", "--election-timeout", "500"]
            with (folder / f"m{number}.log").open("wb") as log:
                processes.append(subprocess.Popen(words, stdout=log, stderr=log))
        for client in clients:
            _wait_until_healthy(client, folder)
        yield clients
    finally:
        for process in processes:
            process.kill()
            process.wait()


def fill(store: EtcdStore, places: Iterable[tuple[str, str, Record, str | None]]) -> None:
    """Put down what creations would have left: records, slots and marks (stage, kind, record and slot of each)."""
    work: list[dict[str, Any]] = []
    marks: dict[str, dict[str, Any]] = {}
    for stage, kind, record, slot in places:
        keys = Keys(store.env, stage, kind)
        work.append(put(keys.prefix + record.record_id, record.encoded()))
        work += [put(keys.slot(slot), record.record_id.encode())] if slot is not None else []
        marks[keys.mark] = put(keys.mark, b"bench")

    async def send() -> None:
        gateway = EtcdGateway(store.endpoints, attempt_s=30.0, stagger_s=30.0, limit_s=30.0)
        try:
            for start in range(0, len(work), PUTS_AT_ONCE):
                await gateway.call("/v3/kv/txn", {"success": work[start : start + PUTS_AT_ONCE]})
            if marks:
                await gateway.call("/v3/kv/txn", {"success": list(marks.values())})
        finally:
            await gateway.close()

    asyncio.run(send())


class Arrivals:
    """A watch of one kind of record, by a thread of its own: `next` is when a record was seen, on the bench's clock."""

    def __init__(self, endpoints: list[str], keys: Keys) -> None:
        self._endpoints, self._keys = endpoints, keys
        self._seen: Queue[float] = Queue()
        self._watching = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def next(self, limit_s: float) -> float:
        """`time.perf_counter()` when the next record came; TimeoutError when none did within `limit_s`."""
        try:
            return self._seen.get(timeout=limit_s)
        except Empty:
            raise TimeoutError(f"no attempt within {limit_s:g} s") from None

    def __enter__(self) -> Arrivals:
        self._thread.start()
        if not self._watching.wait(READY_LIMIT_S):
            raise TimeoutError("no member of etcd says that it watches")
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._watch())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _watch(self) -> None:
        gateway = EtcdGateway(self._endpoints, attempt_s=1.0, limit_s=10.0)
        try:
            stream = gateway.stream(self._keys.prefix, self._keys.end, 0, 0, created_s=READY_LIMIT_S)
            async for result in stream:
                at = time.perf_counter()
                self._watching.set()
                names = [event_of(event)[0].removeprefix(self._keys.prefix) for event in result.get("events", [])]
                for name in names:
                    if not name.startswith((SLOTS, ".")):
                        self._seen.put(at)
        finally:
            await gateway.close()


def _wait_until_healthy(client: str, folder: Path) -> None:
    end = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(f"{client}/health", timeout=1.0) as reply:
            if json.load(reply).get("health") == "true":
                return
        time.sleep(0.05)
    raise TimeoutError(f"etcd {client} is not healthy within {READY_LIMIT_S:g} s; see {folder}/*.log")


def _ports(count: int) -> list[int]:
    """Free ones below those that the kernel gives to connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found
