"""Records in etcd: create-only, durable on a majority, watched, for several control hosts (LOOP-1, LOOP-2, LOOP-3).

A creation is one transaction that refuses what stands (see `etcd_records_keys`). The first look reads everything, and
what it read answers each `read` as of that look; from the second look on a watch keeps this mirror and the session
confirms it. What the mirror does not have is asked of etcd before it is called missing: a record may have come a moment
ago. Who would only create it then asks for what is `known`, because the creation tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from hyops.adapters import etcd_records_keys as k
from hyops.adapters.etcd_gateway import EXHAUSTED, EtcdRefusedError
from hyops.adapters.etcd_records_follow import ONE_VALUE_MAX, Follower
from hyops.adapters.etcd_records_session import TOO_LARGE, EtcdSession
from hyops.adapters.listing import NAME, check_document
from hyops.adapters.store_files import SLOT, STANDS
from hyops.errors import PrerequisiteError, RecordError, StaleGenerationError
from hyops.ports.lease import QuorumLostError
from hyops.ports.records import Created

RECORD_BYTES_MAX = 1_500_000  # etcd's own limit is 1.5 MiB for a whole request, unless it was set lower
TRIES = 8  # each one more means that somebody removed a record by hand in that very moment
LOAD_LIMIT_S = 60.0
FAULT_PAUSE_S = 0.2


class EtcdRecordStore:
    """One kind of record of one stage. `moving`: whoever brings records here writes them although it is closed."""

    def __init__(self, session: EtcdSession, stage: str, kind: str, *, moving: bool = False) -> None:
        self._moving = moving
        self._session, self._keys = session, k.Keys(session.env, stage, kind)
        self._begun: Follower | None = None  # a first load that was cut off goes on where it stopped
        self._follower: Follower | None = None
        self._followed, self._beginning = False, threading.Lock()

    @property
    def keys(self) -> k.Keys:
        """Where its records are, for who makes a condition of one."""
        return self._keys

    def create(
        self, record_id: str, data: bytes, *, slot: str | None = None, guards: Sequence[dict[str, str]] = ()
    ) -> Created:
        """Write on a majority, all or nothing, and never over another record (see the port).

        `guards` are conditions of etcd's that hold in the very transaction, for example that a lease is still held;
        StaleGenerationError when one does not, and nothing was written.
        """
        checked(record_id, NAME)
        checked(slot or "x", SLOT)
        check_document(data, record_id)
        if len(data) > RECORD_BYTES_MAX:
            raise PrerequisiteError(
                f"{record_id}: {len(data)} bytes, and etcd takes {RECORD_BYTES_MAX} at most; nothing was written",
                hint=TOO_LARGE,
            )
        self._session.refuse_lost()
        wanted = k.Wanted(self._keys, record_id, data, slot, secrets.token_hex(8), guards, self._moving)

        async def work() -> Created:
            try:
                async with asyncio.timeout(self._session.call_limit_s):
                    return await self._create(wanted)
            except TimeoutError as exc:
                raise self._session.error(QuorumLostError("no answer in time"), writing=True) from exc
            except QuorumLostError as exc:
                raise self._session.error(exc, writing=True) from exc

        return self._session.do(work, self._session.call_limit_s + 0.5)

    async def _create(self, wanted: k.Wanted) -> Created:
        free: tuple[str, int] | None = None
        for _ in range(TRIES):
            try:
                answer = await self._call(wanted.creation(free))
            except EtcdRefusedError as exc:
                if exc.code == EXHAUSTED and (made := await self._stands(wanted)) is not None:
                    return made  # an earlier attempt took the last of the space
                raise
            if answer.get("succeeded"):
                self._took(wanted, k.revision_of(answer))
                return Created(True, wanted.record_id)
            there, closed = k.found(answer, 0), k.found(answer, 1)
            if there is None and closed is not None and not self._moving:
                raise self.closed(closed)
            if wanted.slot is not None and (held := k.found(answer, 2)) is not None:
                holder = held.value.decode(errors="backslashreplace")
                if (record := await self._get(holder, names_only=True)) is not None:
                    return Created(await self._made(record, wanted) and holder == wanted.record_id, holder)
                free = (holder, held.changed)
            elif there is not None:
                return await self._same(there, wanted)
            elif wanted.guards:
                raise StaleGenerationError(f"{wanted.key}: the right to make it is gone; nothing was written")
            else:
                free = None
        raise PrerequisiteError(f"{wanted.key}: somebody else changes it all the time; nothing was written")

    async def _same(self, there: k.Kept, wanted: k.Wanted) -> Created:
        """The id is taken: by these very bytes, or by others."""
        if there.value != wanted.data:
            raise RecordError(f"{wanted.key} exists with other bytes", hint=STANDS)
        if wanted.slot is not None:
            raise RecordError(f"{wanted.key} exists without the slot {wanted.slot}", hint=STANDS)
        return Created(await self._made(there, wanted), wanted.record_id)

    async def _stands(self, wanted: k.Wanted) -> Created | None:
        there = await self._get(wanted.record_id)
        if there is None or not await self._made(there, wanted):
            return None
        return Created(True, wanted.record_id)

    async def _made(self, record: k.Kept, wanted: k.Wanted) -> bool:
        """Whether an earlier attempt of this very call made the record."""
        with contextlib.suppress(EtcdRefusedError):  # that revision is compacted: it is not of this moment
            answer = await self._call({"success": [k.get(self._keys.mark, revision=record.made)]})
            mark = k.found(answer, 0)
            return mark is not None and (mark.changed, mark.value) == (record.made, wanted.number.encode())
        return False

    def _took(self, wanted: k.Wanted, revision: int) -> None:
        """What this process has written is known to it at once. The mark is left to the watch: it would say that what
        others made before is here too.
        """
        self._session.saw(revision)
        if (follower := self._follower) is not None:
            follower.mirror.put(wanted.record_id, k.Kept(wanted.data, revision, revision))
            if wanted.slot is not None:
                slot = wanted.keys.slot(wanted.slot).removeprefix(self._keys.prefix)
                follower.mirror.put(slot, k.Kept(wanted.record_id.encode(), revision, revision))
            follower.wake()

    def read(self, record_id: str) -> bytes:
        """The bytes; KeyError when there is no such record."""
        if not NAME.fullmatch(record_id):
            raise KeyError(record_id)
        if self._follower is not None:
            self._session.look() if self._followed else self._session.refuse_lost()
            if (value := self._follower.mirror.value(record_id)) is not None:
                return value
        kept = self._session.ask(lambda: self._get(record_id))
        if kept is None:
            raise KeyError(record_id)
        self._session.saw(kept.changed)
        return kept.value

    def slot(self, slot: str) -> str | None:
        """The id of the record that holds a slot; None also when that record was removed by hand."""
        if not SLOT.fullmatch(slot):
            return None
        if self._followed and self._follower is not None:
            self._session.look()
            if (standing := self._follower.mirror.holder(slot)) is not None:
                return standing

        async def work() -> str | None:
            held = k.found(await self._call({"success": [k.get(self._keys.slot(slot))]}), 0)
            holder = held.value.decode(errors="backslashreplace") if held is not None else ""
            return holder if held is not None and await self._get(holder, names_only=True) is not None else None

        return self._session.ask(work)

    def known(self, slot: str) -> str | None:
        """The same, of a mirror that is kept from now on (see the port): no request while nothing has happened."""
        while not self._followed:
            self._looked()
        return self._looked().mirror.holder(slot)

    def complete(self) -> None:
        """A record and its slot are one transaction: nothing is ever half-way."""

    def ids(self) -> list[str]:
        """Every complete record's id, oldest name first."""
        return self._looked().mirror.ids()

    def changed(self, since: int) -> tuple[int, list[str]]:
        """A mark for the next call, and the ids that came, changed or went since the mark (see the port)."""
        return self._looked().mirror.changed(since)

    def faults(self) -> dict[str, str]:
        """Key -> why it is not a record: torn, empty, foreign. Left where it is for a person."""
        return self._looked().mirror.faults()

    async def changes(self, rescan_s: float) -> AsyncIterator[list[str]]:
        """Yield ids as they appear: all known ones first, then by event; also when etcd is lost and back."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        mark, first, lost = 0, True, False

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the listener's loop has ended before it
                loop.call_soon_threadsafe(event.set)

        stop: Callable[[], None] | None = None
        try:
            while True:
                event.clear()
                try:
                    mark, names = await asyncio.to_thread(self._kept_changed, mark)
                except PrerequisiteError:
                    names, told, lost = [], not lost, True
                    if first:
                        raise
                else:
                    told, lost = lost, False
                follower = self._follower
                assert follower is not None
                if stop is None:
                    stop, mark = follower.listen(tell), 0
                    continue  # once more: what came between the look and this
                fresh = follower.mirror.present(names)
                if fresh or first or told:
                    first = False
                    yield fresh
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FAULT_PAUSE_S if lost else rescan_s):
                        await event.wait()
        finally:
            if stop is not None:
                stop()

    def _kept_changed(self, mark: int) -> tuple[int, list[str]]:
        """`changed`, of a mirror that is kept from now on."""
        if not self._followed:
            self._looked()
        return self.changed(mark)

    def _looked(self) -> Follower:
        """The mirror, read once; from the second look on it is kept, and confirmed."""
        with self._beginning:
            if self._follower is None:
                follower = self._begun or Follower(
                    self._keys, lambda: self._session.gateway, self._session.saw, self._session.foresee
                )
                self._begun = follower
                self._session.do(lambda: self._begin(follower), LOAD_LIMIT_S)
                self._follower = follower
                return follower
            if not self._followed:
                known = self._follower
                self._session.do(lambda: known.load(self._session.progress), LOAD_LIMIT_S)
                self._session.follow(known)
                self._followed = True
        self._session.look()
        return self._follower

    async def _begin(self, follower: Follower) -> None:
        if (closed := k.found(await self._call({"success": [k.get(self._keys.closed)]}), 0)) is not None:
            raise self.closed(closed)
        await follower.load(self._session.progress)

    def closed(self, why: k.Kept) -> PrerequisiteError:
        """What is said where the records are not here (any more)."""
        said = why.value.decode(errors="backslashreplace")[:500]
        return PrerequisiteError(
            f"{self._session.place}: no record is taken here: {said}",
            hint="nothing was written; take `store` out of the configuration if the records are in files again, "
            "or finish the move with `hyops control migrate`",
        )

    async def _get(self, record_id: str, *, names_only: bool = False) -> k.Kept | None:
        read = {"success": [k.get(self._keys.prefix + record_id, names_only=names_only)]}
        return k.found(await self._call(read), 0)

    async def _call(self, body: dict[str, Any]) -> dict[str, Any]:
        call = self._session.gateway.call
        return await call("/v3/kv/txn", body, limit_s=self._session.ask_limit_s, answer_max=ONE_VALUE_MAX)


def checked(name: str, pattern: re.Pattern[str]) -> None:
    """Refuse what cannot be a name."""
    if not pattern.fullmatch(name):
        raise RecordError(f"{name[:80]!r} cannot be the name of a record or slot")
