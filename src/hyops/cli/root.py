"""Which runtime root a command works on: never guessed (ROOT-1, ROOT-2)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from hyops.errors import PrerequisiteError, UsageError

ENV = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")
F = TypeVar("F", bound=Callable[..., object])


def root_options(command: F) -> F:
    """`--root` and `--env`, which exclude each other."""
    shown = "runtime root of one environment (or HYOPS_RUNTIME_ROOT)"
    command = click.option("--root", type=click.Path(path_type=Path, file_okay=False), help=shown)(command)
    return click.option("--env", help="environment below ~/.hybridops/envs (or HYOPS_ENV)")(command)


def runtime_root(root: Path | None, env: str | None) -> tuple[Path, str]:
    """The root and the environment's name.

    Raises:
        UsageError: nothing or two things were selected. PrerequisiteError: the root is not there.
    """
    if root is not None and env is not None:
        raise UsageError("--root and --env exclude each other")
    chosen = root or (Path(os.environ["HYOPS_RUNTIME_ROOT"]) if os.environ.get("HYOPS_RUNTIME_ROOT") else None)
    name = env or os.environ.get("HYOPS_ENV") or (chosen.absolute().name if chosen is not None else None)
    if name is None:
        raise UsageError("no environment is selected", hint="pass --env or --root, or set HYOPS_ENV")
    if not ENV.fullmatch(name):
        raise UsageError(f"environment {name!r}: letters, digits, hyphens and underscores, 64 at most")
    path = (chosen if chosen is not None else Path.home() / ".hybridops" / "envs" / name).absolute()
    if not path.is_dir():
        raise PrerequisiteError(f"{path}: no such runtime root", hint="check --env and --root")
    return path, name
