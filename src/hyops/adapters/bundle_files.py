"""The files that a plan names, as they lie in a runtime root: no links, no devices, by digest (RUN-1, INV-4).

Every part of a path is opened without following links. A digest is remembered by the file's identity, so that a
second dispatch need not read it again; whoever ships a file hashes what leaves, and a runner that has the bytes of an
approved digest runs those.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from hyops.errors import ConfigError, UnsafePlanError
from hyops.model.bundled import FILES_MAX, check_names
from hyops.ports.bundle import BundleFile

BYTES_MAX = 1024 * 1024 * 1024
PIECE = 1024 * 1024
FRESH_NS = 2_000_000_000  # a file this young may change again within the same tick of its clock
KNOWN_MAX = 4 * FILES_MAX


class Wanted(Protocol):
    """Something that a step names; see `engine.bundling.Named`."""

    @property
    def name(self) -> str:
        """Its place in the bundle."""

    @property
    def root(self) -> Literal["own", "shared"]:
        """Which root it lies in."""

    @property
    def path(self) -> str:
        """Where in that root."""

    @property
    def is_folder(self) -> bool:
        """Whether everything below it is meant."""

    @property
    def where(self) -> str:
        """Who names it, for words."""

    @property
    def optional(self) -> bool:
        """Whether it may be missing."""


class FileBundles:
    """Reads one runtime root, and the shared one for what is named from there."""

    def __init__(self, root: Path, shared: Path | None = None) -> None:
        self._roots = {"own": root, "shared": shared}
        self._known: dict[tuple[int, ...], str] = {}

    def files(self, wanted: Sequence[Wanted]) -> dict[str, BundleFile]:
        """Every file that is named, by its name in the bundle.

        Raises:
            ConfigError: one is missing, or there is no such root; says which step names it.
            UnsafePlanError: a link or a device, or more files or bytes than a bundle may have.
        """
        found: dict[str, BundleFile] = {}
        total = 0
        for one in wanted:
            root = self._roots[one.root]
            if root is None:
                raise ConfigError(f"{one.where}: names shared state, but no shared root is configured")
            if one.optional and _absent(root / one.path, one.where):
                continue
            for below in self._below(root, one) if one.is_folder else [""]:
                path = f"{one.path}/{below}" if below else one.path
                file = found[f"{one.name}/{below}" if below else one.name] = self._file(root, path, one.where)
                total += file.size_bytes
                if len(found) > FILES_MAX or total > BYTES_MAX:
                    raise UnsafePlanError(
                        f"{one.where}: with {path} the bundle is over {FILES_MAX} files or {BYTES_MAX} bytes"
                    )
        check_names(found)
        return found

    def _below(self, root: Path, one: Wanted) -> list[str]:
        with _opened(root, one.path, one.where, os.O_DIRECTORY) as top:
            return sorted(_walk(top, "", f"{one.where}: {root / one.path}"))

    def _file(self, root: Path, path: str, where: str) -> BundleFile:
        with _opened(root, path, where) as fd:
            told = os.fstat(fd)
            mark = (told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)
            if (digest := self._known.get(mark)) is None:
                digest = _digest(fd)
                if max(told.st_mtime_ns, told.st_ctime_ns) < time.time_ns() - FRESH_NS:
                    if len(self._known) >= KNOWN_MAX:
                        self._known.clear()
                    self._known[mark] = digest
        return BundleFile(digest, told.st_size, partial(_reader, root, path, where))


def _absent(path: Path, where: str) -> bool:
    """Whether nothing is there; what this user may not look at is not absent: another stage would see it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError as exc:
        hint = "the stages' group reads it: see the how-to about taking files along"
        raise ConfigError(f"{where}: {path}: {exc.strerror}", hint=hint) from exc
    return False


def _reader(root: Path, path: str, where: str) -> BinaryIO:
    with _opened(root, path, where) as fd:
        return open(os.dup(fd), "rb", buffering=0)  # the caller closes it


@contextlib.contextmanager
def _opened(root: Path, path: str, where: str, kind: int = 0) -> Iterator[int]:
    """A regular file below `root`, or a folder when `kind` says so, reached without following any link."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        above, parts = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path.split("/")
    except OSError as exc:
        raise ConfigError(f"{where}: {root}: {exc.strerror}", hint="check runtime_root and shared_root") from exc
    try:
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            at = os.open(part, flags | (kind if last else os.O_DIRECTORY), dir_fd=above)
            os.close(above)
            above = at
        if not kind and not stat.S_ISREG(os.fstat(above).st_mode):
            raise UnsafePlanError(f"{where}: {root / path} is no plain file")
        yield above
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise UnsafePlanError(f"{where}: {root / path} is, or lies behind, a link or no plain file") from exc
        raise ConfigError(f"{where}: {root / path}: {exc.strerror}") from exc
    finally:
        os.close(above)


def _walk(fd: int, prefix: str, where: str) -> Iterator[str]:
    with os.scandir(fd) as items:
        for item in sorted(items, key=lambda entry: entry.name):
            name = prefix + item.name
            if item.is_dir(follow_symlinks=False):
                below = os.open(item.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=fd)
                try:
                    yield from _walk(below, f"{name}/", where)
                finally:
                    os.close(below)
            elif item.is_file(follow_symlinks=False):
                yield name
            else:
                raise UnsafePlanError(f"{where}/{name} is a link or no plain file")


def _digest(fd: int) -> str:
    told = hashlib.sha256()
    while piece := os.read(fd, PIECE):
        told.update(piece)
    return "sha256:" + told.hexdigest()
