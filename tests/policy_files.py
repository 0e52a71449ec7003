"""The policies of the docs: what a hurried operator wrote, and the twin that its own comments make of it.

A line `BAD  # instead: GOOD` is BAD as it stands and GOOD in the twin; nothing after the colon takes the line away.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "how-to" / "policies"
INSTEAD = re.compile(r"^.*?# instead:(?: (?P<good>.*))?$")
REFUSED = re.compile(r"^# Refused: (?P<rule>\S+)$", re.MULTILINE)


def dangerous() -> dict[str, str]:
    """Name -> the rule that its own first lines say it is refused for."""
    found = {}
    for path in sorted(FOLDER.glob("*.yml")):
        refused = REFUSED.search(path.read_text())
        if refused is not None:
            found[path.name.partition(".")[0]] = refused["rule"]
    return found


def mended(text: str) -> str:
    """The twin."""
    lines = []
    for line in text.splitlines():
        marked = INSTEAD.fullmatch(line)
        if marked is None:
            lines.append(line)
        elif marked["good"]:
            lines.append(marked["good"])
    return "\n".join(lines) + "\n"


def written(name: str, folder: Path, *, twin: bool) -> list[str]:
    """Write a policy (and its routes, when there are any) into a folder; the words of the command that checks them."""
    words = []
    for suffix, option in ((".yml", None), (".routes.yml", "--routes")):
        source = FOLDER / f"{name}{suffix}"
        if source.exists():
            path = folder / source.name
            path.write_text(mended(source.read_text()) if twin else source.read_text())
            words += [option, str(path)] if option else [str(path)]
    return words
