"""Which runtime root a command works on (ROOT-1): always selected, never guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hyops.errors import UsageError

ENV = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")


def select_root(root: Path | None, env: str | None, environ: Mapping[str, str], home: Path) -> Path:
    """`--root`, then HYOPS_RUNTIME_ROOT, then `--env` or HYOPS_ENV below `home`.

    Raises:
        UsageError: nothing or two things were selected, or not an environment's name.
    """
    if root is not None and env is not None:
        raise UsageError("--root and --env exclude each other")
    chosen = root or (Path(environ["HYOPS_RUNTIME_ROOT"]) if environ.get("HYOPS_RUNTIME_ROOT") else None)
    if chosen is not None:
        return chosen.absolute()
    name = env or environ.get("HYOPS_ENV")
    if not name:
        raise UsageError("no runtime root is selected", hint="pass --root or --env, or set HYOPS_ENV")
    return home / ".hybridops" / "envs" / _checked(name)


def environment_name(root: Path, env: str | None, environ: Mapping[str, str]) -> str:
    """The environment that a root belongs to: the one that was named, else what its folder is called."""
    return _checked(env or environ.get("HYOPS_ENV") or root.name)


def _checked(name: str) -> str:
    if not ENV.fullmatch(name):
        raise UsageError(f"environment {name[:80]!r}: letters, digits, `_` and `-`, at most 64")
    return name
