"""`hyops schema`: the JSON Schema of every file a person writes and of every record."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def schema() -> None:
    """Print the JSON Schema of every file a person writes."""


@schema.command("list")
def list_schemas() -> None:
    """What there is."""
    from hyops.model.schemas import TYPES

    for name in TYPES:
        click.echo(name)


@schema.command()
@click.argument("name")
def show(name: str) -> None:
    """One schema."""
    import difflib

    from hyops.errors import UsageError
    from hyops.model.schemas import TYPES, schema_of

    if name not in TYPES:
        near = difflib.get_close_matches(name, TYPES, n=1)
        raise UsageError(f"no schema {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    click.echo(json.dumps(schema_of(name), indent=2, sort_keys=True))


@schema.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def write(folder: Path) -> None:
    """All schemas as files, one each."""
    from hyops.errors import PrerequisiteError
    from hyops.model.schemas import TYPES, schema_of

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in TYPES:
            text = json.dumps(schema_of(name), indent=2, sort_keys=True) + "\n"
            (folder / f"{name}.schema.json").write_text(text)
    except OSError as exc:
        raise PrerequisiteError(f"{exc.filename or folder}: {exc.strerror}", hint="name a folder to write in") from exc
    click.echo(f"{len(TYPES)} schemas in {folder}")
