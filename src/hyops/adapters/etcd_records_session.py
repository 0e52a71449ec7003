"""One process's dealings with the records of one loop in etcd: a thread with an event loop, the mirrors, and the proof
that they are up to date.

Stages call the port synchronously in their own event loop, so the network has a thread of its own; what a stage asks
costs no request while nothing has happened. `confirm` reads, linearizably and in one transaction, the mark and the
number of keys of every mirror: from then on everything up to that revision is known, or the mirror is read anew. It
is repeated; and every second, and before a stage looks after anything new was seen anywhere, because a record is
understood only with those that it answers, the marks alone are read, which every creation writes. Etcd counts key by
key, and whoever writes meanwhile waits: of ten thousand records that takes milliseconds.
Without a quorum nothing is confirmed, and looking is an error: a stage that cannot know stops.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hyops.adapters import etcd_records_keys as k
from hyops.adapters.clock_system import boottime
from hyops.adapters.etcd_gateway import DENIED, EXHAUSTED, INVALID, UNKNOWN_TOKEN, EtcdGateway, EtcdRefusedError
from hyops.adapters.etcd_records_follow import Follower
from hyops.errors import Effect, PrerequisiteError, RecordError, StoreLostError
from hyops.ports.lease import QuorumLostError

T = TypeVar("T")
HEARTBEAT_S = 1.0
COUNTED_EVERY = 5  # heartbeats: what people put or removed, past the marks, and no watch told of, is known then
FRESH_S = 3.0  # a confirmation that is older, sleep included, is made anew before anything is believed
CALL_LIMIT_S = 2.0  # the stage's own event loop stands still meanwhile
CATCH_UP_S = 0.5  # a watch that is behind by more watches a member that is frozen or cut off
ASK_SHARE = 0.85  # of that for one request: it ends before the call, so that its reason is told
SLACK_S = 1.0
MAJORITY = (
    "see that a majority of etcd's members runs (`etcdctl endpoint health --cluster`); over TLS, see ca_file, "
    "cert_file and key_file of store.etcd too"
)
TOO_LARGE = "the record is larger than etcd takes (1.5 MiB by default): see what made it so large"
AGAIN = "whether it was written is not known; trying again is safe: it is written once at most"


class EtcdSession:
    """Opened lazily: a process that reads nothing starts no thread. `connect` runs in that thread."""

    def __init__(
        self,
        connect: Callable[[], EtcdGateway],
        env: str,
        place: str,
        *,
        call_limit_s: float = CALL_LIMIT_S,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`progress` is called, in the session's thread, whenever a part of what a stage waits for has arrived."""
        self._connect, self.env, self.place, self.progress = connect, env, place, progress
        self.call_limit_s, self.ask_limit_s = call_limit_s, ASK_SHARE * call_limit_s
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._gateway: EtcdGateway | None = None
        self._followers: list[Follower] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._confirming: asyncio.Lock | None = None
        self._confirmed, self._confirmed_s, self._cluster = 0, float("-inf"), ""
        self.seen = 0  # the revision of the newest thing that any mirror or answer has shown
        self.lost: str | None = None

    @property
    def gateway(self) -> EtcdGateway:
        """To be used in the session's own thread only."""
        assert self._gateway is not None
        return self._gateway

    def do(self, work: Callable[[], Coroutine[Any, Any, T]], limit_s: float | None = None) -> T:
        """Run in the session's thread and wait, at most `limit_s` (`call_limit_s`); what etcd refuses is our error.

        Raises:
            PrerequisiteError: the quorum is lost, or etcd refuses; what it means for a write is said by the caller.
        """

        limit_s = self.call_limit_s if limit_s is None else limit_s

        async def limited() -> T:
            async with asyncio.timeout(limit_s):
                return await work()

        future = asyncio.run_coroutine_threadsafe(limited(), self._running())
        try:
            return future.result(limit_s + SLACK_S)
        except (TimeoutError, concurrent.futures.TimeoutError) as exc:
            future.cancel()
            raise self.error(QuorumLostError(f"no answer within {limit_s:g} s")) from exc
        except QuorumLostError as exc:
            raise self.error(exc) from exc

    def ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The same, but for who asks often: where the quorum is known to be lost, that is said and nobody waits.

        Who finds it lost tells all the others; the heartbeat finds out when that is over.
        """
        self.refuse_lost()
        try:
            return self.do(work)
        except StoreLostError as exc:
            if self._followers:
                self._running().call_soon_threadsafe(self._told, str(exc.__cause__) or "no answer in time")
            raise

    def refuse_lost(self) -> None:
        """Raise StoreLostError where the quorum is known to be lost and somebody will find out when it is back."""
        if self.lost is not None and self._followers:
            raise self.error(QuorumLostError(self.lost))

    def error(self, exc: QuorumLostError, *, writing: bool = False) -> PrerequisiteError:
        """What an operator reads of a failed request."""
        hint, effect = MAJORITY, Effect.NONE
        if isinstance(exc, EtcdRefusedError):
            hint = _mend(exc)
            why = f"{self.place}: refused: {exc}" + ("; nothing was written" if writing else "")
        else:
            why = f"{self.place}: no quorum: {exc}" + (f"; {AGAIN}" if writing else "")
            return StoreLostError(why, hint=hint, effect=Effect.UNKNOWN if writing else Effect.NONE)
        return PrerequisiteError(why, hint=hint, effect=effect)

    def saw(self, revision: int) -> None:
        """Something of this revision is known here."""
        self.seen = max(self.seen, revision)

    def follow(self, follower: Follower) -> None:
        """Keep its mirror up to date from now on."""

        async def begin() -> None:
            self._followers.append(follower)
            self.keep(follower.run())
            if len(self._followers) == 1:
                self.keep(self._heartbeat())

        self.do(begin)

    def look(self) -> None:
        """Make sure that the mirrors tell all that there is, as of now or of the last confirmation.

        Raises:
            PrerequisiteError: it cannot be known.
        """
        self.refuse_lost()
        if self._older_than(self.seen):
            self.do(lambda: self.confirm(counted=False, covered=True))

    def foresee(self) -> None:
        """Something came that a stage waits for: it will look, and the question is on its way before that. Called in
        the session's thread.
        """
        if self._older_than(self.seen) and self._confirming is not None and not self._confirming.locked():
            self.keep(self._foreseen())

    async def _foreseen(self) -> None:
        with contextlib.suppress(QuorumLostError, TimeoutError):  # told already, to whoever looks
            async with asyncio.timeout(self.call_limit_s):
                await self.confirm(counted=False, covered=True)

    def _older_than(self, seen: int) -> bool:
        """Whether what was confirmed last does not cover `seen`, or is too old to be believed."""
        return seen > self._confirmed or boottime() - self._confirmed_s >= FRESH_S

    async def confirm(self, *, counted: bool = True, covered: bool = False) -> None:
        """Compare every mirror with the store; one that is behind and stays so is read anew. Where it may be `covered`,
        an answer that came while this waited for its turn, and covers all that was seen before, will do.

        Not `counted`: creations alone are compared, which costs the same however many records there are. What people
        put or removed by hand, past the marks, is left to the watch and to a heartbeat that counts.
        """
        assert self._confirming is not None
        asked = self.seen
        async with self._confirming:
            if covered and not self._older_than(asked):
                return
            sent_s = boottime()
            followers = list(self._followers)
            newest = max((f.mirror.complete for f in followers), default=0)  # before: a watch goes on meanwhile
            reads = [k.get(f.keys.mark, names_only=True) for f in followers]
            reads += [k.count(f.keys) for f in followers] if counted else []
            try:
                answer = await self.gateway.call(
                    "/v3/kv/txn", {"success": reads or [k.get(k.closed_key(self.env))]}, limit_s=self.ask_limit_s
                )
                await self._same_store(answer, newest)
                await asyncio.gather(
                    *(
                        self._caught_up(
                            follower,
                            k.found(answer, number),
                            k.counted(answer, len(followers) + number) if counted else None,
                            k.revision_of(answer),
                        )
                        for number, follower in enumerate(followers)
                    )
                )
            except (QuorumLostError, TimeoutError) as exc:
                self._told(str(exc) or type(exc).__name__)
                raise
            except RecordError as exc:  # whatever answered was not etcd: nothing is known, and it is asked again
                self._told(exc.message)
                raise QuorumLostError(exc.message) from exc
            except asyncio.CancelledError:
                self._told("no answer in time")
                raise
            self._confirmed, self._confirmed_s = max(asked, k.revision_of(answer)), sent_s
            self._told(None)

    async def _caught_up(self, follower: Follower, mark: k.Kept | None, count: int | None, revision: int) -> None:
        def agrees() -> bool:
            return follower.mirror.agrees(mark.changed if mark else 0, count, revision)

        if agrees():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                while not agrees():
                    await follower.moved()
                return
        await follower.renew()

    async def _same_store(self, answer: dict[str, Any], newest: int) -> None:
        """Restored from a snapshot, a store is another one, or younger than what is known: all is read anew."""
        cluster = str(answer.get("header", {}).get("cluster_id", ""))
        if (self._cluster not in ("", cluster)) or k.revision_of(answer) < newest:
            self.seen = self._confirmed = 0
            for follower in self._followers:
                follower.mirror.reset()
                await follower.renew()
        self._cluster = cluster

    async def _heartbeat(self) -> None:
        for beat in itertools.count():
            with contextlib.suppress(QuorumLostError, TimeoutError):
                async with asyncio.timeout(self.call_limit_s):
                    await self.confirm(counted=beat % COUNTED_EVERY == 0)
            await asyncio.sleep(HEARTBEAT_S)

    def _told(self, lost: str | None) -> None:
        before, self.lost = self.lost, lost
        if (before is None) != (lost is None):
            for follower in self._followers:
                follower.wake()

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        """Run in the session's thread without waiting; cancelling the future ends it."""
        return asyncio.run_coroutine_threadsafe(work(), self._running())

    def keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run until `close`; to be called in the session's own thread."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._gateway = self._connect()
                self._confirming = asyncio.Lock()
                self._thread = threading.Thread(target=loop.run_forever, name="etcd-records", daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop

    def close(self) -> None:
        """End the thread and its connections."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return

        async def end() -> None:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.gateway.close()
            await loop.shutdown_asyncgens()

        asyncio.run_coroutine_threadsafe(end(), loop).result(10.0)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(10.0)
        loop.close()
        self._followers.clear()


def _mend(exc: EtcdRefusedError) -> str:
    if exc.code == EXHAUSTED and "space" in str(exc):
        return "etcd's space is used up: compact, `etcdctl defrag`, then `etcdctl alarm disarm`, or raise its quota"
    if "CommonName" in str(exc):
        return "etcd's gateway takes no client certificate with a common name: make one without, and name it by a SAN"
    if exc.code in (DENIED, UNKNOWN_TOKEN) or "authentication" in str(exc) or "user name" in str(exc):
        return (
            "see store.etcd.user and password_file of the configuration; `hyops control etcd-roles` sets the users up"
        )
    if exc.code in (INVALID, EXHAUSTED, 0):
        return TOO_LARGE
    return "look at etcd's own log"
