"""Where the files of a runner may lie, and which of them nobody else may read: looked at before anybody is dialled.

Root makes these places on the host by their names (RUN-2), and writes some of them into units and sudo's rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from hyops.errors import ConfigError
from hyops.runner.config import RunnerConfig
from hyops.services import runner_files as standing

ROOT = re.compile(rf"{standing.HOME}(/[A-Za-z0-9][A-Za-z0-9_.-]*)+")
KEY = re.compile(rf"{standing.ETC}/[A-Za-z0-9][A-Za-z0-9_.-]*")
SECRET_KEYS = ("signing_key", "seal_key", "key_file", "secret_file", "passfile", "password_file", "token_file")
PRIVATE_KEY = b"PRIVATE KEY-----"


class Given(Protocol):
    """A file of the folder."""

    @property
    def data(self) -> bytes:
        """What is in it."""

    @property
    def private(self) -> bool:
        """Whether others may not read it."""


def places(config: RunnerConfig) -> None:
    """Refuse a place that root would not make, or not safely.

    Raises:
        ConfigError: names the key.
    """
    for key, path, form, want in (
        ("root", config.root, ROOT, f"is not below {standing.HOME}, of letters, digits, '_', '.' and '-'"),
        ("signing_key", config.signing_key, KEY, f"is not {standing.ETC}/NAME, where the runner's user cannot move it"),
    ):
        if not form.fullmatch(str(path)):
            raise ConfigError(f"{config.source}: {key}: {str(path)!r} {want}", hint=f"mend {config.source}")
    if str(config.secrets_dir) != standing.SECRETS:
        what = f"{str(config.secrets_dir)!r} is not {standing.SECRETS}, which lies in memory"
        raise ConfigError(f"{config.source}: secrets_dir: {what}", hint=f"leave secrets_dir out of {config.source}")


def private(config: RunnerConfig, folder: Path, files: Mapping[str, Given]) -> None:
    """Refuse a key, password or token that others may read here: it would be for all to read there.

    Args:
        config: which names them.
        folder: where the files lie here.
        files: by the path that they get.
    Raises:
        ConfigError: names the file, and what to do.
    """
    for path in sorted(secrets(config, files)):
        if not files[path].private:
            here = folder / Path(path).name
            raise ConfigError(f"{here}: a secret of the runner that others may read", hint=f"chmod 600 {here}")


def secrets(config: RunnerConfig, files: Mapping[str, Given]) -> set[str]:
    """The keys, passwords and tokens among the files: by what the configuration calls them, or by what they are."""
    named = set(_secrets(json.loads(config.source.read_bytes())))
    return {path for path, file in files.items() if path in named or PRIVATE_KEY in file.data}


def _secrets(value: Any, key: str = "") -> Iterator[str]:
    """Every path that stands under a key of a secret."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _secrets(one, str(name))
    elif isinstance(value, list):
        for one in value:
            yield from _secrets(one, key)
    elif isinstance(value, str) and key.endswith(SECRET_KEYS):
        yield value
