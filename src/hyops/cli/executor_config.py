"""The executor's configuration, by which a command finds the runners, and the root that it must be of (RUN-4)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from hyops.cli.config_file import TO_READ
from hyops.cli.root import root_options, selected_root

CONFIG = Path("/opt/hybridops/decision-executor/config/config.json")


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--config`, with `--root` and `--env`: where a root is selected, the configuration must be of that one.

    None need be selected: these commands ask runners, and neither read nor write what is below a root.
    """

    @click.option(
        "--config",
        type=TO_READ,
        default=CONFIG,
        show_default=True,
        help="the executor's configuration: which runners there are",
    )
    @root_options
    @wraps(command)
    def of_a_root(config: Path, root: Path | None, env: str | None, **rest: Any) -> Any:
        if (selected := selected_root(root, env)) is not None:
            from hyops.compose_roots import executor_of_root

            executor_of_root(config, selected)
        return command(config=config, **rest)

    return of_a_root
