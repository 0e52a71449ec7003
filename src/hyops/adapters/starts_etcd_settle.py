"""An attempt or the refusal of its execution in etcd, never both: each is made on the condition that the other is not
there, in the very transaction that makes it (EXE-1, INV-7). That costs no request more.
"""

from __future__ import annotations

from collections.abc import Callable

from hyops.adapters import etcd_records_keys as k
from hyops.adapters.etcd_records import EtcdRecordStore
from hyops.errors import PrerequisiteError, StaleGenerationError
from hyops.ports.records import Created, RecordStore
from hyops.ports.starts import Rival

TRIES = 3  # each one more means that somebody removed a record by hand in that very moment


def settle(
    get: Callable[[str], k.Kept | None], store: RecordStore, record_id: str, data: bytes, slot: str, rival: Rival
) -> Created | None:
    """As `Starts.settle`; `get` reads one key, linearizable."""
    if not isinstance(store, EtcdRecordStore) or not isinstance(rival.store, EtcdRecordStore):
        raise PrerequisiteError(f"{record_id}: these executors remember in etcd, and these records are not there")
    keys = rival.store.keys
    key = keys.slot(rival.name) if rival.by_slot else keys.prefix + rival.name
    guards = [k.absent(key)]
    for _ in range(TRIES):
        try:
            return store.create(record_id, data, slot=slot, guards=guards)
        except StaleGenerationError:
            kept = get(key)
        guards = [k.absent(key)]
        if kept is not None and not rival.by_slot:
            return None
        if kept is not None:
            holder = keys.prefix + kept.value.decode(errors="backslashreplace")
            if get(holder) is not None:
                return None
            guards = [k.unchanged(key, kept.changed), k.absent(holder)]  # somebody removed that record by hand
    return None
