"""Records in a directory: create-only, durable, watched (LOOP-1, LOOP-2).

`<dir>/<id>.json` is a record. A writer first makes the pending file `.slots/~<id>~<random>` durable together with the
slot (a symbolic link whose text names it), and links the record last: three syncs, two without a slot. A crash that
left a slot without its record is completed by whoever writes or scans next. Writers exclude each other by `flock` on
`.lock`, whose content says that somebody is at work, so a dead writer holds nothing and is noticed; readers need no
lock and no right to write. What is not a complete JSON document in a regular file is not a record.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from hyops.adapters.inotify_library import Inotify, Mask
from hyops.adapters.listing import NAME, SUFFIX, Listing, check_document
from hyops.adapters.store_moved import refuse_moved
from hyops.errors import PrerequisiteError, RecordError
from hyops.model.canonical import BYTES_MAX
from hyops.ownership import as_owner, make_folder, open_lock
from hyops.ports.records import Created

SLOT = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,159}$")
LOCK_WAIT_S = 5.0  # a writer holds the lock for a few syncs; one that is frozen in there must not hang the others
LOCK_RETRY_S = 0.001
STANDS = "nothing was written, and the record that is there stands: leave it; look at it before you try again"
UNWATCHED_RESCAN_S = 0.5  # on a host whose inotify instances or watches are all in use, until one is free
ALL_IN_USE = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)
WATCHED = Mask.CREATE | Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.DELETE_SELF | Mask.MOVE_SELF


class FileRecordStore:
    """One kind of record in one directory. `group_readable` lets the next stage's user read it.

    `moving`: whoever brings records here writes them although a sign says that they are elsewhere (`store_moved`).
    """

    def __init__(self, directory: Path, *, group_readable: bool = True, moving: bool = False) -> None:
        self._directory, self._moving = directory, moving
        self._slots = directory / ".slots"
        self._modes = (0o750, 0o640) if group_readable else (0o700, 0o600)
        self._listing = Listing(directory, self.read)
        self._prepared = self._settled = self._unwatched = False

    def create(self, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
        """Write durably, all or nothing, and never over another record (see the port)."""
        _checked(record_id, NAME)
        _checked(slot or "x", SLOT)
        check_document(data, record_id)
        with self._translated(), self._locked():
            if not self._moving:
                refuse_moved(self._directory.parent)
            if (holder := self._stands(record_id, data, slot)) is not None:
                return holder
            pending = self._slots / f"~{record_id}~{secrets.token_hex(4)}"
            try:
                write_new(pending, data, self._modes[1])
                if slot is not None:
                    (self._slots / slot).unlink(missing_ok=True)  # its record was removed by hand: it is free (DSP-3)
                    with as_owner(self._slots):
                        os.symlink(pending.name, self._slots / slot)
                    sync_directory(self._slots)
                os.link(pending, self._path(record_id))
                sync_directory(self._directory)
            except OSError:
                if slot is not None and not self._path(record_id).exists():
                    (self._slots / slot).unlink(missing_ok=True)
                raise
            finally:
                if self._path(record_id).exists() or slot is None or not os.path.lexists(self._slots / slot):
                    pending.unlink(missing_ok=True)
        return Created(True, record_id)

    def read(self, record_id: str) -> bytes:
        """The bytes; KeyError when there is no such record, RecordError when it is a link or too large."""
        if not NAME.fullmatch(record_id):
            raise KeyError(record_id)
        try:
            fd = os.open(self._path(record_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise KeyError(record_id) from None
        except OSError as exc:
            raise RecordError(f"{self._path(record_id)}: {_why(exc)}") from exc
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise RecordError(f"{self._path(record_id)}: not a regular file")
            with os.fdopen(fd, "rb", closefd=False) as file:
                data = file.read(BYTES_MAX + 1)
        except OSError as exc:
            raise RecordError(f"{self._path(record_id)}: {_why(exc)}") from exc
        finally:
            os.close(fd)
        if len(data) > BYTES_MAX:
            raise RecordError(f"{self._path(record_id)}: more than {BYTES_MAX} bytes")
        return data

    def slot(self, slot: str) -> str | None:
        """The id of the record that holds a slot; None also when that record was removed by hand."""
        record_id = _id_of(self._holder(slot))
        return record_id if record_id is not None and self._path(record_id).exists() else None

    def known(self, slot: str) -> str | None:
        """The same: it costs no more."""
        return self.slot(slot)

    def complete(self) -> None:
        """Finish what dead writers began; looks at no folder where the last one came to its end (see the port)."""
        with self._translated():
            try:
                os.stat(self._slots)
            except FileNotFoundError:
                return  # nobody ever wrote here
            with contextlib.suppress(FileNotFoundError):
                if self._settled and not os.stat(self._directory / ".lock").st_size:
                    return
            with self._locked():
                pass

    def ids(self) -> list[str]:
        """Every complete record's id, oldest name first."""
        with self._translated():
            self._settle_if_idle()
            return self._listing.ids()

    def changed(self, since: int) -> tuple[int, list[str]]:
        """A mark for the next call, and the ids that came, changed or went since the mark (see the port)."""
        with self._translated():
            self._settle_if_idle()
            return self._listing.changed(since)

    def faults(self) -> dict[str, str]:
        """File name -> why it is not a record: torn, empty, a link, foreign. Left where it is for a person."""
        with self._translated():
            return self._listing.faults()

    async def changes(self, rescan_s: float) -> AsyncIterator[list[str]]:
        """Yield ids as they appear: all known ones first, then by event, with a rescan as safety net."""
        mark, first = 0, True
        while True:
            with contextlib.ExitStack() as stack, self._translated():
                make_folder(self._directory, self._modes[0])
                inotify = self._watched(stack)
                watched = os.stat(self._directory).st_ino
                while True:
                    mark, names = self.changed(mark)
                    fresh = sorted({name for name in names if self._path(name).exists()})
                    if fresh or first:
                        first = False
                        yield fresh
                    if inotify is None:
                        await asyncio.sleep(min(rescan_s, UNWATCHED_RESCAN_S))
                        break  # one may be free by now
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(rescan_s):
                            while str((await inotify.get()).name or "").startswith("."):
                                pass  # the lock says nothing about records
                    if not self._directory.exists() or os.stat(self._directory).st_ino != watched:
                        break  # the directory was replaced: watch the one that now has the name

    def _watched(self, stack: contextlib.ExitStack) -> Inotify | None:
        """Events of the directory; None, said once, where others have all that the host gives."""
        try:
            inotify = stack.enter_context(Inotify())
            inotify.add_watch(self._directory, WATCHED)
        except OSError as exc:
            if exc.errno not in ALL_IN_USE:
                raise
            if not self._unwatched:
                why = f"inotify: {_why(exc)}: looked at every {UNWATCHED_RESCAN_S:g} s until one is free"
                sys.stderr.write(f"hyops: {self._directory}: {why}\n")
            self._unwatched = True
            return None
        self._unwatched = False
        return inotify

    def _path(self, record_id: str) -> Path:
        return self._directory / f"{record_id}{SUFFIX}"

    def _stands(self, record_id: str, data: bytes, slot: str | None) -> Created | None:
        if slot is not None and (holder := self.slot(slot)) is not None:
            return Created(False, holder)
        try:
            there = self.read(record_id)
        except KeyError:
            return None
        if there != data:
            raise RecordError(f"{self._path(record_id)} exists with other bytes", hint=STANDS)
        if slot is not None:
            raise RecordError(f"{self._path(record_id)} exists without the slot {slot}", hint=STANDS)
        return Created(False, record_id)

    def _holder(self, slot: str) -> str | None:
        try:
            return os.readlink(self._slots / slot) if SLOT.fullmatch(slot) else None
        except OSError:
            return None

    def _settle(self) -> None:
        """Under the lock: finish what a dead writer began, and drop what it did not get far with."""
        names = os.listdir(self._slots)
        begun = {name for name in names if name.startswith("~")}
        for name in names if begun else []:
            pending = self._holder(name)
            record_id = _id_of(pending)
            if pending in begun and record_id is not None and not self._path(record_id).exists():
                sync_directory(self._slots)
                os.link(self._slots / pending, self._path(record_id))
        if begun:
            sync_directory(self._directory)
        for name in begun:
            os.unlink(self._slots / name)
        self._settled = True

    def _settle_if_idle(self) -> None:
        """The same from a reader that may write here, unless somebody is writing right now."""
        with contextlib.suppress(OSError, PrerequisiteError):
            lock = self._directory / ".lock"
            if lock.exists() and (not self._settled or lock.stat().st_size) and os.access(self._slots, os.W_OK):
                with self._locked(wait_s=0):
                    pass

    @contextlib.contextmanager
    def _locked(self, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
        if not self._prepared:
            for folder in (self._directory, self._slots):
                make_folder(folder, self._modes[0])
            self._prepared = True
        fd = open_lock(self._directory / ".lock", self._modes[1])
        try:
            give_up = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise PrerequisiteError(f"{self._directory}: another writer holds the lock") from None
                    time.sleep(LOCK_RETRY_S)
            if not self._settled or os.fstat(fd).st_size:
                self._settle()  # the last writer died at work, or the machine did before this process began
            os.pwrite(fd, b"busy", 0)
            yield
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            self._prepared = False
            raise PrerequisiteError(f"{self._directory}: {_why(exc)}", hint="free space or mend the folder") from exc


def _id_of(pending: str | None) -> str | None:
    """The record's id in the name of a pending file."""
    parts = (pending or "").split("~")
    return parts[1] if len(parts) == 3 and NAME.fullmatch(parts[1]) else None


def _checked(name: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(name):
        raise RecordError(f"{name[:80]!r} cannot be the name of a record or slot")


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist yet, durable but for its name; it belongs to its folder's owner."""
    with as_owner(path.parent):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _why(exc: OSError) -> str:
    return "a symbolic link" if exc.errno == errno.ELOOP else (exc.strerror or str(exc))
