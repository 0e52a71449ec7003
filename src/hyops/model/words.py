"""What another host wrote, as it may be shown: no control of a terminal, no reordering, of a bounded length (INV-8).

Standard library only.
"""

from __future__ import annotations

import unicodedata

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


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
