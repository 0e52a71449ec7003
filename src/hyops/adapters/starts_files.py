"""The executor's epochs, dial locks and start marks as files (EXE-3, INV-3)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from hyops.adapters.listing import NAME
from hyops.adapters.store_files import sync_directory, write_new
from hyops.errors import DialLostError, PrerequisiteError, RecordError
from hyops.ownership import make_folder, open_lock
from hyops.ports.records import Created, RecordStore
from hyops.ports.starts import Hindrance, Remembered, Rival

HINDRANCE_MAX = 64 * 1024
UNLOCKABLE = (errno.ENOENT, errno.ELOOP, errno.ENXIO)  # not there, a link, a socket: `open_lock` takes none of them
MEND = "write a number into {path} that is not below any `epoch_seen` of `hyops runner jobs`"


class FileStarts:
    """One directory: `epoch` (a number), `<attempt>.sent`, `<attempt>.lock` and `epoch.lock` (flock).

    `<attempt>.hindered` is for people: why the last try ended early.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: set[str] = set()

    def next_epoch(self) -> int:
        """One more than the last; the file is replaced whole, so a crash leaves the old or the new number."""
        with self._translated(), self._flock("epoch", wait=True):
            epoch = self._last_epoch() + 1
            self._write_epoch(epoch)
            return epoch

    def last_epoch(self) -> int:
        """What the file says."""
        with self._translated():
            return self._last_epoch()

    def at_least(self, epoch: int, *, leap_max: int) -> None:
        """Raise the number where it is lower: somebody else started runs meanwhile, on a runner that took over."""
        with self._translated(), self._flock("epoch", wait=True):
            last = self._last_epoch()
            if epoch > last + leap_max:
                raise RecordError(
                    f"epoch {epoch} is over {last + leap_max}: no executor that was at {last} comes so far",
                    hint="look at who told it; only if what was counted here is lost, "
                    + MEND.format(path=self._directory / "epoch"),
                )
            if epoch > last:
                self._write_epoch(epoch)

    def _write_epoch(self, epoch: int) -> None:
        fresh = self._directory / f".epoch.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        write_new(fresh, f"{epoch}\n".encode(), 0o600)
        fresh.replace(self._directory / "epoch")
        sync_directory(self._directory)

    def _last_epoch(self) -> int:
        """The last epoch; 0 only where nothing was ever sent. It is never begun anew: runners refuse what is lower."""
        path = self._directory / "epoch"
        try:
            text = _start_of(path, 64).strip()
        except FileNotFoundError:
            sent = min((mark.stem for mark in self._directory.glob("*.sent")), default=None)
            if sent is None:
                return 0
            raise RecordError(f"{path}: is gone, but {sent} was sent", hint=MEND.format(path=path)) from None
        if not text.isdigit():
            raise RecordError(f"{path}: not a number", hint=MEND.format(path=path))
        return int(text)

    def note(self, attempt_id: str) -> None:
        """Make `<attempt>.sent`, durable."""
        with self._translated():
            self._prepare()
            with contextlib.suppress(FileExistsError):
                write_new(self._named(attempt_id, "sent"), b"", 0o600)
            sync_directory(self._directory)

    def forget(self, attempt_id: str) -> None:
        """Remove that file; a crash before leaves it, which only makes people look."""
        with self._translated():
            self._named(attempt_id, "sent").unlink(missing_ok=True)

    def maybe_sent(self, attempt_id: str) -> bool:
        """Whether that file is there; who may not look is not told that it is not."""
        with self._translated():
            try:
                self._named(attempt_id, "sent").stat()
            except FileNotFoundError:
                return False
            return True

    def hinder(self, attempt_id: str, by: Hindrance | None) -> None:
        """Replace `<attempt>.hindered` whole, or remove it."""
        path = self._named(attempt_id, "hindered")
        with self._translated():
            if by is None:
                path.unlink(missing_ok=True)
                return
            self._prepare()
            fresh = self._directory / f".{path.name}.{os.getpid()}"
            fresh.unlink(missing_ok=True)
            write_new(fresh, json.dumps(by.body()).encode(), 0o600)
            fresh.replace(path)

    def hindrance(self, attempt_id: str) -> Hindrance | None:
        """What that file says."""
        try:
            told = json.loads(_start_of(self._named(attempt_id, "hindered"), HINDRANCE_MAX))
            return Hindrance(**{name: str(told[name]) for name in ("at", "error", "message", "hint")})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    @contextlib.contextmanager
    def dialling(self, attempt_id: str) -> Iterator[bool]:
        """Hold `<attempt>.lock` by flock."""
        self._named(attempt_id, "lock")
        with self._flock(attempt_id, wait=False) as held:
            if held:
                self._held.add(attempt_id)
            try:
                yield held
            finally:
                if held:
                    self._held.discard(attempt_id)

    async def freed(self, attempt_id: str) -> None:
        """Until the lock file is closed by its holder, which a dead one's kernel does (inotify: CLOSE_WRITE)."""
        from hyops.adapters.inotify_library import Inotify, Mask  # only who was turned away needs it

        path = self._named(attempt_id, "lock")
        with self._translated(), Inotify() as inotify:
            try:
                inotify.add_watch(path, Mask.CLOSE_WRITE | Mask.DELETE_SELF)
            except FileNotFoundError:
                return
            while not _is_free(path):  # looked at after the watch began; others who try and fail close it too
                await inotify.get()

    def create(
        self, attempt_id: str, store: RecordStore, record_id: str, data: bytes, *, slot: str | None = None
    ) -> Created:
        """As the store does: the kernel keeps the lock for as long as this process lives, frozen or not."""
        if attempt_id not in self._held:
            raise DialLostError(f"{self._directory}: {attempt_id} is not dialled by this process")
        return store.create(record_id, data, slot=slot)

    def settle(
        self, attempt_id: str, store: RecordStore, record_id: str, data: bytes, *, slot: str, rival: Rival
    ) -> Created | None:
        """Under `<attempt>.lock`, which whoever creates the rival takes too; one who is frozen in there holds up no
        other execution.
        """
        with self.dialling(attempt_id) as mine:
            return store.create(record_id, data, slot=slot) if mine and not rival.stands() else None

    def dials(self) -> list[str]:
        """The attempts that some executor of this host dials for now; PrerequisiteError where nobody can tell."""
        with self._translated():
            locks = sorted(self._directory.glob("*.lock"))
            return [path.stem for path in locks if path.stem != "epoch" and not _is_free(path)]

    def remembered(self) -> Remembered:
        """What a move takes along; nothing where no executor ever ran."""
        with self._translated():
            return Remembered(self._last_epoch(), frozenset(mark.stem for mark in self._directory.glob("*.sent")))

    def remember(self, known: Remembered) -> None:
        """Marks first: an epoch without them would let a run be started that was."""
        for attempt_id in sorted(known.sent):
            self.note(attempt_id)
        with self._translated(), self._flock("epoch", wait=True):
            try:
                last = self._last_epoch()
            except RecordError:
                last = 0  # marks of this very move, and no number yet
            if known.epoch > last:
                self._write_epoch(known.epoch)

    def _named(self, attempt_id: str, suffix: str) -> Path:
        if not NAME.fullmatch(attempt_id):
            raise RecordError(f"{attempt_id[:80]!r} is not an attempt's id")
        return self._directory / f"{attempt_id}.{suffix}"

    def _prepare(self) -> None:
        make_folder(self._directory, 0o700)

    @contextlib.contextmanager
    def _flock(self, name: str, *, wait: bool) -> Iterator[bool]:
        with self._translated():
            self._prepare()
            fd = open_lock(self._directory / f"{name}.lock", 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                held = True
            except BlockingIOError:
                held = False
            yield held
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise PrerequisiteError(f"{self._directory}: {exc.strerror}") from exc


def _is_free(path: Path) -> bool:
    """Whether nobody holds it; opened for reading, so that looking is no event for others who wait."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno in UNLOCKABLE:
            return True
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _start_of(path: Path, bytes_max: int) -> bytes:
    """The first bytes of a file; nothing of a pipe, which is not waited for."""
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        return file.read(bytes_max) or b""
