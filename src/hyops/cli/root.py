"""The options that select a runtime root, the same for every command that needs one (ROOT-1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


def rooted(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--root` and `--env`, as one `root` that was selected."""

    @click.option("--root", "chosen", type=click.Path(path_type=Path, file_okay=False), help="The runtime root.")
    @click.option("--env", help="The environment whose root it is [default: HYOPS_RUNTIME_ROOT, then HYOPS_ENV].")
    @wraps(command)
    def with_root(chosen: Path | None, env: str | None, **rest: Any) -> Any:
        from hyops.services.root import select_root

        return command(root=select_root(chosen, env, os.environ, Path.home()), **rest)

    return with_root
