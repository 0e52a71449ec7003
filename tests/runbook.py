"""What stands on a page of the how-tos, as a test types it: titled blocks of commands, and rows of tables."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs" / "how-to"


def text(page: str) -> str:
    """The page."""
    return (PAGES / page).read_text()


def block(page: str, title: str, language: str = "sh") -> str:
    """The commands under this title; AssertionError when the page has none of it."""
    found = re.search(rf'^( *)```{language} title="{re.escape(title)}"\n(.*?)^ *```', text(page), re.M | re.S)
    assert found is not None, f"{page} has no block {title!r}"
    return textwrap.dedent(found[2])


def titles(page: str) -> list[str]:
    """Of every block of commands, in order; one without a title cannot be typed by a test, and is an error."""
    heads = re.findall(r"^ *```(?:sh|bash)\b(.*)$", text(page), re.M)
    found = [re.fullmatch(r' title="(.+)"', head) for head in heads]
    assert all(found), f"{page}: a block of commands without a title"
    return [one[1] for one in found if one]


def rows(page: str, first: str) -> list[list[str]]:
    """The cells of the table whose first heading is this."""
    lines = text(page).splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().startswith(f"| {first} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.strip().startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip().strip("|").split(" | ")])
    return found


def code(cell: str) -> str:
    """What stands in backticks in a cell."""
    found = re.search(r"`([^`]+)`", cell)
    assert found is not None, cell
    return found[1]


def says(pattern: str, output: str) -> bool:
    """Whether the page's words come out, whatever stands for its `...` and however wide the columns are."""
    words = [r"\s+".join(map(re.escape, part.split())) for part in pattern.split("...")]
    return re.search(r".*?".join(rf"\s*{part}\s*" for part in words), output) is not None
