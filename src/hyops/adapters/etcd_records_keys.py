"""What a kind of record looks like in etcd: its keys, the transaction that creates one, and what the answers say.

Below `/hyops/<env>/records/<stage>/<kind>/` are `<id>`, the record byte for byte; `.slots/<slot>`, its holder's id;
and `.mark`, which each creation writes anew with a number of its own. A creation may reach etcd several times. Which of
the attempts took effect is asked of the mark at the revision in which the record was made: it holds the number of
whoever made it, so exactly one caller hears that it made the record, and nothing is left behind for that.
`/hyops/<env>/closed` refuses every creation below: the records of that loop are, or are being moved, elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyops.adapters.etcd_gateway import b64
from hyops.errors import RecordError

SLOTS, MARK = ".slots/", ".mark"


@dataclass(frozen=True)
class Kept:
    """One key as etcd has it."""

    value: bytes
    made: int
    changed: int


@dataclass(frozen=True)
class Keys:
    """Where one kind of record is."""

    env: str
    stage: str
    kind: str

    @property
    def prefix(self) -> str:
        """Of everything that belongs to the kind."""
        return f"{stage_prefix(self.env, self.stage)}{self.kind}/"

    @property
    def end(self) -> str:
        """The first key that does not."""
        return after(self.prefix)

    @property
    def mark(self) -> str:
        """Written by every creation."""
        return self.prefix + MARK

    @property
    def closed(self) -> str:
        """Refuses every creation."""
        return closed_key(self.env)

    def slot(self, slot: str) -> str:
        """Of a slot."""
        return f"{self.prefix}{SLOTS}{slot}"


def stage_prefix(env: str, stage: str) -> str:
    """Of all that one stage writes."""
    return f"/hyops/{env}/records/{stage}/"


def serving_prefix(env: str) -> str:
    """Of the keys by which running stages show themselves."""
    return f"/hyops/{env}/serving/"


def starts_prefix(env: str) -> str:
    """Of what executors remember beside their records: epoch, marks, rights to dial."""
    return f"/hyops/{env}/starts/"


def closed_key(env: str) -> str:
    """Says where the records of this loop are instead."""
    return f"/hyops/{env}/closed"


def after(prefix: str) -> str:
    """The first key that does not begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def get(key: str, *, revision: int | None = None, names_only: bool = False) -> dict[str, Any]:
    """Read one key in a transaction."""
    asked: dict[str, Any] = {"key": b64(key)}
    if revision is not None:
        asked["revision"] = str(revision)
    return {"request_range": asked | ({"keys_only": True} if names_only else {})}


def count(keys: Keys) -> dict[str, Any]:
    """How many keys the kind has."""
    return {"request_range": {"key": b64(keys.prefix), "range_end": b64(keys.end), "count_only": True}}


def page(low: str, high: str, limit: int, revision: int | None) -> dict[str, Any]:
    """Some names from `low` on, without values."""
    asked = {"key": b64(low), "range_end": b64(high), "limit": str(limit), "keys_only": True}
    return {"request_range": asked | ({"revision": str(revision)} if revision else {})}


def put(key: str, value: bytes) -> dict[str, Any]:
    """Write one key in a transaction."""
    return {"request_put": {"key": b64(key), "value": base64.b64encode(value).decode()}}


def delete(key: str) -> dict[str, Any]:
    """Remove one key in a transaction."""
    return {"request_delete_range": {"key": b64(key)}}


def absent(key: str) -> dict[str, str]:
    """Only if there is no such key."""
    return {"key": b64(key), "target": "VERSION", "result": "EQUAL", "version": "0"}


def unchanged(key: str, revision: int) -> dict[str, str]:
    """Only if nobody wrote it since."""
    return {"key": b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def not_after(key: str, revision: int) -> dict[str, str]:
    """Only if nobody wrote it after `revision`; also where there is no such key."""
    return {"key": b64(key), "target": "MOD", "result": "LESS", "mod_revision": str(revision + 1)}


@dataclass(frozen=True)
class Wanted:
    """A record to be created. `number` is this call's own; `guards` are further conditions, in the same transaction."""

    keys: Keys
    record_id: str
    data: bytes
    slot: str | None
    number: str
    guards: Sequence[dict[str, str]] = ()
    moving: bool = False

    @property
    def key(self) -> str:
        """Of the record."""
        return self.keys.prefix + self.record_id

    def creation(self, free: tuple[str, int] | None) -> dict[str, Any]:
        """All or nothing. `free`: the slot's holder, a record that is gone, and the revision of that entry."""
        compare, work = [absent(self.key), *self.guards], [put(self.key, self.data)]
        compare += [] if self.moving else [absent(self.keys.closed)]
        look = [get(self.key), get(self.keys.closed)]
        if self.slot is not None:
            slot = self.keys.slot(self.slot)
            if free is None:
                compare.append(absent(slot))
            else:
                compare += [unchanged(slot, free[1]), absent(self.keys.prefix + free[0])]
            work.append(put(slot, self.record_id.encode()))
            look.append(get(slot))
        return {"compare": compare, "success": [*work, put(self.keys.mark, self.number.encode())], "failure": look}


def revision_of(answer: dict[str, Any]) -> int:
    """Of the store, when it answered."""
    return int(answer.get("header", {}).get("revision", 0))


def found(answer: dict[str, Any], index: int) -> Kept | None:
    """What the read at `index` of a transaction found."""
    there = _range(answer, index).get("kvs", [])
    return _kept(there[0])[1] if there else None


def names(answer: dict[str, Any], index: int) -> list[tuple[str, Kept]]:
    """Key and what it holds, in the order of the keys."""
    return [_kept(one) for one in _range(answer, index).get("kvs", [])]


def counted(answer: dict[str, Any], index: int) -> int:
    """How many keys a `count` found."""
    return int(_range(answer, index).get("count", 0))


def event_of(event: dict[str, Any]) -> tuple[str, Kept | None, int]:
    """Key, what it holds now (None: it was deleted), and the revision of that."""
    key, kept = _kept(event["kv"])
    return key, None if event.get("type") == "DELETE" else kept, kept.changed


def _range(answer: dict[str, Any], index: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = answer["responses"][index]["response_range"]
        found.keys()
    except (KeyError, IndexError, TypeError, AttributeError) as exc:
        raise RecordError(f"etcd answered something that is not a transaction: {exc!r}") from exc
    return found


def _kept(one: dict[str, Any]) -> tuple[str, Kept]:
    try:
        key = base64.b64decode(one["key"], validate=True).decode(errors="backslashreplace")
        value = base64.b64decode(one.get("value", ""), validate=True)
        return key, Kept(value, int(one.get("create_revision", 0)), int(one["mod_revision"]))
    except (KeyError, ValueError, TypeError) as exc:
        raise RecordError(f"etcd answered something that is no key: {exc!r}") from exc
