"""A value that nobody prints by accident (SEC-2, INV-10)."""

from __future__ import annotations

import hmac
from typing import Never


class Secret:
    """A text that shows as `***` wherever it is printed, formatted or logged; only `reveal` gives it out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: hand it to the one who needs it, and keep it nowhere."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_bytes(self._text), _bytes(other._text))

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> Never:
        raise TypeError("a secret is not pickled: it would lie in a file in the clear")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
