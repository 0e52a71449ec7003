"""This very hyops, with the packages that it needs, as files that another host can be given (RUN-2).

What is shipped is what runs here: no index is asked, and no version is chosen twice. Packages with machine code fit the
same Python and the same kind of machine only.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import io
import platform
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import hyops
from hyops._version import __version__
from hyops.errors import PrerequisiteError

LEFT_OUT = ("__pycache__",)
CATALOG = "_catalog"  # where an installed package has it
REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?[^;]*(?:;(.*))?")
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


@dataclass(frozen=True)
class Release:
    """Name below the place of all packages -> the file here."""

    version: str
    files: Mapping[str, Path]

    @cached_property
    def digest(self) -> str:
        """Hex; of names and contents, the same for the same files wherever they lie."""
        told = hashlib.sha256()
        for name, path in sorted(self.files.items()):
            told.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return told.hexdigest()

    @property
    def release_id(self) -> str:
        """The folder's name on a runner."""
        return f"{self.version}-{self.digest[:16]}"

    @cached_property
    def size(self) -> int:
        """Bytes, unpacked."""
        return sum(path.stat().st_size for path in self.files.values())

    def packed(self) -> bytes:
        """A tar.gz of all files."""
        data = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=data, mode="wb", compresslevel=1, mtime=0) as squeezed,
            tarfile.open(fileobj=squeezed, mode="w|") as archive,
        ):
            for name, path in sorted(self.files.items()):
                body = path.read_bytes()
                member = tarfile.TarInfo(name)
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
        return data.getvalue()


def python_here() -> str:
    """What a runner's Python must be like to run what runs here: `3.11 x86_64`."""
    return f"{sys.version_info.major}.{sys.version_info.minor} {platform.machine()}"


def running(*, catalog: bool = False) -> Release:
    """What runs in this process, from its files; with the catalogue, which a checkout has beside them.

    Raises:
        PrerequisiteError: a package that it needs is not here as files.
    """
    own = Path(hyops.__file__ or "").parent
    found = {f"hyops/{path.relative_to(own).as_posix()}": path for path in _below(own)}
    if catalog and not any(name.startswith(f"hyops/{CATALOG}/") for name in found):
        beside = own.parents[1] / "catalog"
        found |= {f"hyops/{CATALOG}/{path.relative_to(beside).as_posix()}": path for path in _below(beside)}
    for name in _needed():
        found |= dict(_files_of(name))
    return Release(__version__, found)


def _below(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise PrerequisiteError(f"{folder}: hyops is not here as files", hint="install it as a package, and try again")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not set(LEFT_OUT) & set(path.parts):
            yield path


def _needed() -> list[str]:
    """Every package that hyops needs, and what those need in turn, by their names."""
    seen: set[tuple[str, str]] = set()
    ahead: list[tuple[str, frozenset[str]]] = [("hyops", frozenset())]
    while ahead:
        name, extras = ahead.pop()
        for line in importlib.metadata.requires(name) or []:
            wanted = _wanted(line, extras)
            if wanted is not None and (key := (wanted[0], ",".join(sorted(wanted[1])))) not in seen:
                seen.add(key)
                ahead.append(wanted)
    return sorted({name for name, _ in seen})


def _wanted(line: str, extras: frozenset[str]) -> tuple[str, frozenset[str]] | None:
    """The package and its extras; None where the line is for other machines or for an extra that nobody asked for.

    What a marker says of this machine was judged when it was installed: what is here is needed.
    """
    match = REQUIREMENT.match(line)
    if match is None:
        raise PrerequisiteError(f"{line!r}: not a requirement", hint="the installation here is damaged")
    name, more, marker = match[1], match[2] or "", match[3] or ""
    if (only := set(EXTRA.findall(marker))) and not only & extras:
        return None
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as exc:
        if marker:
            return None
        raise PrerequisiteError(f"package {name} is not installed here", hint="mend the installation here") from exc
    return _plain(name), frozenset(part.strip() for part in more.split(",") if part.strip())


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _files_of(name: str) -> Iterator[tuple[str, Path]]:
    """The files of an installed package; commands that it brought lie elsewhere and stay."""
    listed = importlib.metadata.files(name)
    if not listed:
        raise PrerequisiteError(f"package {name}: its files are not listed here", hint="install it from a wheel")
    for entry in listed:
        place = PurePosixPath(entry)
        if ".." in place.parts or place.is_absolute() or set(LEFT_OUT) & set(place.parts):
            continue
        path = Path(str(entry.locate()))
        if path.is_file():
            yield place.as_posix(), path
