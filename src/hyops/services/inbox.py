"""Records of another stage: parsed once, verified, and what does not verify kept apart with its reason."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

from hyops.errors import HyopsError, RecordError, foreign, unforeseen
from hyops.model import ids
from hyops.model.base import Record
from hyops.model.canonical import digest_bytes
from hyops.model.dsse import sign_record, verify_record
from hyops.model.refusal import Refusal
from hyops.ports.records import Created, RecordStore
from hyops.ports.signer import Signer, Verifier

R = TypeVar("R", bound=Record)
StageName = Literal["decision", "dispatch", "approval", "execution"]


@dataclass(frozen=True)
class Letter(Generic[R]):
    """One record that may be believed. `signed` is False only where unsigned ones are allowed."""

    record: R
    signed: bool
    name: str
    digest: str


@dataclass(frozen=True)
class Rejected:
    """A file that may not be believed."""

    name: str
    digest: str
    reason: str


class NoStage:
    """The verifier of an inbox without a role, which checks no signature."""

    def roles(self, keyid: str) -> frozenset[str]:
        """None."""
        return frozenset()

    def verify(self, keyid: str, data: bytes, signature: bytes) -> None:
        """Nothing is a stage's."""
        raise RecordError(f"{keyid}: no stage's signature is asked for here")


class Inbox(Generic[R]):
    """All records of one store. `role` is what a signer must be allowed to speak for; None: signatures not checked."""

    def __init__(
        self,
        store: RecordStore,
        kind: type[R],
        verifier: Verifier,
        *,
        role: str | None,
        unsigned_allowed: bool = False,
    ) -> None:
        self.store = store
        self._kind, self._verifier, self._role, self._unsigned = kind, verifier, role, unsigned_allowed
        self._letters: dict[str, Letter[R]] = {}
        self._rejected: dict[str, Rejected] = {}
        self._names: list[str] = []
        self._open: dict[str, Letter[R]] = {}
        self._again: set[str] = set()
        self._mark = 0
        self.taken: list[R] = []
        """What is believed, in the order in which it was first seen. Only grows while `removals` stays the same."""
        self.removals = 0

    def refresh(self) -> None:
        """Look at what is new, and forget what was removed by hand."""
        self._mark, names = self.store.changed(self._mark)
        removals = self.removals
        self._again |= {*names}  # what is not taken in this time, for whatever reason, is looked at again
        for name in sorted(self._again):
            self._forget(name)
            if self._take(name):
                self._again.discard(name)
        if self.removals != removals:
            self.taken = self.records()

    def letters(self) -> Iterator[Letter[R]]:
        """What may be believed, by id."""
        return iter([self._letters[name] for name in self._names])

    def open_letters(self) -> list[Letter[R]]:
        """Those of them that are not settled yet, by id."""
        return [self._open[name] for name in sorted(self._open)]

    def settle(self, name: str) -> None:
        """Nothing is to be done about it any more, unless it is removed and comes again."""
        self._open.pop(name, None)

    def records(self) -> list[R]:
        """The same without the envelope."""
        return [letter.record for letter in self.letters()]

    def get(self, record_id: str) -> R | None:
        """One by id."""
        found = self._letters.get(record_id)
        return found.record if found else None

    def readable(self, name: str) -> bool:
        """Whether it is a whole document, believed or not; what is none stands among `torn`."""
        return name in self._letters or name in self._rejected

    def rejected(self) -> list[Rejected]:
        """What may not be believed."""
        return [self._rejected[name] for name in sorted(self._rejected)]

    def torn(self) -> list[Rejected]:
        """Files that are no records at all (empty, torn, too large, unreadable, links, folders, foreign names)."""
        return [
            Rejected(name, digest_bytes(f"{name}\n{why}".encode()), why) for name, why in self.store.faults().items()
        ]

    def _take(self, name: str) -> bool:
        """True when it is known what it is; False when it cannot be read now."""
        try:
            data = self.store.read(name)
        except KeyError:
            return True  # gone again
        except RecordError:
            return False
        try:
            with foreign():  # whatever one file does to its reader, the others are read
                record = self._kind.read(data, source=name)
                if record.record_id != name:
                    raise RecordError(f"it is a copy of {record.record_id} under another name")
                signed = self._verified(record)
        except HyopsError as exc:
            if not (isinstance(exc, RecordError) or unforeseen(exc)):
                raise
            self._rejected[name] = Rejected(name, digest_bytes(data), exc.message)
            return True
        self._letters[name] = self._open[name] = Letter(record, signed, name, record.digest())
        bisect.insort(self._names, name)
        self.taken.append(record)
        return True

    def _forget(self, name: str) -> None:
        self._rejected.pop(name, None)
        self._open.pop(name, None)
        if self._letters.pop(name, None) is not None:
            del self._names[bisect.bisect_left(self._names, name)]
            self.removals += 1

    def _verified(self, record: R) -> bool:
        if self._role is None:
            return False
        if record.signature is None and self._unsigned:
            return False
        keyid = verify_record(record, self._verifier)
        if self._role not in self._verifier.roles(keyid):
            raise RecordError(f"its key {keyid} may not speak for {self._role}")
        return True


class Refusals:
    """Where a stage writes what it did not act on: each thing once, whatever happens between."""

    def __init__(self, store: RecordStore, signer: Signer, stage: StageName) -> None:
        self._store, self._signer, self._stage = store, signer, stage
        self._known: set[str] = set()

    def has(self, slot: str) -> bool:
        """Whether this was recorded before."""
        if slot not in self._known and self._store.known(slot) is not None:
            self._known.add(slot)
        return slot in self._known

    def record(
        self,
        slot: str,
        *,
        kind: str,
        subject: str,
        digest: str,
        reason: str,
        now: datetime,
        error: str | None = None,
        create: Callable[[Record, str], Created | None] | None = None,
    ) -> bool:
        """Record once per slot; True when this call made it.

        `create` makes the record instead of the store: None from it says that it may not stand, and nothing was made.
        """
        if self.has(slot):
            return False
        refusal = Refusal(
            refusal_id=ids.derived("refusal", now, slot, kind.replace("-", "_")[:24]),
            timestamp_utc=now,
            stage=self._stage,
            subject_kind=kind,
            subject_id=subject[:256],
            subject_digest=digest,
            reason=reason[:4096],
            error=error,
        )
        signed = sign_record(refusal, self._signer)
        if create is None:
            made: Created | None = self._store.create(signed.record_id, signed.encoded(), slot=slot)
        else:
            made = create(signed, slot)
        if made is None:
            return False
        self._known.add(slot)
        return made.made


def refuses(refusal: Refusal, slot: str) -> bool:
    """Whether it was recorded for this slot: its id derives from that, so it tells also where the slots were lost."""
    kind = refusal.subject_kind.replace("-", "_")[:24]
    return refusal.refusal_id == ids.derived("refusal", refusal.timestamp_utc, slot, kind)


def odd_slot(record: Record) -> str:
    """The slot of what is said of a record that stays open because nobody foresaw what goes wrong with it."""
    return slot_for("odd", record.digest())


def slot_for(prefix: str, *parts: str) -> str:
    """A slot name of fixed length from whatever identifies the thing."""
    return f"{prefix}-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}"
