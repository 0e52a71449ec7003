"""What lies on a runner's disk, and nothing but that: run folders, epochs, blobs, secrets (RUN-4, RUN-5, INV-8).

Every path is opened relative to a folder of ours, without following links, and must be ours. State is read from what
is there: a result is written once and last, the lock on `alive` is held exactly as long as the job lives.
Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hyops.errors import ConfigError, DiskFullError, PrerequisiteError, RecordError, StaleGenerationError

RUN_ID = re.compile(r"[a-z0-9][A-Za-z0-9_-]{0,79}")
SERVICE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
FILE_MAX = 64 * 1024 * 1024
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
EPOCH_STEP_MAX = 2**32
"""An executor counts all of its starts in one number; between two runs of a service no runner misses so many.

A spec's epoch is not signed: with this limit not even an admitted one can use the numbers up.
"""
REOPEN = "reopen.json"  # beside a run that ended and was asked to go on: it is open again
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux
State = Literal["absent", "staged", "running", "interrupted", "finished"]


@dataclass(frozen=True)
class Seen:
    """The highest generation and epoch that this runner has seen of a service."""

    generation: int = 0
    epoch: int = 0


class Folders:
    """A runner's root folder."""

    def __init__(self, root: Path, secrets_dir: Path) -> None:
        self.root, self.secrets_dir = root, secrets_dir
        self.runs, self.cas, self.generations = root / "runs", root / "cas", root / "generations"
        self.reaped, self.trash, self.staging = root / "reaped", root / "trash", root / "staging"
        self.orders, self.takeovers = root / "orders", root / "takeovers"

    def make(self) -> None:
        """Create what is missing.

        Raises:
            ConfigError: a folder is a link, somebody else's, open to others, or lies where others may put one.
        """
        below = (self.runs, self.cas, self.generations, self.reaped, self.trash, self.staging)
        for folder in (self.root, *below, self.orders, self.takeovers):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700, parents=True)
            check_ours(folder)
        check_parents(self.root)

    def run(self, run_id: str) -> Path:
        """A run's folder, whether it exists or not.

        Raises:
            RecordError: not a run id; ids become file and unit names, so nothing else may pass.
        """
        if not RUN_ID.fullmatch(run_id):
            raise RecordError(f"{run_id!r} is not a run id")
        folder = self.runs / run_id
        if os.path.lexists(folder):
            check_ours(folder)
        return folder

    def run_ids(self) -> list[str]:
        """Every run of ours that has a spec or a journal, oldest name first; one that cannot be read is one too."""
        foreign = self.foreign()
        return [run_id for run_id in self.places() if run_id not in foreign and self._holds(run_id)]

    def foreign(self) -> dict[str, str]:
        """What stands in a run's place and is none of ours, with the reason: nothing there is read or started."""
        found = {}
        for run_id in self.places():
            try:
                self.run(run_id)
            except ConfigError as exc:
                found[run_id] = exc.message
        return found

    def closed_off(self) -> dict[str, str]:
        """The folders among what is foreign, with the reason: a run of any service may lie in each."""
        return {run_id: why for run_id, why in self.foreign().items() if is_folder(self.runs / run_id)}

    def places(self) -> list[str]:
        """Every name that a run could have, oldest first, whatever stands there."""
        return sorted(name for name in os.listdir(self.runs) if RUN_ID.fullmatch(name))

    def _holds(self, run_id: str) -> bool:
        try:
            return self.state(run_id) != "absent"
        except OSError:
            return True

    def reaped_ids(self) -> list[str]:
        """Every run that was removed and is remembered, oldest name first."""
        return sorted(name for name in os.listdir(self.reaped) if RUN_ID.fullmatch(name))

    def tombstone(self, run_id: str) -> Path:
        """Where a removed run is remembered; raises RecordError for what is not a run id."""
        return self.reaped / self.run(run_id).name

    def state(self, run_id: str) -> State:
        """Where a run stands, read from the disk now."""
        folder = self.run(run_id)
        if has_ended(folder):
            return "finished"
        if is_alive(folder):
            return "finished" if has_ended(folder) else "running"
        if (folder / "journal.jsonl").exists():
            return "finished" if has_ended(folder) else "interrupted"
        return "staged" if (folder / "spec.json").exists() else "absent"

    def is_over(self, run_id: str) -> bool:
        """Whether it is surely finished; not when it cannot be read."""
        try:
            return self.state(run_id) == "finished"
        except (ConfigError, OSError):
            return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One start at a time."""
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def seen(self, service: str) -> Seen:
        """What was seen of a service; zeros when it was never served here.

        Raises:
            RecordError: the file is damaged, or is gone although runs of the service were here. It is never begun
                anew: from zero, this runner would take what the service has left behind.
        """
        path = self.generations / _service(service)
        try:
            value = json.loads(read_file(path, 4096))
            numbers = value["generation"], value["epoch"]
            if any(type(number) is not int or number < 0 for number in numbers):
                raise ValueError("generation or epoch is no number")
            return Seen(*numbers)
        except FileNotFoundError as exc:
            if (told := self._witnessed(service)) is None:
                return Seen()
            raise self._lost(path, f"is gone, but {told[0]}", told[1]) from exc
        except (ValueError, KeyError, TypeError) as exc:
            told = self._witnessed(service) or ("", Seen())
            raise self._lost(path, f"damaged ({type(exc).__name__}: {exc})", told[1]) from exc

    def _lost(self, path: Path, what: str, least: Seen) -> RecordError:
        return RecordError(
            f"{path}: {what}; what this runner has seen of {path.name} is not known",
            hint=f"take the generation from `hyops status`, the highest epoch from the executor's state/starts/epoch, "
            f'and write {{"generation": G, "epoch": E}} into {path}; from what lies here they are at least '
            f"{least.generation} and {least.epoch}",
        )

    def _witnessed(self, service: str) -> tuple[str, Seen] | None:
        """That one ran here, or may have, and the highest numbers that runs tell; None when there is no sign of one."""
        last, generation, epoch = "", 0, 0
        places = [(name, self.run(name)) for name in self.run_ids()]
        for name, values in [
            *((name, [folder / "spec.json", folder / "result.json"]) for name, folder in places),
            *((name, [self.tombstone(name)]) for name in self.reaped_ids()),
        ]:
            told = [_told(path) for path in values]
            if told[0].get("service", service) == service:  # one that cannot be read may be of this service
                last = f"{name} ran here"
                generation = max([generation, *(_number(t, "generation") for t in told)])
                generation = max([generation, *(_number(t, "generation_after") for t in told)])
                if told[-1].get("outcome") != "refused":  # nobody vouches for the epoch of one that was not admitted
                    epoch = max([epoch, *(_number(t, "epoch") for t in told)])
        for why in self.closed_off().values():
            last = f"what ran here cannot all be read: {why}"
        return (last, Seen(generation, epoch)) if last else None

    def raise_seen(self, service: str, *, generation: int = 0, epoch: int = 0) -> None:
        """Remember a higher generation or epoch; they never go down.

        Raises:
            PrerequisiteError: it could not be written.
        """
        with self.locked():
            self.raise_seen_locked(service, generation=generation, epoch=epoch)

    def raise_seen_locked(self, service: str, *, generation: int = 0, epoch: int = 0) -> None:
        """The same for a caller that holds the lock; afterwards the file is there, also when it says nothing yet."""
        old, path = self.seen(service), self.generations / _service(service)
        new = Seen(max(old.generation, generation), max(old.epoch, epoch))
        if new != old or not path.exists():
            write_file(path, json.dumps({"generation": new.generation, "epoch": new.epoch}).encode())

    def take(self, service: str, *, epoch: int, generation: int) -> None:
        """Remember the numbers of a run that was admitted; from now on an older start is refused.

        Raises:
            StaleGenerationError: a newer one was admitted. PrerequisiteError: an impossible epoch, or no room for it.
        """
        with self.locked():
            self.refuse_old(service, epoch=epoch, generation=generation)
            self.refuse_leap(service, epoch=epoch)
            self.raise_seen_locked(service, epoch=epoch, generation=generation)

    def refuse_leap(self, service: str, *, epoch: int) -> None:
        """Return when an epoch may follow what was seen; raises PrerequisiteError otherwise."""
        if epoch > (most := self.seen(service).epoch + EPOCH_STEP_MAX):
            raise PrerequisiteError(
                f"epoch {epoch} of {service} is over {most}: no executor starts so often between two of its runs",
                hint="write the highest `epoch_seen` of `hyops runner jobs` into the executor's state/starts/epoch",
            )

    def refuse_old(self, service: str, *, epoch: int, generation: int) -> None:
        """Return when neither is older than what was seen; raises StaleGenerationError otherwise."""
        seen = self.seen(service)
        if epoch < seen.epoch:
            raise StaleGenerationError(
                f"epoch {epoch} of {service} is older than {seen.epoch}, which this runner has seen",
                hint=f"another executor has started runs here: if it lives, work there. If this one replaced it, write "
                f"{seen.epoch} or more into this executor's state/starts/epoch, then ask anew (how-to: read a refused "
                "run, a control host that was replaced)",
                epoch_seen=seen.epoch,
            )
        if generation < seen.generation:
            raise StaleGenerationError(
                f"generation {generation} of {service} is older than {seen.generation}, which this runner has seen"
            )

    def blob(self, digest: str) -> Path:
        """Where the bytes of a digest lie."""
        if not DIGEST.fullmatch(digest):
            raise RecordError(f"{digest!r} is not a digest")
        return self.cas / digest.removeprefix("sha256:")

    def put_secrets(self, run_id: str, secrets: Mapping[str, str]) -> None:
        """Hand secrets to the job: memory only, 0600, gone when the job ends (RUN-8).

        Raises:
            PrerequisiteError: the folder is not on a memory file system.
        """
        from hyops.runner import handed

        if secrets:
            handed.sweep(self.secrets_dir, self.is_over, now=time.time())
            handed.put(self.secrets_dir, run_id, secrets)

    def secrets(self, run_id: str) -> dict[str, str]:
        """The secrets of a run; empty when none were handed over."""
        with contextlib.suppress(FileNotFoundError):
            return dict(json.loads(read_file(self.secrets_dir / run_id, FILE_MAX)))
        with contextlib.suppress(FileNotFoundError), self.locked():  # they may just be handed over anew
            return dict(json.loads(read_file(self.secrets_dir / run_id, FILE_MAX)))
        return {}

    def drop_secrets(self, run_id: str) -> None:
        """Remove them, and what a killed writer has left of them."""
        from hyops.runner import handed

        handed.drop(self.secrets_dir, run_id)


def has_ended(folder: Path) -> bool:
    """Whether a run has its result and nobody asked it to go on."""
    return (folder / "result.json").exists() and not (folder / REOPEN).exists()


def is_folder(path: Path) -> bool:
    """Whether a folder stands there, and no link to one; one that cannot be looked at may be one."""
    try:
        return (os.lstat(path).st_mode & 0o170000) == 0o040000
    except FileNotFoundError:
        return False
    except OSError:
        return True


def check_ours(folder: Path) -> None:
    """Return when it is a real folder of ours that nobody else may enter; raises ConfigError otherwise."""
    stat = os.lstat(folder)
    if (stat.st_mode & 0o170000) != 0o040000:
        raise ConfigError(f"{folder} is no folder: somebody planted it")
    if stat.st_uid != os.geteuid():
        raise ConfigError(f"{folder} belongs to user {stat.st_uid}, not to us")
    if stat.st_mode & 0o077:
        raise ConfigError(f"{folder} is open to others (mode {stat.st_mode & 0o777:o}); make it 0700")


def check_parents(folder: Path) -> None:
    """Return when nobody else can put another folder in its place; raises ConfigError otherwise (RUN-4)."""
    real = Path(os.path.realpath(folder))
    for above in real.parents:
        mode = os.lstat(above).st_mode
        if mode & 0o002 and (above == real.parent or not mode & 0o1000):
            raise ConfigError(f"{folder} lies in {above}, where everybody may write; move it or close that folder")


def lock_alive(folder: Path) -> int | None:
    """Take the lock that says that this process runs the run; None when another one holds it.

    The descriptor stays open until the process ends and is inherited by nobody. It is an open-file-description lock:
    others can ask for its holder without taking it for a moment, which would turn a starting job away.
    """
    fd = os.open(folder / "alive", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        os.close(fd)
        return None
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def is_alive(folder: Path) -> bool:
    """Whether a job holds the lock.

    It is opened to be read: closing what may be written is an event for whoever watches the folder, and wakes him.
    """
    try:
        fd = os.open(folder / "alive", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)


def job_pidfd(folder: Path) -> int | None:
    """A descriptor of the living job process (readable once it ends); None when none lives."""
    try:
        pid = int(read_file(folder / "alive", 32) or b"0")
        fd = os.pidfd_open(pid) if pid > 1 else -1
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return None
    if fd < 0:
        return None
    lives = False
    try:
        lives = is_alive(folder)  # the lock is checked after the descriptor exists, so the pid was not reused
    finally:
        if not lives:
            os.close(fd)
    return fd if lives else None


def read_file(path: Path, limit: int, offset: int = 0) -> bytes:
    """At most `limit` bytes of a file that is no link."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.pread(fd, limit, offset)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file in one piece: all of it, or as it was.

    Raises:
        DiskFullError: no room, or a read-only disk; nothing was changed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(fd, "wb", closefd=False) as out:
                out.write(data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(partial, path)
        if durable:
            sync_folder(path.parent)
    except OSError as exc:
        with contextlib.suppress(OSError):
            partial.unlink()
        if exc.errno in NO_ROOM:
            raise DiskFullError(f"cannot write {path}: {exc.strerror}", folder=path.parent) from exc
        raise


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _told(path: Path) -> dict[str, Any]:
    """What a record of a run tells; nothing when it is missing or damaged."""
    try:
        value = json.loads(read_file(path, FILE_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(told: Mapping[str, Any], key: str) -> int:
    number = told.get(key)
    return number if type(number) is int and number >= 0 else 0


def _service(service: str) -> str:
    if not SERVICE.fullmatch(service):
        raise RecordError(f"{service!r} is not a service name")
    return service
