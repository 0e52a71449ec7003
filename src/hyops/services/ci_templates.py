"""The shipped workflows, and where each forge looks for them (RUN-12)."""

from __future__ import annotations

import os
from pathlib import Path

from hyops.engine.catalog import default_roots
from hyops.errors import PrerequisiteError

PLACES = {
    "github": ".github/workflows/hyops-recovery.yml",
    "forgejo": ".forgejo/workflows/hyops-recovery.yml",
    "gitlab": ".gitlab/hyops-recovery.yml",
}
FILE = "hyops-recovery.yml"


def template(forge: str) -> Path:
    """The shipped file; PrerequisiteError when this installation has no catalogue."""
    for root in default_roots():
        path = root / "ci" / forge / FILE
        if path.is_file():
            return path
    raise PrerequisiteError(f"no workflow for {forge} in this installation", hint="install hyops from a release")


def write(forge: str, directory: Path, *, force: bool = False) -> tuple[Path, bool]:
    """Put the template where the forge looks for it; False when the same bytes stand there.

    Raises:
        PrerequisiteError: another file stands there and `force` is not given, or it cannot be written.
    """
    data = template(forge).read_bytes()
    path = directory / PLACES[forge]
    try:
        if path.is_file() and path.read_bytes() == data:
            return path, False
        if os.path.lexists(path) and not force:
            raise PrerequisiteError(f"{path}: stands there and is another one", hint="compare them, or pass --force")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.rename(path)
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}") from exc
    return path, True
