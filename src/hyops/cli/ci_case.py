"""What every command of `hyops ci` is told: whose records, what is trusted, and where the answer goes (RUN-12)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyops.errors import HyopsError, PrerequisiteError, UnsafePlanError, UsageError

if TYPE_CHECKING:
    from hyops.compose_operator import CiTrust
    from hyops.control.gate import Case
    from hyops.model.dispatch import DispatchRequest

TRUST, STORE = "/etc/hyops/ci", "/opt/hybridops"
DIGEST = "HYOPS_REQUEST_DIGEST"
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
OPTIONS = (
    click.option(
        "--trust",
        type=FOLDER,
        default=TRUST,
        envvar="HYOPS_CI_TRUST",
        show_default=True,
        help="Public keys, policy and maps.",
    ),
    click.option(
        "--store",
        type=FOLDER,
        default=STORE,
        envvar="HYOPS_STORE",
        show_default=True,
        help="The control host's folder, or a copy.",
    ),
    click.option(
        "--dispatch-id", envvar="HYOPS_DISPATCH_ID", help="The request, when the records come from the store."
    ),
    click.option("--decision", type=FILE, help="The records as files instead: the decision,"),
    click.option("--request", type=FILE, help="the request,"),
    click.option("--plan", type=FILE, help="the plan,"),
    click.option("--approval", "approvals", type=FILE, multiple=True, help="and approvals; repeat for each."),
    click.option("--request-digest", envvar=DIGEST, metavar="DIGEST", help="Refuse any other request."),
    click.option("--output-file", type=FILE, help="Append the answer as KEY=VALUE lines, for later steps."),
    click.option("--json", "as_json", is_flag=True, help="For programs."),
)


@dataclass(frozen=True)
class Asked:
    """One command's question."""

    trust_folder: Path
    store: Path
    dispatch_id: str | None
    decision: Path | None
    request: Path | None
    plan: Path | None
    approvals: tuple[Path, ...]
    request_digest: str | None
    output_file: Path | None
    as_json: bool

    @property
    def from_files(self) -> bool:
        """Whether files were handed over; UsageError for half of each."""
        files = [path for path in (self.decision, self.request, self.plan, *self.approvals) if path]
        if bool(files) == bool(self.dispatch_id):
            raise UsageError("name a request in the store with --dispatch-id, or hand the records over as files")
        return bool(files)

    @property
    def trust(self) -> CiTrust:
        """What is believed."""
        from hyops import compose_operator as compose

        return compose.CiTrust(self.trust_folder)

    def case(self) -> Case:
        """The records of the request.

        Raises:
            UnsafePlanError: it is not the request whose digest was given.
        """
        from hyops import compose_operator as compose
        from hyops.services import ci

        if not self.from_files:
            found = ci.case_from_store(compose.loop_stores(self.store), str(self.dispatch_id))
        elif self.decision and self.request and self.plan:
            found = ci.case_from_files(ci.CaseFiles(self.decision, self.request, self.plan, self.approvals))
        else:
            raise UsageError("--decision, --request and --plan belong together")
        self._same(found.request)
        return found

    def only_request(self) -> DispatchRequest:
        """The request alone, however long ago it was."""
        from hyops import compose_operator as compose
        from hyops.services import ci

        if self.from_files:
            if self.request is None:
                raise UsageError("--request is needed")
            found = ci.request_from_file(self.request)
        else:
            found = ci.request_from_store(compose.loop_stores(self.store), str(self.dispatch_id))
        self._same(found)
        return found

    def _same(self, request: DispatchRequest) -> None:
        if self.request_digest is None and os.environ.get(DIGEST) == "":
            raise UsageError(f"{DIGEST} is empty: the digest of the first step got lost on its way to this one")
        if self.request_digest and self.request_digest != request.digest():
            raise UnsafePlanError(f"{request.dispatch_id} is another request now: {request.digest()}")

    def answer(self, text: str, **facts: object) -> None:
        """Say it: a line for people, JSON for programs, and lines for the steps that follow."""
        lines = {f"HYOPS_{key.upper()}": str(value) for key, value in facts.items() if isinstance(value, str)}
        if self.output_file is not None:
            append(self.output_file, lines)
        click.echo(json.dumps(facts) if self.as_json else text)


def append(path: Path, lines: Mapping[str, str]) -> None:
    """Add KEY=VALUE lines; a value that could be taken for a second line is a bug of ours and is refused."""
    assert all(value.isprintable() for value in lines.values())
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.writelines(f"{key}={value}\n" for key, value in lines.items())
    except OSError as exc:
        raise PrerequisiteError(f"{path}: {exc.strerror}") from exc


def cased(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options as one `asked`, and keep what records say on the line where it is said."""

    @wraps(command)
    def with_case(**words: Any) -> Any:
        named = {key: words.pop(key) for key in Asked.__dataclass_fields__ if key != "trust_folder"}
        try:
            return command(asked=Asked(words.pop("trust"), **named), **words)
        except HyopsError as exc:
            raise plain(exc) from exc

    for option in reversed(OPTIONS):
        with_case = option(with_case)
    return with_case


def plain(error: HyopsError) -> HyopsError:
    """The same error on one line: CI obeys log lines that begin with `::`, and a record may hold such a line."""
    error.message = one_line(error.message)
    error.hint = one_line(error.hint)
    error.facts = {key: one_line(str(value)) for key, value in error.facts.items()}
    return error


def one_line(text: str) -> str:
    """What cannot be printed is spelled out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
