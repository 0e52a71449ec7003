"""That the stages' configurations and the runtime root that was selected are about one environment (ROOT-1, RUN-4)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hyops.errors import ConfigError


def of_one_root(root: Path, configured: Mapping[Path, str | None]) -> None:
    """Return when the stages read and write the root that was selected, under whatever name.

    The executor puts what a run brings home into the root of its own configuration; with another one selected the
    runners, secrets and records of one environment would go with the files and the state of a second.

    Raises:
        ConfigError: a stage's configuration names another root, or one that is not there.
    """
    for file, named in configured.items():
        if named is None:
            continue
        try:
            same = os.path.samefile(named, root)
        except OSError as exc:
            raise ConfigError(f"{file}: runtime_root {named}, or the selected {root}: {exc.strerror}") from exc
        if not same:
            raise ConfigError(
                f"{file}: runtime_root is {named}, and {root} is selected",
                hint="select that root with --root, or name the configuration of this environment's stages",
            )


def executor_of_root(config_file: Path, root: Path) -> None:
    """The same for the executor's configuration alone, whose runners an operator's command asks.

    Raises:
        ConfigError: it cannot be read, or is about another root.
    """
    from hyops.compose_transport import executor_config

    of_one_root(root, {config_file: executor_config(config_file).runtime_root})
