"""The executors' epochs, rights to dial and start marks in etcd, for executors on several hosts (EXE-1, EXE-3, LOOP-3).

Below `/hyops/<env>/starts/`: `epoch` (JSON: the number, and the id of the cluster in which it was written, so that a
restored snapshot is seen to be one), `sent/<attempt>`, `hindered/<attempt>`, and `dial/<name>` on the holder's lease.

Why an executor that was frozen, for however long and between whichever two lines of `services.dialling`, does no harm
when it thaws, although another one (B) may have taken over:
1. `note`, `forget` and the creation of an outcome are transactions that hold only while `dial/<attempt>` has the value
   that this holder drew. B has the right only after that key was gone, so each of them is before B's first look at the
   mark, and B sees it; or it is refused, and nothing was written. `note` is refused, too, where the attempt has an
   outcome: a takeover that is adopted is recorded without asking who dials.
2. Thawed before `note`: it is refused, so no start is sent. What came before it (hello, status, staging of files that
   are named by their digests) makes no effect. An epoch that it drew is lost; none is handed out twice.
3. Thawed between `note` and the start, or with the start on its way: B read the mark, so it believes neither "absent"
   nor a refusal to prove that nothing runs, and closes nothing as never started. If B started the run, with a later
   epoch, the runner refuses this start, or has the run, which it makes once. If B did not, because the execution had
   expired, the outcome is `unknown` and the runner refuses the start for the same reason.
4. Thawed before `forget`: the mark stays. B does not forget it either, since it is not B's own.
5. Thawed while it follows or collects: that changes nothing on the runner. The outcome is refused (1), and it is the
   runner's own word, the same that B records.
6. An attempt is created without a right, and needs none: its id and its slot are the execution's, so whoever comes
   later is told of the one that stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hyops.adapters import etcd_records_keys as k
from hyops.adapters.etcd_records import EtcdRecordStore
from hyops.adapters.etcd_records_session import EtcdSession
from hyops.adapters.listing import NAME
from hyops.adapters.starts_etcd_right import Freed, Right, Rights
from hyops.adapters.starts_etcd_settle import settle
from hyops.errors import DialLostError, PrerequisiteError, RecordError, StaleGenerationError
from hyops.model.execution import outcome_slot
from hyops.ports.records import Created, RecordStore
from hyops.ports.starts import Hindrance, Remembered, Rival

TTL_S = 2
TRIES = 64  # each one more means that another executor got a number meanwhile
SLOT_TRIES = 3
AT_ONCE = 64
WRITTEN = b"1"
FOREIGN = "`hyops control restore` asks every runner for the epochs it has seen, and lets the executors dial again"


@dataclass(frozen=True)
class Epoch:
    """The last number, in which cluster it was written, and at which revision; 0 and "" where there is none."""

    number: int
    cluster: str
    changed: int
    here: str
    marks: int
    revision: int = 0

    @property
    def foreign(self) -> bool:
        """Whether it was written in another cluster, of which this one is a restored copy."""
        return self.changed > 0 and self.cluster != self.here


class EtcdStarts:
    """`Starts` of one process; give it to all who dial there."""

    def __init__(self, session: EtcdSession, ttl_s: int = TTL_S, *, moving: bool = False) -> None:
        """`moving`: whoever brings records here writes although it is closed."""
        self._moving = moving
        self._session = session
        self._prefix, self._outcomes = k.starts_prefix(session.env), k.Keys(session.env, "execution", "outcomes")
        self._rights = Rights(session, ttl_s)
        self._freed = Freed(session, self._prefix + "dial/")
        self._held: dict[str, Right] = {}

    def next_epoch(self) -> int:
        """One more than the last, by compare-and-set; a number whose fate is not known is never handed out again."""
        return self._raise(lambda seen: seen.number + 1)

    def last_epoch(self) -> int:
        """What the key says, whichever cluster wrote it."""
        return self.epoch().number

    def at_least(self, epoch: int, *, leap_max: int) -> None:
        """Raise the number where it is lower (see the port)."""

        def to(seen: Epoch) -> int:
            if epoch > seen.number + leap_max:
                last = seen.number
                raise RecordError(
                    f"epoch {epoch} is over {last + leap_max}: no executor that was at {last} comes so far",
                    hint="look at who told it; only if what was counted here is lost, `hyops control restore`",
                )
            return max(epoch, seen.number)

        self._raise(to)

    def epoch(self) -> Epoch:
        """As it stands; linearizable.

        Raises:
            RecordError: it is no number.
        """
        return self._epoch(self._txn(success=self._asked()), 0)

    def _raise(self, to: Any) -> int:
        for _ in range(TRIES):
            seen = self.epoch()
            if seen.foreign:
                raise self._is_foreign(seen)
            if not seen.changed and seen.marks:
                raise RecordError(
                    f"{self._session.place}: {self._prefix}epoch is gone, but {seen.marks} starts were sent",
                    hint=FOREIGN,
                )
            wanted = to(seen)
            if wanted == seen.number and seen.changed:
                return int(wanted)
            if self._set(seen, wanted):
                return int(wanted)
        raise PrerequisiteError(f"{self._session.place}: the epoch changes all the time; nothing was sent")

    def _set(self, seen: Epoch, number: int) -> bool:
        key = self._prefix + "epoch"
        compare = [k.unchanged(key, seen.changed) if seen.changed else k.absent(key)]
        compare += [] if self._moving else [k.absent(self._closed)]
        value = json.dumps({"cluster": seen.here, "epoch": number}).encode()
        answer = self._txn(compare=compare, success=[k.put(key, value)], failure=[k.get(self._closed)])
        if not answer.get("succeeded"):
            self._refuse_closed(answer, 0)
        return bool(answer.get("succeeded"))

    def restored(self, epoch: int, maybe_sent: Iterable[str]) -> int:
        """Let executors dial on a restored store: nothing below `epoch`, and these may all have been sent.

        The marks are written first. Repeated, it changes nothing; returns the epoch that stands.
        """
        self._mark(maybe_sent)
        for _ in range(TRIES):
            seen = self.epoch()
            if not seen.foreign and seen.number >= epoch and seen.changed:
                return seen.number
            if self._set(seen, max(epoch, seen.number)):
                return max(epoch, seen.number)
        raise PrerequisiteError(f"{self._session.place}: the epoch changes all the time; give the command again")

    def note(self, attempt_id: str) -> None:
        """Put the mark, by the right to dial where this process is dialling; without one it only makes people look.

        By a right, only while the attempt has no outcome.
        """
        key, right = self._named("sent", attempt_id), self._held.get(attempt_id)
        if right is None:
            answer = self._txn(
                compare=[k.absent(self._closed)], success=[k.put(key, WRITTEN)], failure=[k.get(self._closed)]
            )
            self._refuse_closed(answer, 0) if not answer.get("succeeded") else None
            return
        slot = self._outcomes.slot(outcome_slot(attempt_id))
        compare = [k.absent(slot)]
        for _ in range(SLOT_TRIES):
            if not right.held:
                raise self._is_lost(attempt_id)
            answer = self._txn(
                compare=[k.absent(self._closed), right.guard, *compare],
                success=[k.put(key, WRITTEN)],
                failure=[k.get(self._closed), k.get(slot)],
            )
            if answer.get("succeeded"):
                return
            self._refuse_closed(answer, 0)
            if (taken := k.found(answer, 1)) is None:
                raise self._is_lost(attempt_id)
            outcome = self._outcomes.prefix + taken.value.decode(errors="backslashreplace")
            if self._get(outcome) is not None:
                raise DialLostError(f"{self._session.place}: {attempt_id} has an outcome by now: nothing is sent")
            compare = [k.unchanged(slot, taken.changed), k.absent(outcome)]  # somebody removed the outcome by hand
        raise self._is_lost(attempt_id)

    def forget(self, attempt_id: str) -> None:
        """Remove the mark, by the right to dial."""
        key, right = self._named("sent", attempt_id), self._held.get(attempt_id)
        if right is None or not right.held:
            raise self._is_lost(attempt_id)
        if not self._txn(compare=[right.guard], success=[k.delete(key)]).get("succeeded"):
            raise self._is_lost(attempt_id)

    def maybe_sent(self, attempt_id: str) -> bool:
        """Whether the mark is there; linearizable, and PrerequisiteError where nobody knows."""
        return self._get(self._named("sent", attempt_id)) is not None

    def hinder(self, attempt_id: str, by: Hindrance | None) -> None:
        """Write it, or remove what is there; for people, so without a right."""
        key = self._named("hindered", attempt_id)
        if by is not None:
            self._txn(success=[k.put(key, json.dumps(by.body()).encode())])
        elif self._get(key) is not None:  # to look costs no write
            self._txn(success=[k.delete(key)])

    def hindrance(self, attempt_id: str) -> Hindrance | None:
        """What is there, if it can be read."""
        try:
            kept = self._get(self._named("hindered", attempt_id))
            told = json.loads(kept.value) if kept is not None else {}
            return Hindrance(**{name: str(told[name]) for name in ("at", "error", "message", "hint")})
        except (PrerequisiteError, ValueError, KeyError, TypeError, RecursionError):
            return None

    @contextmanager
    def dialling(self, attempt_id: str) -> Iterator[bool]:
        """Hold `dial/<name>`; when it is lost, the task that holds it is cancelled and ends with DialLostError.

        Raises:
            PrerequisiteError: etcd does not answer, or is a restored copy in which nobody may dial yet.
        """
        right = self._take(attempt_id)
        if right is None:
            yield False
            return
        cancelling = _Cancelling(right)
        try:
            if not right.held:
                raise self._is_lost(attempt_id)
            self._held[attempt_id] = right
            yield True
        except asyncio.CancelledError:
            if cancelling.caught():
                raise self._is_lost(attempt_id) from None
            raise
        finally:
            cancelling.end()
            self._held.pop(attempt_id, None)
            self._give_back(right)

    def _give_back(self, right: Right) -> None:
        """It goes now; where etcd does not answer, as soon as it does, or with the lease, and nobody waits for that."""

        async def later() -> None:
            self._session.keep(self._rights.give_back(right))

        with contextlib.suppress(PrerequisiteError):
            self._session.do(later if self._session.lost is not None else lambda: self._rights.give_back(right))

    def _take(self, attempt_id: str) -> Right | None:
        key = self._named("dial", attempt_id)
        look = self._asked()

        async def work() -> tuple[Right | None, dict[str, Any]]:
            return await self._rights.take(key, look)

        right, answer = self._session.ask(work)
        self._session.saw(k.revision_of(answer))  # whoever had it before may have ended it: the mirror is asked anew
        try:
            if right is None:
                self._refuse_closed(answer, len(look) - 1)
            if (seen := self._epoch(answer, 0)).foreign:
                raise self._is_foreign(seen)
        except (PrerequisiteError, RecordError):
            if right is not None:
                self._give_back(right)
            raise
        return right

    async def freed(self, attempt_id: str) -> None:
        """By one watch of all rights."""
        key = self._named("dial", attempt_id)
        await asyncio.wrap_future(self._session.begin(lambda: self._freed.wait(key)))

    def create(
        self, attempt_id: str, store: RecordStore, record_id: str, data: bytes, *, slot: str | None = None
    ) -> Created:
        """In the transaction that creates it the right is still ours."""
        right = self._held.get(attempt_id)
        if right is None or not right.held:
            raise self._is_lost(attempt_id)
        if not isinstance(store, EtcdRecordStore):
            raise PrerequisiteError(f"{record_id}: the rights to dial are in etcd, and these records are not")
        try:
            return store.create(record_id, data, slot=slot, guards=[right.guard])
        except StaleGenerationError as exc:
            raise self._is_lost(attempt_id) from exc

    def settle(
        self, attempt_id: str, store: RecordStore, record_id: str, data: bytes, *, slot: str, rival: Rival
    ) -> Created | None:
        """In the transaction that creates it the rival is not there."""
        return settle(self._get, store, record_id, data, slot, rival)

    def dials(self) -> dict[str, dict[str, Any]]:
        """Name -> host, pid and since when, of every right that is held; for people."""
        prefix, found = self._prefix + "dial/", {}
        asked = k.page(prefix, k.after(prefix), 0, None)
        del asked["request_range"]["keys_only"]
        for key, kept in k.names(self._txn(success=[asked]), 0):
            try:
                said = json.loads(kept.value)
            except ValueError:
                said = {}
            told = said if isinstance(said, dict) else {}
            found[key.removeprefix(prefix)] = {name: told.get(name) for name in ("host", "pid", "since")}
        return found

    def remembered(self) -> Remembered:
        """What a move takes along; PrerequisiteError where the store was restored and nobody asked the runners."""
        if (seen := self.epoch()).foreign:
            raise self._is_foreign(seen)
        return Remembered(seen.number, frozenset(self._marks()))

    def remember(self, known: Remembered) -> None:
        """Take over what another place knew; repeated, it changes nothing."""
        self.restored(known.epoch, known.sent) if known.epoch else self._mark(known.sent)

    def _mark(self, attempt_ids: Iterable[str]) -> None:
        keys = [self._named("sent", attempt_id) for attempt_id in sorted(set(attempt_ids))]
        for at in range(0, len(keys), AT_ONCE):
            self._txn(success=[k.put(key, WRITTEN) for key in keys[at : at + AT_ONCE]])

    def _marks(self) -> list[str]:
        prefix = self._prefix + "sent/"
        low, high, found = prefix, k.after(prefix), list[str]()
        while True:
            some = k.names(self._txn(success=[k.page(low, high, 1000, None)]), 0)
            found += [key.removeprefix(prefix) for key, _ in some]
            if len(some) < 1000:
                return found
            low = some[-1][0] + "\0"

    @property
    def _closed(self) -> str:
        return k.closed_key(self._session.env)

    def _asked(self) -> list[dict[str, Any]]:
        marks = self._prefix + "sent/"
        count = {"request_range": {**k.page(marks, k.after(marks), 0, None)["request_range"], "count_only": True}}
        return [k.get(self._prefix + "epoch"), count, k.get(self._closed)]

    def _epoch(self, answer: dict[str, Any], index: int) -> Epoch:
        here, marks = str(answer.get("header", {}).get("cluster_id", "")), k.counted(answer, index + 1)
        if (kept := k.found(answer, index)) is None:
            return Epoch(0, "", 0, here, marks, k.revision_of(answer))
        try:
            said = json.loads(kept.value)
            number, cluster = said["epoch"], said["cluster"]
            if type(number) is not int or number < 0 or not isinstance(cluster, str):
                raise ValueError("not a number")
        except (ValueError, KeyError, TypeError) as exc:
            raise RecordError(f"{self._session.place}: {self._prefix}epoch: not an epoch: {exc}", hint=FOREIGN) from exc
        return Epoch(number, cluster, kept.changed, here, marks, k.revision_of(answer))

    def _named(self, folder: str, attempt_id: str) -> str:
        if not NAME.fullmatch(attempt_id):
            raise RecordError(f"{attempt_id[:80]!r} is not an attempt's id")
        return f"{self._prefix}{folder}/{attempt_id}"

    def _get(self, key: str) -> k.Kept | None:
        return k.found(self._txn(success=[k.get(key)]), 0)

    def _txn(self, **body: Any) -> dict[str, Any]:
        async def work() -> dict[str, Any]:
            return await self._session.gateway.call("/v3/kv/txn", body, limit_s=self._session.ask_limit_s)

        return self._session.ask(work)

    def _refuse_closed(self, answer: dict[str, Any], index: int) -> None:
        if (closed := k.found(answer, index)) is not None:
            said = closed.value.decode(errors="backslashreplace")[:500]
            raise PrerequisiteError(f"{self._session.place}: {said}; nothing was written here")

    def _is_foreign(self, seen: Epoch) -> PrerequisiteError:
        return PrerequisiteError(
            f"{self._session.place}: restored from a snapshot: its epoch {seen.number} was written in cluster "
            f"{seen.cluster}, and this is {seen.here}; nobody dials",
            hint=FOREIGN,
        )

    def _is_lost(self, attempt_id: str) -> DialLostError:
        return DialLostError(f"{self._session.place}: the right to dial for {attempt_id} is lost")


class _Cancelling:
    """Cancels the task that holds a right when it is lost, once, and never after its `with` has ended."""

    def __init__(self, right: Right) -> None:
        self._right, self._done, self._cancelled = right, False, False
        try:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        except RuntimeError:
            return  # a command without a loop: what it writes is refused
        self._before = self._task.cancelling() if self._task is not None else 0
        right.lost = self._lost

    def caught(self) -> bool:
        """Whether the cancellation that has arrived is this one, and nobody else asked for one too."""
        return self._cancelled and self._task is not None and self._task.uncancel() <= self._before

    def end(self) -> None:
        """Nothing is cancelled from here on."""
        self._done, self._right.lost = True, lambda: None

    def _lost(self) -> None:
        with contextlib.suppress(RuntimeError):  # that loop has ended
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and not self._done and not self._cancelled:
            self._cancelled = self._task.cancel()
