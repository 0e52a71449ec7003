"""`hyops lint`: defects in what people wrote, before they matter; reads files only (DRIFT-1, BP-1a)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyops.lint.check import Finding

FOUND, UNREADABLE = 16, 11


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--sarif", "as_sarif", is_flag=True, help="SARIF 2.1.0, for forges and editors.")
@click.option("--rule", "rules", multiple=True, metavar="ID", help="Only this rule; may be repeated.")
def lint(paths: tuple[Path, ...], as_json: bool, as_sarif: bool, rules: tuple[str, ...]) -> int:
    """Find known ways of drifting into unsafe designs in PATH (files or folders; the present folder without).

    Reads environments, blueprints, module specs and inputs, routes, CI workflows (YAML) and maps of secrets (CSV).
    Exits with 16 when something was found, and with 11 when a file could not be read, found or not.
    """
    from hyops import compose_operator as compose
    from hyops.errors import ConfigError, UsageError
    from hyops.lint.check import check
    from hyops.lint.rules import RULES

    if as_json and as_sarif:
        raise UsageError("--json and --sarif exclude each other")
    for rule in rules:
        if rule not in RULES:
            raise UsageError(f"no rule {rule!r}{_near(rule, list(RULES))}", known=", ".join(RULES))
    reader, documents, faults = compose.document_reader(), [], []
    for path in paths or (Path("."),):
        try:
            files = reader.find(path)
        except ConfigError as exc:
            faults.append((str(path), exc.message))
            continue
        for file in files:
            try:
                documents += reader.read(file, named=file == path)
            except ConfigError as exc:
                faults.append((str(file), exc.message))
    findings = check(documents, rules)
    count = len({document.path for document in documents})
    if as_json:
        told = {"files": count, "findings": [one.body() for one in findings]}
        click.echo(json.dumps({**told, "unreadable": [{"path": path, "message": said} for path, said in faults]}))
    elif as_sarif:
        from hyops.lint.sarif import sarif

        click.echo(json.dumps(sarif(findings, [(path, _line(path, said), said) for path, said in faults])))
    else:
        _tell(findings, [said for _, said in faults], count)
    return UNREADABLE if faults else FOUND if findings else 0


def _near(word: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _line(path: str, said: str) -> int:
    """The line in `path:line: what is wrong`."""
    number = said.removeprefix(f"{path}:").partition(":")[0]
    return int(number) if number.isdecimal() else 1


def _tell(findings: Sequence[Finding], faults: Sequence[str], files: int) -> None:
    for one in findings:
        click.echo(f"{one.path}:{one.line}: {one.rule}: {one.key}: {one.message}\n  mend: {one.mend}")
    for said in faults:
        click.echo(f"hyops: cannot read {said}", err=True)
    unread = f", {len(faults)} unreadable" if faults else ""
    click.echo(f"lint: {len(findings)} finding(s) in {files} file(s){unread}")
