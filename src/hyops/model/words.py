"""What another host wrote, as it may be shown: no control of a terminal, no reordering, of a bounded length (INV-8).

Standard library only.
"""

from __future__ import annotations

import unicodedata
from typing import Any

TEXT_MAX = 4000


def shown(text: object, limit: int = TEXT_MAX) -> str:
    """The text on one line, with `\\x1b` for an escape and the like; over `limit` characters it is cut, and says so.

    Controls (C0, C1), line ends, bidi and other invisible formats and halves of surrogate pairs are written out.
    """
    whole = str(text)
    kept = whole[:limit]
    if not kept.isprintable():
        kept = "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in kept)
    return kept if len(whole) <= limit else f"{kept} [cut]"


def shown_in(value: Any, limit: int = TEXT_MAX) -> Any:
    """A JSON value with every text in it as `shown` gives it, names included; numbers and the shape stay.

    Raises:
        RecursionError: it is nested deeper than anybody writes it.
    """
    if isinstance(value, str):
        return shown(value, limit)
    if isinstance(value, dict):
        return {shown(name, limit): shown_in(item, limit) for name, item in value.items()}
    if isinstance(value, list):
        return [shown_in(item, limit) for item in value]
    return value


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
