"""What the commands about approvals ask for alike: whose key signs, and whether a person said yes (APR-3)."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from hyops.cli.config_file import TO_READ

if TYPE_CHECKING:
    from hyops.model.approval import Approval, ApprovalStatement

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
VALID_MAX_S = 366 * 86400.0
Command = Callable[..., None]


class Seconds(click.FloatRange):
    """A length of time; click's own range lets through what is no number."""

    def __init__(self) -> None:
        super().__init__(1, VALID_MAX_S)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; a usage error that names the option otherwise."""
        if math.isnan(seconds := float(super().convert(value, param, ctx))):
            self.fail(f"{value!r} is no length of time: write seconds, as in 1800", param, ctx)
        return seconds


VALID_FOR = Seconds()
"""For how long an approval is given."""


class Puts(Protocol):
    """A desk that takes signed statements."""

    def put(self, statement: ApprovalStatement, ssh_signature: str) -> Approval:
        """Verify it, then write it."""


@dataclass(frozen=True)
class Signing:
    """Who signs with which key, under which configuration, and how the command answers."""

    config: Path
    key: Path
    approver: str | None
    note: str | None
    yes: bool
    as_json: bool

    @property
    def principal(self) -> str:
        """Whose signature it will be."""
        return principal_of(self.config, self.key, self.approver)

    def put(self, desk: Puts, statement: ApprovalStatement, question: str) -> Approval:
        """Ask the person, sign, and hand it in."""
        from hyops import compose_operator as compose

        consent(question, self.yes)
        return desk.put(statement, compose.ssh_sign(statement.signed_bytes(), self.key))


def signing(command: Command) -> Command:
    """The options of every command that signs an approval; the command gets them as `by`."""

    @functools.wraps(command)
    def called(
        *, config: Path, key: Path, approver: str | None, note: str | None, yes: bool, as_json: bool, **more: object
    ) -> None:
        command(by=Signing(config, key, approver, note, yes, as_json), **more)

    options = (CONFIG, KEY, APPROVER, NOTE, YES, JSON)
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), called)


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
