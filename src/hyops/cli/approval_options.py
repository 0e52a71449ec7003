"""What the commands about approvals ask for alike: whose key signs, and whether a person said yes (APR-3)."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hyops.cli.config_file import TO_READ

DEFAULT_CONFIG = "/opt/hybridops/decision-consumer/config/config.json"
FILE = click.Path(path_type=Path, dir_okay=False)
CONFIG = click.option(
    "--config", type=TO_READ, default=DEFAULT_CONFIG, envvar="HYOPS_APPROVAL_CONFIG", help="The approval stage's file."
)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
KEY = click.option("--key", type=FILE, required=True, envvar="HYOPS_APPROVAL_KEY", help="Your SSH key.")
APPROVER = click.option("--approver", help="Your principal [default: whom the allowed signers file gives the key].")
YES = click.option("--yes", is_flag=True, help="Do not ask. Without a terminal nothing is signed unless this is given.")
NOTE = click.option("--note", help="Why; shown in evidence.")


def principal_of(config: Path, key: Path, approver: str | None) -> str:
    """Who signs: the one that is named, or whom the allowed signers file gives the key."""
    from hyops import compose_operator as compose

    return approver or compose.principal_of(config, key)


def consent(question: str, yes: bool) -> None:
    """No terminal is never consent (APR-3)."""
    from hyops.errors import NotApprovedError

    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotApprovedError("there is no terminal to ask on, and that is never consent", hint="pass --yes")
    if not click.confirm(question, err=True):
        raise NotApprovedError("not signed")
