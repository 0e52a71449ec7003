"""`hyops secrets seal-key`, `seal` and `unseal`: what control may carry and cannot read (SEC-3)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from hyops.cli.secret_options import become, cache_options, opened, seconds
from hyops.errors import PrerequisiteError

PATH = click.Path(path_type=Path, dir_okay=False)
VALID_S_MAX = 7 * 86400.0


@click.command("seal-key")
@click.argument("file", type=PATH)
def seal_key(file: Path) -> None:
    """On the runner: make its own key in FILE, unless it is there, and print the public half for `seal --to`."""
    from hyops import compose_secrets

    click.echo(compose_secrets.seal_key(file, create=True).public)


@click.command()
@click.option("--key", "names", multiple=True, required=True, help="seal this key; may be repeated")
@click.option("--to", "public", type=PATH, required=True, help="a file with the runner's public key")
@click.option("--runner-ref", required=True)
@click.option("--valid", default="1h", show_default=True, help="how long it can be opened: 90s, 30m, 12h, 7d")
@click.option("--output", "-o", type=PATH, required=True, help="the sealed file; it may be carried by anybody")
@cache_options
def seal(names: tuple[str, ...], public: Path, runner_ref: str, valid: str, output: Path, **options: Any) -> None:
    """Seal the named keys to one runner."""
    from hyops import compose_secrets

    valid_s = seconds("--valid", valid, VALID_S_MAX)
    cache, _, env = opened(options)
    values = cache.environment(names)
    sealed = compose_secrets.sealed_for(values, public, env=env, runner_ref=runner_ref, valid_s=valid_s)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(output, flags, 0o600), "wb") as file:
            file.write(sealed.encoded())
    except OSError as exc:
        raise PrerequisiteError(f"{output}: {exc.strerror}", hint="name a file that is not there yet") from exc
    click.echo(f"{output}: {', '.join(sealed.keys)} for {runner_ref}, until {sealed.expires_at.isoformat()}")


@click.command()
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--sealed", type=PATH, required=True, help="the sealed file")
@click.option("--seal-key", "key_file", type=PATH, required=True, help="this runner's own key")
@click.option("--runner-ref", required=True, help="this runner")
@click.option("--env", required=True, help="the environment that they are for")
def unseal(command: tuple[str, ...], sealed: Path, key_file: Path, runner_ref: str, env: str) -> None:
    """On the runner: become COMMAND with the sealed keys in its environment."""
    from hyops import compose_secrets

    become(command, compose_secrets.unsealed(sealed, key_file, env=env, runner_ref=runner_ref))
