"""The options that select a runtime root, the same for every command that needs one (ROOT-1, ROOT-2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])
SELECTING = ("HYOPS_RUNTIME_ROOT", "HYOPS_ENV")


def root_options(command: F) -> F:
    """`--root` and `--env`, which exclude each other."""
    shown = "runtime root of one environment (or HYOPS_RUNTIME_ROOT)"
    command = click.option("--root", type=click.Path(path_type=Path, file_okay=False), help=shown)(command)
    return click.option("--env", help="environment below ~/.hybridops/envs (or HYOPS_ENV)")(command)


def rooted(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--root` and `--env`, as one `root` that was selected and need not be there yet."""

    @root_options
    @wraps(command)
    def with_root(root: Path | None, env: str | None, **rest: Any) -> Any:
        from hyops.services.root import select_root

        return command(root=select_root(root, env, os.environ, Path.home()), **rest)

    return with_root


def runtime_root(root: Path | None, env: str | None) -> tuple[Path, str]:
    """The root, which is there, and the environment's name: what was asked for, else what the root is called.

    Raises:
        UsageError: nothing or two things were selected. PrerequisiteError: the root is not there.
    """
    from hyops.errors import PrerequisiteError
    from hyops.services.root import environment_name, select_root

    path = select_root(root, env, os.environ, Path.home())
    if not path.is_dir():
        raise PrerequisiteError(f"{path}: no such runtime root", hint="check --env and --root")
    return path, environment_name(path, env, os.environ)


def selected_root(root: Path | None, env: str | None) -> Path | None:
    """The root that was selected, which is there; None when none was, for a command that does without.

    Raises:
        UsageError: two things were selected, or not an environment's name. PrerequisiteError: the root is not there.
    """
    if root is None and env is None and not any(os.environ.get(name) for name in SELECTING):
        return None
    return runtime_root(root, env)[0]
