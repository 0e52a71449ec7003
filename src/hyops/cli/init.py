"""`hyops init`: what a runtime root needs from outside, stored where only its owner reads it (RUN-10)."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path

import click

from hyops.cli.root import rooted
from hyops.errors import ConfigError, PrerequisiteError, UsageError

HOST = "app.terraform.io"
TOKEN_BYTES_MAX = 8192
COMMAND_LIMIT_S = 60.0


@click.group()
def init() -> None:
    """Set up what a runtime root needs from outside."""


@init.command("terraform-cloud")
@rooted
@click.option("--host", default=HOST, show_default=True, help="Terraform Cloud or Enterprise, without a port.")
@click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), help="`-`: standard input."
)
@click.option("--token-command", metavar="COMMAND", help="A program that prints the token; no shell reads the words.")
@click.option("--ca-file", type=click.Path(path_type=Path, dir_okay=False), help="Trust this authority for the host.")
@click.option("--unchecked", is_flag=True, help="Store it without asking the host whether it is good.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def terraform_cloud(
    root: Path,
    host: str,
    token_file: Path | None,
    token_command: str | None,
    ca_file: Path | None,
    unchecked: bool,
    as_json: bool,
) -> None:
    """Store a token for Terraform's state: asked for without echo, or from a file or a command; never an argument."""
    from hyops import compose_operator as compose
    from hyops.model.terraform import HostCredentials, checked_host, variable_of

    try:
        name = checked_host(host)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    token = HostCredentials.of({"token": _token(name, token_file, token_command)}, source=f"token of {name}").token
    account = None if unchecked else asyncio.run(compose.terraform_cloud(name, token, ca_file).whoami())
    kept = compose.terraform_credentials(root)
    kept.store(name, token)
    if as_json:
        said = {"host": name, "file": str(kept.path), "variable": variable_of(name), "account": account}
        click.echo(json.dumps(said))
        return
    click.echo(f"{name}: {'stored unchecked' if account is None else f'the token of {account}'}, in {kept.path}")


def _token(host: str, token_file: Path | None, token_command: str | None) -> str:
    """The token from the one source that was named, or from the terminal.

    Raises:
        UsageError: two sources. ConfigError, PrerequisiteError: the source gives nothing; never with its content.
    """
    if token_file is not None and token_command is not None:
        raise UsageError("--token-file and --token-command exclude each other")
    if token_command is not None:
        data, source = _printed(token_command), "--token-command"
    elif token_file is not None:
        data, source = _read(token_file), str(token_file)
    elif sys.stdin.isatty():
        return str(click.prompt(f"Token for {host}", hide_input=True, err=True)).strip()
    else:
        raise PrerequisiteError("there is no terminal to ask on", hint="pass --token-file or --token-command")
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not a token") from None  # the cause would quote it


def _read(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read(TOKEN_BYTES_MAX)
    try:
        with path.open("rb") as file:
            return file.read(TOKEN_BYTES_MAX)
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}") from exc


def _printed(command: str) -> bytes:
    try:
        words = shlex.split(command)
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=COMMAND_LIMIT_S, check=False
        )
    except (ValueError, IndexError) as exc:
        raise UsageError(f"--token-command: {exc}") from exc
    except OSError as exc:
        raise PrerequisiteError(f"--token-command: {words[0] if words else command!r}: {exc.strerror}") from exc
    except subprocess.TimeoutExpired:
        raise PrerequisiteError(f"--token-command: not done within {COMMAND_LIMIT_S:g} s") from None  # holds output
    if done.returncode != 0:
        raise PrerequisiteError(f"--token-command: {words[0]} ended {done.returncode}")
    return done.stdout[:TOKEN_BYTES_MAX]
