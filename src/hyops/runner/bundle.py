"""The bundle of a run: the files that its plan names, from the runner's own cache, and nothing else (RUN-1, RUN-4)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from hyops.errors import DiskFullError, PrerequisiteError
from hyops.model.bundled import check_names
from hyops.runner.cache import Cache
from hyops.runner.folders import NO_ROOM, Folders


def unpack(folders: Folders, run_id: str, bundle: Mapping[str, str]) -> Path:
    """Lay the files out in the run's folder, each verified while it is copied.

    Raises:
        UnsafePlanError: a name leads out of the folder. PrerequisiteError: a file is missing or damaged here.
        DiskFullError: there is no room; nothing was laid out.
    """
    target = folders.run(run_id) / "bundle"
    partial = target.with_name("bundle.partial")
    shutil.rmtree(partial, ignore_errors=True)
    check_names(bundle)
    partial.mkdir(mode=0o700)
    try:
        for name, digest in bundle.items():
            path = partial / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _lay(Cache(folders), name, digest, path)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except OSError as exc:
        shutil.rmtree(partial, ignore_errors=True)
        if exc.errno in NO_ROOM:
            raise DiskFullError(
                f"cannot lay the bundle out in {partial}: {exc.strerror}", folder=target.parent
            ) from exc
        raise
    except PrerequisiteError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def remove(folders: Folders, run_id: str) -> None:
    """Remove the files of a run that succeeded (RUN-7)."""
    shutil.rmtree(folders.run(run_id) / "bundle", ignore_errors=True)


def _lay(cache: Cache, name: str, digest: str, path: Path) -> None:
    again = "dispatch it again: what is missing here is fetched anew"
    try:
        cache.copy(digest, path)
    except FileNotFoundError as exc:
        raise PrerequisiteError(f"bundle file {name!r} ({digest}) is not staged", hint=again) from exc
    except PrerequisiteError as exc:
        raise PrerequisiteError(f"bundle file {name!r}: {exc.message}", hint=again) from exc
