"""Files on a runner by their digest: what one dispatch brought, the next one need not bring again (RUN-1, INV-4).

An entry appears whole or not at all, and is never believed: its bytes are hashed whenever it is used, and one that is
not what its name says goes, to be fetched anew. Entries of runs that are open, or may be opened again, and of bundles
being staged are in use and stay; the rest goes by age, then by size, the longest unused first. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hyops.errors import PrerequisiteError
from hyops.runner import folders as disk
from hyops.runner.folders import Folders, read_file

PIECE = 1024 * 1024
UNREAD = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
OFFER_KEEP_S = 3600.0  # an offer whose start did not come keeps its entries for so long


@dataclass(frozen=True)
class Entry:
    """One file of the cache. `used_at` is seconds since 1970: when it came, or was last asked for."""

    digest: str
    size_bytes: int
    used_at: float


def outdated(
    entries: Iterable[Entry], in_use: Set[str], *, now: float, bytes_max: int, keep_s: float
) -> Iterator[Entry]:
    """Which entries go: pure. The longest unused first; none that is in use, however large the cache is."""
    known = sorted(entries, key=lambda entry: (entry.used_at, entry.digest))
    total = sum(entry.size_bytes for entry in known)
    for entry in known:
        if entry.digest not in in_use and (total > bytes_max or now - entry.used_at > keep_s):
            total -= entry.size_bytes
            yield entry


class Cache:
    """The entries below a runner's root."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def has(self, digest: str) -> bool:
        """Whether something lies there under the name; a cheap look that proves nothing.

        Raises:
            RecordError: not a digest.
        """
        return os.path.lexists(self._folders.blob(digest))

    def verified(self, digest: str, size_bytes: int, *, now: float) -> bool:
        """Whether the entry is what its name says, of that size; one that is not is removed."""
        path = self._folders.blob(digest)
        try:
            with _opened(path) as fd:
                fits = os.fstat(fd).st_size == size_bytes and _digest(fd) == digest
                if fits:
                    os.utime(fd, (now, now))
                else:
                    self._remove(path, os.fstat(fd))
        except FileNotFoundError:
            return False
        except OSError:  # a link, a folder, or unreadable: nothing of ours
            self._remove(path, None)
            return False
        return fits

    def copy(self, digest: str, target: Path) -> None:
        """Lay the entry out as a new file, which has exactly the digest.

        Raises:
            FileNotFoundError: it is not here. PrerequisiteError: it is damaged, and was removed.
        """
        path, told = self._folders.blob(digest), hashlib.sha256()
        with _opened(path) as fd:
            out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                while piece := os.read(fd, PIECE):
                    told.update(piece)
                    write_all(out, piece)
            finally:
                os.close(out)
            if "sha256:" + told.hexdigest() != digest:
                self._remove(path, os.fstat(fd))
                raise PrerequisiteError(f"{digest}: the staged bytes are damaged; they were removed")

    def adopt(self, partial: Path, digest: str) -> None:
        """Take in a file whose bytes were verified and are durable; one that is there already is replaced."""
        path = self._folders.blob(digest)
        with self._folders.locked():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            os.rename(partial, path)

    def entries(self) -> list[Entry]:
        """Everything there; what has no digest for a name is told as an entry that nobody uses."""
        found = []
        for item in os.scandir(self._folders.cas):
            with contextlib.suppress(FileNotFoundError):
                stat = item.stat(follow_symlinks=False)
                found.append(Entry(f"sha256:{item.name}", stat.st_size, stat.st_mtime))
        return found

    def evict(self, *, now: float, bytes_max: int, keep_s: float, dry_run: bool = False) -> list[Entry]:
        """Remove what is outdated; returns it. The caller holds the lock."""
        rule = partial(outdated, now=now, bytes_max=bytes_max, keep_s=keep_s)
        found = self.entries()
        if not any(True for _ in rule(found, frozenset())):
            return []  # what is in use need not be read together
        gone = list(rule(found, in_use(self._folders, now=now)))
        for entry in [] if dry_run else gone:
            _unlink(self._folders.cas / entry.digest.removeprefix("sha256:"))
        return gone

    def _remove(self, path: Path, seen: os.stat_result | None) -> None:
        """Remove what was looked at, unless another has put a fresh one there since."""
        with self._folders.locked(), contextlib.suppress(FileNotFoundError):
            if seen is None or os.path.samestat(os.lstat(path), seen):
                _unlink(path)


def in_use(folders: Folders, *, now: float) -> set[str]:
    """Digests that must stay: of runs that have not succeeded, and of offers that are young.

    All of them while there is a folder in a run's place that is not ours alone: a run that needs them may lie in it.
    """
    if folders.closed_off():
        return {f"sha256:{name}" for name in os.listdir(folders.cas)}
    used: set[str] = set()
    for run_id in folders.run_ids():
        folder = folders.run(run_id)
        with contextlib.suppress(FileNotFoundError):
            if not _succeeded(folders, folder):
                used.update(_bundle_of(folder))
    for name in os.listdir(folders.staging):
        if name.endswith(OFFER) and not _old(folders.staging / name, now):
            with contextlib.suppress(FileNotFoundError, ValueError):
                told = json.loads(read_file(folders.staging / name, disk.FILE_MAX))
                used.update(str(digest) for digest in told if isinstance(told, list))
    for path in folders.orders.iterdir():  # standby orders: their plans must be able to run when nobody ships any more
        with contextlib.suppress(OSError, *UNREAD):
            used.update(map(str, json.loads(read_file(path, disk.FILE_MAX))["plan"].get("bundle", {}).values()))
    return used


OFFER = ".offer"


def note_offer(folders: Folders, run_id: str, digests: Iterable[str]) -> None:
    """From now on these digests are in use, until the run starts or an hour is over."""
    with folders.locked():
        path = folders.staging / (folders.run(run_id).name + OFFER)
        disk.write_file(path, json.dumps(sorted(digests)).encode(), durable=False)


def drop_offer(folders: Folders, run_id: str) -> None:
    """The run's own spec says from now on what is in use."""
    with contextlib.suppress(FileNotFoundError):
        (folders.staging / (run_id + OFFER)).unlink()


def drop_old_offers(folders: Folders, *, now: float) -> None:
    """Remove what was offered and never started."""
    for name in os.listdir(folders.staging):
        if name.endswith(OFFER) and _old(folders.staging / name, now):
            _unlink(folders.staging / name)


def _old(path: Path, now: float) -> bool:
    try:
        return abs(now - os.lstat(path).st_mtime) > OFFER_KEEP_S
    except FileNotFoundError:
        return False


def _succeeded(folders: Folders, folder: Path) -> bool:
    try:
        if folders.state(folder.name) != "finished":
            return False
        return bool(json.loads(read_file(folder / "result.json", disk.FILE_MAX))["outcome"] == "succeeded")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _bundle_of(folder: Path) -> list[str]:
    """The digests that a run's spec names; a spec that cannot be read names none: its job cannot start either."""
    try:
        bundle = json.loads(read_file(folder / "spec.json", disk.FILE_MAX))["plan"].get("bundle", {})
        return [str(digest) for digest in bundle.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A regular file that is no link; raises OSError otherwise."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if (os.fstat(fd).st_mode & 0o170000) != 0o100000:
            raise IsADirectoryError(f"{path} is no file")
        yield fd
    finally:
        os.close(fd)


def _digest(fd: int) -> str:
    told = hashlib.sha256()
    while piece := os.read(fd, PIECE):
        told.update(piece)
    return "sha256:" + told.hexdigest()


def write_all(fd: int, data: bytes) -> None:
    """All of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _unlink(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
