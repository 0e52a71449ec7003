"""A release as one file to send: the one that runs here, packed once for all stages, or one that a person names."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

from hyops.adapters.release_files import Release
from hyops.adapters.store_files import sync_directory
from hyops.errors import ConfigError, PrerequisiteError
from hyops.ownership import make_folder

ARCHIVE_MAX = 1024 * 1024 * 1024
CHUNK = 1024 * 1024


def kept(release: Release, folder: Path) -> tuple[Path, int, str]:
    """The packed file in `folder`, its bytes and its sha256; older ones go, for the folder is only a cache.

    Raises:
        PrerequisiteError: the disk takes nothing more.
    """
    path = folder / f"{release.release_id}.tar.gz"
    try:
        if not path.is_file():
            make_folder(folder, 0o700)
            partial = folder / f".{path.name}.{os.getpid()}.partial"
            try:
                partial.write_bytes(release.packed())
                partial.rename(path)
            finally:
                partial.unlink(missing_ok=True)
            sync_directory(folder)
            for other in folder.glob("*.tar.gz"):
                if other != path:
                    other.unlink(missing_ok=True)
        return path, path.stat().st_size, _sha256(path)
    except OSError as exc:
        hint = "make room or mend the folder; nothing was touched"
        raise PrerequisiteError(f"{path}: {exc.strerror}", hint=hint) from exc


def archived(path: Path, sha256: str) -> tuple[int, int]:
    """The bytes of a person's archive, unpacked and packed.

    Raises:
        ConfigError: it is another file than the one whose sha256 was given, or none.
    """
    try:
        if not path.is_file() or path.stat().st_size > ARCHIVE_MAX:
            raise ConfigError(f"release.archive: {path}: not a file of at most {ARCHIVE_MAX} bytes")
        if (found := _sha256(path)) != sha256:
            hint = "somebody changed it, or the wrong file is named; nothing was sent"
            raise ConfigError(f"release.sha256: {path} has {found}", hint=hint)
        with tarfile.open(path, "r:gz") as archive:
            return sum(member.size for member in archive), path.stat().st_size
    except (OSError, tarfile.TarError) as exc:
        raise ConfigError(f"release.archive: {path}: {exc}") from exc


def _sha256(path: Path) -> str:
    told = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            told.update(data)
    return told.hexdigest()
