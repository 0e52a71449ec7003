"""Records in etcd put together: one session a process for each loop, however many stores it has (see `compose`)."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyops.adapters.etcd_records_session import EtcdSession
    from hyops.adapters.starts_etcd import EtcdStarts
    from hyops.adapters.starts_files import FileStarts
    from hyops.model.etcd import EtcdStore
    from hyops.ports.records import RecordStore
    from hyops.services.execution_parts import ClosedHook

ATTEMPT_S = 1.0  # of one request at one member; another member is asked meanwhile
LIMIT_S = 10.0  # of one of the requests that a first look consists of
SESSIONS: dict[str, EtcdSession] = {}
"""By the configuration they were made from: a process has one thread and one set of connections for each."""
STARTS: dict[EtcdSession, EtcdStarts] = {}


class Shared:
    """The stores of the stage that this process serves: whoever looks at its records, as its health does, uses them."""

    stores: ClassVar[dict[tuple[EtcdSession, str, str], RecordStore] | None] = None


@contextmanager
def sharing() -> Iterator[None]:
    """Meanwhile the records of one kind are one store. A command is short, and reads what there is when it looks."""
    Shared.stores = {}
    try:
        yield
    finally:
        Shared.stores = None


def etcd_records(store: EtcdStore, stage: str, kind: str) -> RecordStore:
    """One kind of record of one stage."""
    from hyops.adapters.etcd_records import EtcdRecordStore

    session = etcd_session(store)
    made = EtcdRecordStore(session, stage, kind)
    return made if Shared.stores is None else Shared.stores.setdefault((session, stage, kind), made)


def starts_of(home: str) -> FileStarts | EtcdStarts:
    """What the executors of a loop remember, where its records are; one for each process, which has one lease.

    Raises:
        ConfigError: a file that is named for etcd is not usable.
    """
    from hyops.services.config import Home

    if not isinstance(home, Home) or home.store is None:
        from hyops.adapters.starts_files import FileStarts

        return FileStarts(Path(home) / "state" / "starts")
    from hyops.adapters.starts_etcd import EtcdStarts

    session = etcd_session(home.store)
    if session not in STARTS:
        STARTS[session] = EtcdStarts(session, home.store.dial_ttl_s)
    return STARTS[session]


def made_once(home: str, hook: ClosedHook) -> ClosedHook:
    """Evidence is made by one executor of the loop, where several hosts have one."""
    import socket

    from hyops.services.config import Home
    from hyops.services.evidence_once import MadeOnce

    if not isinstance(home, Home) or home.store is None:
        return hook
    return MadeOnce(hook, etcd_records(home.store, home.stage, "evidence"), socket.gethostname())


@contextmanager
def serving(stage: str, config_file: Path) -> Iterator[None]:
    """A stage runs meanwhile, and shows it where its records are. What has no records needs none of this.

    Raises:
        PrerequisiteError: its records are elsewhere by now, or are being moved.
    """
    from hyops.services.config import placement_of

    if (home := placement_of(config_file.read_bytes(), stage)) is None:
        yield  # not a stage, or its configuration is wrong: that is said where it is read as a whole
        return
    with ExitStack() as stack:
        if home.store is not None:
            from hyops.adapters.etcd_presence import present

            stack.enter_context(sharing())
            stack.enter_context(present(etcd_session(home.store), stage))
        else:
            from hyops.adapters.store_moved import refuse_moved
            from hyops.adapters.store_moved import serving as shown

            refuse_moved(Path(home) / "state")
            try:
                stack.enter_context(shown(Path(home) / "state"))
            except OSError as exc:  # full or read-only: the stage says so when it writes, and goes on when that is over
                sys.stderr.write(f"hyops: {exc.filename or home}: {exc.strerror}: not shown as running\n")
        yield


def etcd_session(store: EtcdStore) -> EtcdSession:
    """This process's dealings with one loop."""
    from hyops.adapters.etcd_access import gateway_of, login_of, tls_of
    from hyops.adapters.etcd_records_session import EtcdSession
    from hyops.services.progress import Progress

    name = store.model_dump_json()
    if name not in SESSIONS:
        place = f"etcd ({', '.join(store.endpoints)}), env {store.env}"
        tls_of(store), login_of(store)  # said now, and not from within the first request
        SESSIONS[name] = EtcdSession(
            lambda: gateway_of(store.endpoints, store, attempt_s=ATTEMPT_S, limit_s=LIMIT_S),
            store.env,
            place,
            progress=Progress(),
        )
    return SESSIONS[name]
