"""The bundle of a run: the files that its plan names, from the runner's own store, and nothing else (RUN-1, RUN-4)."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from hyops.errors import PrerequisiteError, UnsafePlanError
from hyops.runner.folders import FILE_MAX, Folders, read_file, write_file

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}")
FILES_MAX = 10_000


def unpack(folders: Folders, run_id: str, bundle: Mapping[str, str]) -> Path:
    """Lay the files out in the run's folder, each verified while it is copied.

    Raises:
        UnsafePlanError: a name leads out of the folder. PrerequisiteError: a file is missing or damaged here.
    """
    target = folders.run(run_id) / "bundle"
    partial = target.with_name("bundle.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if len(bundle) > FILES_MAX:
        raise UnsafePlanError(f"a bundle of {len(bundle)} files is over {FILES_MAX}")
    partial.mkdir(mode=0o700)
    for name, digest in bundle.items():
        parts = name.split("/")
        if not all(_PART.fullmatch(part) for part in parts):
            raise UnsafePlanError(f"bundle file {name!r}: not a plain relative name")
        try:
            data = read_file(folders.blob(digest), FILE_MAX + 1)
        except FileNotFoundError as exc:
            raise PrerequisiteError(f"bundle file {name!r} ({digest}) is not staged") from exc
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
            raise PrerequisiteError(f"bundle file {name!r}: the staged bytes are damaged")
        path = partial.joinpath(*parts)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, data, durable=False)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def remove(folders: Folders, run_id: str) -> None:
    """Remove the files of a run that succeeded (RUN-7)."""
    shutil.rmtree(folders.run(run_id) / "bundle", ignore_errors=True)
