"""`hyops import`: files of hybridops as it was before, with every loss on the way named (CAT-5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyops.cli.config_file import TO_READ

if TYPE_CHECKING:
    from hyops.services.importing import Imported

OUT = click.option("--out", type=click.Path(path_type=Path), help="A new file for the result; never over another.")
JSON = click.option("--json", "as_json", is_flag=True, help="For programs: what was made, and what was lost.")
FILE = click.argument("file", type=TO_READ)


@click.group("import")
def import_() -> None:
    """Read files of an older hybridops, and list what each of them loses on the way.

    The result goes to standard output, or into a new file; the losses go to standard error. Nothing else is written:
    look at the losses first.
    """


@import_.command()
@FILE
@click.option("--service", help="The service that it is about; old records name none.")
@OUT
@JSON
def decision(file: Path, service: str | None, out: Path | None, as_json: bool) -> None:
    """A decision record. Without a signature it always waits for approval."""
    from hyops import compose_import as compose

    _tell(compose.imported_decision(file, service), out, as_json)


@import_.command()
@FILE
@click.option("--env", help="Whose routes they are, where they lead to several.")
@click.option("--runner-ref", "runners", multiple=True, metavar="TYPE=RUNNER", help="For a route that names none.")
@OUT
@JSON
def routes(file: Path, env: str | None, runners: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """A dispatcher's routes: its module inputs, or its config.json."""
    from hyops import compose_import as compose
    from hyops.errors import UsageError

    for word in runners:
        if not all(word.partition("=")[::2]):
            raise UsageError(f"--runner-ref {word!r}: TYPE=RUNNER is needed, as in failover=gcp-ops-runner")
    named = dict(word.split("=", 1) for word in runners)
    _tell(compose.imported_routes(file, env, named), out, as_json)


@import_.command()
@FILE
@OUT
@JSON
def state(file: Path, out: Path | None, as_json: bool) -> None:
    """What a module left behind: latest.json, or the file of an instance."""
    from hyops import compose_import as compose

    _tell(compose.imported_state(file), out, as_json)


def _tell(found: Imported, out: Path | None, as_json: bool) -> None:
    from hyops.model.words import shown

    made = json.dumps(found.made.body(), indent=2, ensure_ascii=False) + "\n"
    if out is not None:
        from hyops import compose_import as compose

        compose.write_new(out, made.encode())
    if as_json:
        click.echo(json.dumps(found.body(), ensure_ascii=False))
        return
    if out is None:
        click.echo(made, nl=False)
    for point in found.lossy:
        at = f"line {point.line}: " if point.line else ""
        was = f" was {point.was}" if point.was else ""
        click.echo(shown(f"lossy: {at}{point.key}:{was} -> {point.became}: {point.why}"), err=True)
    click.echo(f"import: {len(found.lossy)} lossy point(s)" + (f"; written: {out}" if out else ""), err=True)
