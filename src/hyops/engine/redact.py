"""Keeps secret values out of what is written: it knows what it guards, and the usual encodings (SEC-2, INV-10)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

LENGTH_MIN = 4  # a shorter value would blank out half of every sentence
MASK = "***"


class Redactor:
    """Replaces every known secret by `***`."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        found: set[str] = set()
        for value in secrets.values():
            for plain in {value, value.strip()}:
                if len(plain) >= LENGTH_MIN:
                    encoded = base64.b64encode(plain.encode()).decode()
                    found |= {plain, encoded, encoded.rstrip("="), quote(plain, safe=""), json.dumps(plain)[1:-1]}
        self._values = sorted(found, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without secrets."""
        for value in self._values:
            text = text.replace(value, MASK)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value without secrets, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value
