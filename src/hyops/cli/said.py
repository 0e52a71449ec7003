"""What commands print of records: one line is one line, whatever somebody wrote into it (INV-8)."""

from __future__ import annotations

import click

LINE_MAX = 16384  # whoever signs sees every word: a text of a record has 4096 characters at most


def say(*lines: str, err: bool = False) -> None:
    """Print each line so that no text in it makes another one, moves the cursor or turns its order."""
    from hyops.model.words import shown

    for line in lines:
        click.echo(shown(line, LINE_MAX), err=err)
