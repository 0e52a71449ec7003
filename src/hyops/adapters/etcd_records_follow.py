"""Keeping one mirror up to date: a read of everything, then a watch from there, on another member whenever one fails.

A read of everything lists names at one revision, in pages, and then fetches only what is not known yet. It is made at
the start, when etcd has compacted what the watch would go on from, when `confirm` found the mirror behind, and every
`RESCAN_S`. A watch is never believed to be complete: `confirm` compares.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from hyops.adapters import etcd_records_keys as k
from hyops.adapters.etcd_gateway import COMPACTED, EtcdGateway, EtcdRefusedError
from hyops.adapters.etcd_records_mirror import Mirror
from hyops.errors import RecordError
from hyops.ports.lease import QuorumLostError

NAMES_A_PAGE = 1000  # some 250 bytes each
VALUES_AT_ONCE = 64
ONE_VALUE_MAX = 8 * 1024 * 1024
RESCAN_S = 300.0
PAUSE_S = 0.1
LOAD_TRIES = 3


class Follower:
    """One kind of record. Everything here runs in the session's thread, but for `listen`."""

    def __init__(
        self,
        keys: k.Keys,
        gateway: Callable[[], EtcdGateway],
        saw: Callable[[int], None],
        foresee: Callable[[], None] = lambda: None,
    ) -> None:
        """`foresee` is called when something came that somebody listens for, who is going to look."""
        self.keys, self.mirror = keys, Mirror()
        self._gateway, self._saw, self._foresee = gateway, saw, foresee
        self._moved = asyncio.Event()
        self._restart = asyncio.Event()
        self._listeners: set[Callable[[], None]] = set()
        self._which = 0

    def listen(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call it, in the session's thread, whenever something may have changed; returns what ends that."""
        self._listeners.add(call)
        return lambda: self._listeners.discard(call)

    def wake(self) -> None:
        """Something may have changed."""
        self._moved.set()
        self._moved = asyncio.Event()
        for call in list(self._listeners):
            call()

    async def moved(self) -> None:
        """Until the next event."""
        await self._moved.wait()

    async def renew(self) -> None:
        """Read everything, and watch another member from there."""
        await self.load()
        self._restart.set()

    async def load(self, progress: Callable[[], None] = lambda: None) -> None:
        """Read what is not known, and forget what is gone; `progress` is called for each part that arrived.

        Raises:
            QuorumLostError: etcd did not answer, or refused.
        """
        for left in reversed(range(LOAD_TRIES)):
            try:
                await self._load(progress)
            except EtcdRefusedError as exc:
                if exc.code != COMPACTED or not left:
                    raise
            else:
                return

    async def _load(self, progress: Callable[[], None]) -> None:
        there, revision = await self._names(progress)
        # the mark says that everything before it is here, so it is read last
        unknown = sorted(self.mirror.unknown(there), key=lambda name: name == k.MARK)
        at_once = VALUES_AT_ONCE
        while unknown:
            reads = [k.get(self.keys.prefix + name, revision=revision) for name in unknown[:at_once]]
            try:
                most = {} if len(reads) > 1 else {"answer_max": ONE_VALUE_MAX}
                answer = await self._gateway().call("/v3/kv/txn", {"success": reads}, **most)
            except EtcdRefusedError as exc:
                if exc.code != 0 or len(reads) == 1:
                    raise
                at_once = max(1, len(reads) // 4)
                continue
            for number, name in enumerate(unknown[: len(reads)]):
                if (kept := k.found(answer, number)) is not None:
                    self.mirror.put(name, kept)
            progress()
            unknown, at_once = unknown[len(reads) :], min(VALUES_AT_ONCE, at_once * 2)
        self.mirror.keep_only(there, revision)
        self.mirror.complete = max(self.mirror.complete, revision)
        self._saw(max(there.values(), default=0))
        self.wake()

    async def _names(self, progress: Callable[[], None]) -> tuple[dict[str, int], int]:
        """Every name of one revision, with the revision of its last change."""
        there: dict[str, int] = {}
        low, revision = self.keys.prefix, 0
        while True:
            asked = k.page(low, self.keys.end, NAMES_A_PAGE, revision)
            answer = await self._gateway().call("/v3/kv/txn", {"success": [asked]})
            revision = revision or k.revision_of(answer)
            some = k.names(answer, 0)
            progress()
            there |= {key.removeprefix(self.keys.prefix): kept.changed for key, kept in some}
            if len(some) < NAMES_A_PAGE:
                return there, revision
            low = some[-1][0] + "\0"

    async def run(self) -> None:
        """For ever: watch, and read again where a watch cannot go on."""
        while True:
            self._restart.clear()
            watch = asyncio.ensure_future(self._watch())
            restart = asyncio.ensure_future(self._restart.wait())
            try:
                await asyncio.wait({watch, restart}, timeout=RESCAN_S, return_when=asyncio.FIRST_COMPLETED)
                again = not restart.done()
            finally:
                for task in (watch, restart):
                    task.cancel()
                await asyncio.gather(watch, restart, return_exceptions=True)
            self._which += 1
            if again:
                with contextlib.suppress(QuorumLostError, RecordError):
                    await self.load()
                await asyncio.sleep(PAUSE_S)

    async def _watch(self) -> None:
        stream = self._gateway().stream(self.keys.prefix, self.keys.end, self.mirror.complete + 1, self._which)
        async with contextlib.aclosing(stream) as results:  # type: ignore[type-var]
            async for result in results:
                self._take(result)

    def _take(self, result: dict[str, Any]) -> None:
        events = [k.event_of(event) for event in result.get("events", [])]
        if not events:
            return
        for key, kept, revision in events:
            name = key.removeprefix(self.keys.prefix)
            if kept is None:
                self.mirror.drop(name, revision)
            else:
                self.mirror.put(name, kept)
        newest = max(revision for _, _, revision in events)
        self.mirror.complete = max(self.mirror.complete, newest)
        self._saw(newest)
        if self._listeners:
            self._foresee()
        self.wake()
