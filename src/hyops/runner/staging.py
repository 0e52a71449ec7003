"""Takes in what a bundle needs and the cache has not: an offer, then one tar of what lacks (RUN-1, RUN-4, INV-4).

The stream is a plain tar of regular files, each named by the hex of its digest, so that no path in it leads anywhere;
whatever else stands in it ends the staging. Files go to a folder of this connection alone, are hashed on the way,
made durable, and only when all are there renamed into the cache. Killed anywhere, the cache has whole entries only,
and what else is left goes with the next staging, `gc` or boot. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from hyops.errors import (
    DiskFullError,
    HyopsError,
    PrerequisiteError,
    RecordError,
    RunnerUnreachableError,
    UnsafePlanError,
)
from hyops.model.bundled import check_names
from hyops.model.wire import Chunks
from hyops.runner import cache as cached
from hyops.runner import folders as disk
from hyops.runner import handed
from hyops.runner.cache import Cache
from hyops.runner.config import RunnerConfig
from hyops.runner.folders import Folders

PARTIAL = ".partial"
IDLE_S = 60.0  # a stream that brings nothing for so long is given up: its link is half open
SPARE_INODES = 100
_BLOCK = tarfile.BLOCKSIZE

Boundary = Callable[[str], None]


@dataclass(frozen=True)
class Offer:
    """What a dispatcher says that a run needs: size by digest, and one name of each; `files` and bytes laid out."""

    run_id: str
    sizes: Mapping[str, int]
    names: Mapping[str, str]
    files: int
    total_bytes: int
    missing: frozenset[str] = field(default_factory=frozenset)


def read_offer(run_id: str, payload: bytes, bytes_max: int) -> Offer:
    """An offer whose names, count and sizes are within the limits.

    Raises:
        RecordError: mistyped. UnsafePlanError: a name that leads out, too many files, too many bytes.
    """
    try:
        files = json.loads(payload)["files"]
        told = {str(name): (str(digest), size) for name, (digest, size) in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise RecordError(f"offer: {type(exc).__name__}: {exc}") from exc
    check_names(told)
    sizes: dict[str, int] = {}
    for name, (digest, size) in told.items():
        if not disk.DIGEST.fullmatch(digest) or type(size) is not int or size < 0:
            raise RecordError(f"offer: {name!r} has no digest or size")
        if sizes.setdefault(digest, size) != size:
            raise RecordError(f"offer: {name!r}: two sizes for {digest}")
    if (total := sum(size for _, size in told.values())) > bytes_max:
        raise UnsafePlanError(
            f"a bundle of {total} bytes is over {bytes_max}",
            hint="name fewer or smaller files, or raise bundle_bytes_max in the runner's configuration",
        )
    return Offer(run_id, sizes, {digest: name for name, (digest, _) in told.items()}, len(told), total)


class Staging:
    """The staging verbs of one connection."""

    def __init__(self, config: RunnerConfig, folders: Folders, at: Boundary = lambda name: None) -> None:
        self._config, self._folders, self._at = config, folders, at
        self._cache = Cache(folders)
        self._offer: Offer | None = None

    def offer(self, run_id: str, payload: bytes) -> list[str]:
        """Which digests are to be shipped. Those that are here are verified now, and kept for the run.

        Raises:
            PrerequisiteError: no room even without what could go, or a folder where nothing may be executed.
        """
        self._offer = None
        run_id = self._folders.run(run_id).name
        offer = read_offer(run_id, payload, self._config.bundle_bytes_max)
        if offer.sizes and os.statvfs(self._config.root).f_flag & os.ST_NOEXEC:
            raise PrerequisiteError(f"{self._config.root} is mounted noexec: what a bundle holds could not run there")
        sweep(self._folders, now=time.time())
        with self._noted(offer):
            missing = {d for d, size in offer.sizes.items() if not self._cache.verified(d, size, now=time.time())}
            self._make_room(offer.total_bytes + sum(offer.sizes[d] for d in missing), offer.files + len(missing))
        self._offer = replace(offer, missing=frozenset(missing))
        return sorted(missing)

    def ship(self, run_id: str, stream: Chunks) -> int:
        """Take the missing files in; returns how many came.

        Raises:
            UnsafePlanError: the archive holds anything that was not asked for. PrerequisiteError: some are missing at
                its end, or there is no room. RunnerUnreachableError: the stream did not end.
            In each case the cache is as it was.
        """
        offer, self._offer = self._offer, None
        if offer is None or offer.run_id != run_id:
            raise RecordError(f"run {run_id}: nothing was offered on this connection")
        with self._noted(offer), self._folder(run_id) as folder:
            self._at("folder")
            came = self._received(offer, folder, stream)
            if lacking := sorted(offer.names[digest] for digest in offer.missing - came):
                raise PrerequisiteError(f"the archive ended without {len(lacking)} files: {', '.join(lacking[:10])}")
            self._at("received")
            for digest in sorted(came):
                _sync(folder / digest)
            self._at("synced")
            for digest in sorted(came):
                self._cache.adopt(folder / digest, digest)
                self._at("adopted")
            disk.sync_folder(self._folders.cas)
        self._at("removed")
        with self._folders.locked():
            self._evict()
        return len(came)

    def _received(self, offer: Offer, folder: Path, stream: Chunks) -> set[str]:
        came: set[str] = set()
        while (member := next_member(stream)) is not None:
            digest = f"sha256:{member.name}"
            if digest not in offer.missing or digest in came:
                raise UnsafePlanError(f"the archive holds {member.name[:100]!r}, which was not asked for")
            if member.size != offer.sizes[digest]:
                raise UnsafePlanError(
                    f"the archive has {member.size} bytes for {offer.names[digest]!r}, not as offered"
                )
            if _taken(stream, folder / digest, member.size) != digest:
                raise UnsafePlanError(
                    f"bundle file {offer.names[digest]!r}: the bytes that came are not those of {digest}",
                    hint="it was changed while it was sent, or the link is not sound; dispatch again",
                )
            came.add(digest)
            self._at("member")
        return came

    @contextlib.contextmanager
    def _noted(self, offer: Offer) -> Iterator[None]:
        """What is offered is in use from now on, unless this goes wrong."""
        cached.note_offer(self._folders, offer.run_id, offer.sizes)
        self._at("noted")
        try:
            yield
        except (HyopsError, OSError):
            cached.drop_offer(self._folders, offer.run_id)
            raise

    @contextlib.contextmanager
    def _folder(self, run_id: str) -> Iterator[Path]:
        """A folder of this connection alone, locked while it lives, gone at the end."""
        path = self._folders.staging / f"{run_id}.{os.getpid()}{PARTIAL}"
        with self._folders.locked():
            _remove(path)  # of a process of the same number that was killed
            path.mkdir(mode=0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield path
        except OSError as exc:
            if exc.errno in disk.NO_ROOM:
                why = f"cannot stage in {path}: {exc.strerror}; nothing was staged"
                raise DiskFullError(why, folder=path.parent) from exc
            raise
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(fd)

    def _make_room(self, size_bytes: int, files: int) -> None:
        """Return when so much fits beside what must stay free; entries that nobody uses go for it."""
        if fits(self._config, size_bytes, files):
            return
        with self._folders.locked():
            for bytes_max in (self._config.cache_bytes_max // 2, 0):
                self._evict(bytes_max)
                if fits(self._config, size_bytes, files):
                    return
        need_room(self._config, size_bytes, files)

    def _evict(self, bytes_max: int | None = None) -> None:
        most = self._config.cache_bytes_max if bytes_max is None else bytes_max
        self._cache.evict(now=time.time(), bytes_max=most, keep_s=self._config.cache_keep_s)


def next_member(stream: Chunks) -> tarfile.TarInfo | None:
    """The next header of a plain archive: a regular file with one header and nothing else; None at the end.

    Raises:
        UnsafePlanError: a link, device, folder, long name or any other thing that is more than a file.
    """
    block = stream.read(_BLOCK)
    if not any(block):
        if len(block) == _BLOCK and any(stream.read(_BLOCK)):
            raise UnsafePlanError("the archive goes on after its end")
        while rest := stream.read(_BLOCK):  # tar fills its last record up with zeros
            if any(rest):
                raise UnsafePlanError("the archive goes on after its end")
        return None
    try:
        member = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as exc:
        raise UnsafePlanError(f"the archive is no plain tar: {exc}") from exc
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.linkname:
        raise UnsafePlanError(f"the archive holds {member.name[:100]!r}, which is more than a plain file")
    return member


def sweep(folders: Folders, *, now: float) -> None:
    """Remove what a killed staging has left, offers that nobody took up, and secrets that nobody will read.

    A living staging is left alone.
    """
    with folders.locked():
        for name in os.listdir(folders.staging):
            if not name.endswith(PARTIAL):
                continue
            path = folders.staging / name
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:  # a link or a file: planted, nobody stages in it
                _remove(path)
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)
        cached.drop_old_offers(folders, now=now)
        handed.sweep(folders.secrets_dir, folders.is_over, now=now)


def fits(config: RunnerConfig, size_bytes: int, files: int) -> bool:
    """Whether so much can be written, with what must stay free."""
    stat = os.statvfs(config.root)
    enough = stat.f_bavail * stat.f_frsize >= size_bytes + config.disk_free_min_bytes
    return enough and not (stat.f_files and stat.f_favail < files + SPARE_INODES)


def need_room(config: RunnerConfig, size_bytes: int, files: int = 0) -> None:
    """Return when it fits; raises DiskFullError with what is there and what is needed."""
    if not fits(config, size_bytes, files):
        stat = os.statvfs(config.root)
        free = stat.f_bavail * stat.f_frsize
        raise DiskFullError(
            f"{config.root}: {free} bytes and {stat.f_favail} inodes free are too few; {size_bytes} bytes and {files} "
            f"files are to come, and {config.disk_free_min_bytes} bytes stay free",
            hint="`hyops runner gc` removes what may go",
        )


@contextlib.contextmanager
def watched(idle_s: float = IDLE_S) -> Iterator[Callable[[], None]]:
    """A word to say before each wait for the peer: one that lasts longer than `idle_s` ends as a lost link."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def late(signum: int, frame: FrameType | None) -> None:
        raise RunnerUnreachableError(f"nothing came for {idle_s:g} s: the link is taken for lost")

    before: Any = signal.signal(signal.SIGALRM, late)
    try:
        yield lambda: (signal.setitimer(signal.ITIMER_REAL, idle_s), None)[1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _taken(stream: Chunks, path: Path, size_bytes: int) -> str:
    """Write a member to a new file; its digest, known when its last byte is."""
    told, left = hashlib.sha256(), size_bytes
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while left:
            if not (piece := stream.read(min(left, cached.PIECE))):
                raise PrerequisiteError("the archive ends within a file")
            told.update(piece)
            cached.write_all(fd, piece)
            left -= len(piece)
    finally:
        os.close(fd)
    stream.read(-size_bytes % _BLOCK)
    return "sha256:" + told.hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
