"""The records of a loop in etcd, as a move sees them (see `ports.moves`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hyops.adapters import etcd_records_keys as k
from hyops.adapters.etcd_presence import who_serves
from hyops.adapters.etcd_records import LOAD_LIMIT_S, EtcdRecordStore
from hyops.adapters.etcd_records_follow import NAMES_A_PAGE, Follower
from hyops.adapters.etcd_records_session import EtcdSession
from hyops.adapters.starts_etcd import EtcdStarts
from hyops.errors import PrerequisiteError, RecordError
from hyops.ports.moves import Held, Kind
from hyops.ports.starts import Remembered

CLOSING = "the records of this loop are being moved from here"


class EtcdPlace:
    """One loop's part of a cluster."""

    name = "etcd"

    def __init__(self, session: EtcdSession) -> None:
        self._session = session

    def closed(self) -> str | None:
        """The sign that every creation looks at."""
        kept = k.found(self._txn(success=[k.get(k.closed_key(self._session.env))]), 0)
        return None if kept is None else kept.value.decode(errors="backslashreplace")

    def signs(self) -> set[str | None]:
        """The one."""
        return {self.closed()}

    def close(self, words: str) -> None:
        """In the order of etcd: every creation is before it, or refused."""
        self._txn(success=[k.put(k.closed_key(self._session.env), words.encode())])

    def open(self) -> None:
        """Take the sign away."""
        self._txn(success=[k.delete(k.closed_key(self._session.env))])

    def serving(self) -> list[str]:
        """The stages that show themselves."""
        return who_serves(self._session)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Closed; nobody who was at work comes after that, and nobody begins."""
        before = self.closed()
        self.close(before or CLOSING)
        if who := self.serving():
            if before is None:
                self.open()
            raise PrerequisiteError(f"etcd: {', '.join(who)} began just now; nothing was copied", hint="stop it first")
        done = False
        try:
            yield
            done = True
        finally:
            if not done and before is None:
                with contextlib.suppress(PrerequisiteError):  # etcd is lost: the command is given again
                    if self.closed() == CLOSING:
                        self.open()  # the move ended half-way: these records are used as before

    def kinds(self) -> list[Kind]:
        """Of every key below the loop's records."""
        low = k.stage_prefix(self._session.env, "")[:-1]
        high, found = k.after(low), set[Kind]()
        while True:
            some = k.names(self._txn(success=[k.page(low, high, NAMES_A_PAGE, None)]), 0)
            for key, _ in some:
                stage, _, rest = key.removeprefix(f"/hyops/{self._session.env}/records/").partition("/")
                kind, found_kind, _ = rest.partition("/")
                if found_kind:
                    found.add((stage, kind))
            if len(some) < NAMES_A_PAGE:
                return sorted(found)
            low = some[-1][0] + "\0"

    def held(self, kind: Kind) -> Held:
        """Read as of one revision."""
        session = self._session
        follower = Follower(k.Keys(session.env, *kind), lambda: session.gateway, session.saw)
        session.do(follower.load, LOAD_LIMIT_S)
        mirror, store = follower.mirror, EtcdRecordStore(session, *kind)
        records = {r: mirror.value(r) or store.read(r) for r in mirror.ids()}
        return Held(records, mirror.slots(), mirror.faults())

    def add(self, kind: Kind, record_id: str, data: bytes, slot: str | None) -> bool:
        """As a stage would."""
        made = EtcdRecordStore(self._session, *kind, moving=True).create(record_id, data, slot=slot)
        if made.record_id != record_id:
            raise RecordError(f"etcd {kind[0]}/{kind[1]}: slot {slot} is held by {made.record_id}, not by {record_id}")
        return made.made

    def where(self, kind: Kind, record_id: str) -> str:
        """Its key."""
        return k.Keys(self._session.env, *kind).prefix + record_id

    def set_aside(self, kind: Kind, records: Sequence[str], slots: Sequence[str]) -> dict[str, str]:
        """Below `/hyops/<env>/aside/`, each in one transaction, under a name that ends in the revision it had."""
        keys = k.Keys(self._session.env, *kind)
        gone = {f"slot {slot}": self._put_aside(keys.slot(slot)) for slot in slots}
        return gone | {name: self._put_aside(keys.prefix + name) for name in records}

    def _put_aside(self, key: str) -> str:
        kept = k.found(self._txn(success=[k.get(key)]), 0)
        if kept is None:
            return key  # it went while the place was closed: nothing is left to keep
        place = f"{key.replace('/records/', '/aside/', 1)}@{kept.changed}"
        done = self._txn(compare=[k.unchanged(key, kept.changed)], success=[k.put(place, kept.value), k.delete(key)])
        if not done.get("succeeded"):
            raise RecordError(f"etcd: {key} was changed while it was moved aside")
        return place

    def remembered(self) -> Remembered:
        """Of all its executors."""
        return EtcdStarts(self._session).remembered()

    def remember(self, known: Remembered) -> None:
        """Also behind the sign."""
        EtcdStarts(self._session, moving=True).remember(known)

    def _txn(self, **body: Any) -> dict[str, Any]:
        async def work() -> dict[str, Any]:
            return await self._session.gateway.call("/v3/kv/txn", body)

        return self._session.do(work, 10.0)
