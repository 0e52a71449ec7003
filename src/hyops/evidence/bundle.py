"""A bundle: the chain and the files it speaks of, as a directory or one tar file. Nothing is ever unpacked to disk."""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hyops.errors import EvidenceError
from hyops.evidence.chain import FILE

FILES = "files"
NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,63}$")
BYTES_MAX = 256 * 1024 * 1024
COUNT_MAX = 64
SLACK_BYTES_MAX = 1024 * 1024  # headers and padding of a tar with that many files


@dataclass(frozen=True)
class Bundle:
    """What was read: the chain's bytes and the attached files by name."""

    chain: bytes
    files: Mapping[str, bytes]


def load(path: Path) -> Bundle:
    """Read a bundle, directory or tar.

    Raises:
        EvidenceError: it is not there, is no bundle, holds something that no bundle holds, or is too large.
    """
    try:
        members = _from_directory(path) if path.is_dir() else _from_tar(path)
    except OSError as exc:
        raise EvidenceError(f"{path}: {exc.strerror or exc}", hint=_HINT) from exc
    except tarfile.TarError as exc:
        raise EvidenceError(f"{path}: not a bundle: {exc}", hint=_HINT) from exc
    if FILE not in members:
        raise EvidenceError(f"{path}: no {FILE} in it", hint=_HINT)
    chain = members.pop(FILE)
    return Bundle(chain, {name.removeprefix(FILES + "/"): data for name, data in members.items()})


def pack(path: Path, out: Path) -> None:
    """Write a bundle directory as one tar whose bytes depend on the content alone; `out` appears complete or not."""
    members = _from_directory(path)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as raw:
            with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for name in sorted(members):
                    info = tarfile.TarInfo(name)
                    info.size, info.mode = len(members[name]), 0o600
                    tar.addfile(info, io.BytesIO(members[name]))
            raw.flush()
            os.fsync(raw.fileno())
        partial.rename(out)
    except OSError as exc:
        raise EvidenceError(f"{out}: {exc.strerror}", hint="free space, or name another place") from exc
    finally:
        partial.unlink(missing_ok=True)


def _allowed(name: str) -> bool:
    folder, _, base = name.rpartition("/")
    return name == FILE or (folder == FILES and bool(NAME.fullmatch(base)))


def _from_directory(path: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    total = 0
    for item in sorted(path.rglob("*")):
        name = item.relative_to(path).as_posix()
        if item.is_symlink() or not (item.is_file() or (name == FILES and item.is_dir())):
            raise EvidenceError(f"{path}: {name!r} is no part of a bundle", hint=_FOREIGN)
        if item.is_dir():
            continue
        total += item.stat().st_size
        _check_limits(path, name, len(members), total)
        members[name] = item.read_bytes()
    return members


def _from_tar(path: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    total = end = 0
    with _regular(path) as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
        for info in tar:
            end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if info.isdir() and info.name == FILES:
                continue
            if not info.isreg() or info.issparse() or info.name in members:
                raise EvidenceError(f"{path}: {info.name!r} is no part of a bundle", hint=_FOREIGN)
            total += info.size
            _check_limits(path, info.name, len(members), total)
            stream = tar.extractfile(info)
            members[info.name] = stream.read() if stream else b""
        raw.seek(end)
        if any(chunk.strip(b"\0") for chunk in iter(lambda: raw.read(1 << 20), b"")):
            raise EvidenceError(f"{path}: something follows the end of the bundle", hint=_FOREIGN)
    return members


def copy_tar(path: Path, to: Path) -> None:
    """Copy a bundle's tar as far as its size allows; `to` must not be there.

    Raises:
        EvidenceError: a pipe, a device or another thing than a file, or a file that is too big or grows meanwhile.
        OSError: `to` cannot be written.
    """
    left = BYTES_MAX + SLACK_BYTES_MAX
    with _regular(path) as raw, to.open("xb") as out:
        while piece := raw.read(1 << 20):
            if (left := left - len(piece)) < 0:
                raise EvidenceError(f"{path}: it grew over {BYTES_MAX} bytes while it was copied", hint=_HINT)
            out.write(piece)


def _regular(path: Path) -> BinaryIO:
    """The open file; a pipe or device is refused and not waited for."""
    raw = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 - the caller closes it
    found = os.fstat(raw.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_size > BYTES_MAX + SLACK_BYTES_MAX:
        raw.close()
        raise EvidenceError(f"{path}: not a regular file of at most {BYTES_MAX} bytes", hint=_HINT)
    return raw


_HINT = "name a bundle directory or its .tar"
_FOREIGN = "a bundle holds evidence.jsonl and files/<name>, regular files only"


def _check_limits(path: Path, name: str, count: int, total: int) -> None:
    if not _allowed(name):
        raise EvidenceError(f"{path}: {name!r} is no part of a bundle", hint=_FOREIGN)
    if count >= COUNT_MAX or total > BYTES_MAX:
        raise EvidenceError(f"{path}: more than {COUNT_MAX} files or {BYTES_MAX} bytes", hint=_FOREIGN)
