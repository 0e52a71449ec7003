"""What the verbs of `hyops secrets` share: which cache, which password, how long, and becoming another command."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.cli.root import root_options, runtime_root
from hyops.errors import PrerequisiteError, UsageError

if TYPE_CHECKING:
    from hyops.model.secret import Secret
    from hyops.services.secrets import Secrets

UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def cache_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every verb takes: the environment, and where its vault password comes from if not from the configuration."""
    file = click.Path(path_type=Path, dir_okay=False)
    command = click.option("--vault-password-command", help="a command that prints the vault password")(command)
    command = click.option("--vault-password-file", type=file, help="a file with the vault password")(command)
    return root_options(command)


def opened(options: dict[str, Any]) -> tuple[Secrets, Path, str]:
    """The cache, its root and the environment's name."""
    from hyops import compose_secrets

    root, env = runtime_root(options["root"], options["env"])
    password = options["vault_password_file"], options["vault_password_command"]
    return compose_secrets.secrets_of(root, *password), root, env


def seconds(option: str, text: str, most_s: float = float("inf")) -> float:
    """`90s`, `30m`, `12h`, `7d`; UsageError names the option."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    length_s = float(int(found[1]) * UNIT_S[found[2]]) if found else 0.0
    if not 0 < length_s <= most_s:
        raise UsageError(
            f"{option} {text!r}: a number and s, m, h or d" + (f", {most_s:g} s at most" if most_s < 1e9 else "")
        )
    return length_s


def become(command: Sequence[str], values: Mapping[str, Secret]) -> None:
    """Replace this process by a command, with values in its environment."""
    shown = {name: secret.reveal() for name, secret in values.items()}
    try:
        os.execvpe(command[0], list(command), {**os.environ, **shown})  # noqa: S606  # no shell is wanted
    except OSError as exc:
        raise PrerequisiteError(f"{command[0]}: {exc.strerror}") from None
