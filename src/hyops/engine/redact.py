"""Keeps secret values out of what is written: it knows what it guards, the usual encodings, and the forms of those
that nobody told it about (SEC-2, INV-10).

Overlapping finds are one find, so no rest of a secret stays between two masks. A stream gives the same as the whole:
it holds back only what may still become a secret, however the chunks are cut.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from hyops.engine import patterns
from hyops.engine.encodings import EDGE, LENGTH_MIN, literals, wrapped

MASK = "***"
HEAD = EDGE + 1  # a needle is looked up by its first bytes
BREAK = re.compile(rb"(?:\r|\n|\\r|\\n)+")
Span = tuple[int, int]

__all__ = ["LENGTH_MIN", "MASK", "RedactedStream", "Redactor"]


class Redactor:
    """Replaces every known secret by `***`. Values shorter than four characters cannot be told from other text."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._needles = sorted({form for value in secrets.values() for form in literals(value)})
        self._wrapped = sorted({form for value in secrets.values() for form in wrapped(value)})

    def text(self, text: str) -> str:
        """The text without secrets."""
        return self.data(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def data(self, data: bytes) -> bytes:
        """The bytes without secrets."""
        return self.stream().end(data)

    def value(self, value: Any) -> Any:
        """A JSON value without secrets, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._under(str(key), item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def _under(self, key: str, item: Any) -> Any:
        return MASK if isinstance(item, str) and key.lower() in patterns.NAMES else self.value(item)

    def stream(self) -> RedactedStream:
        """A filter for bytes that come in chunks."""
        return RedactedStream(self.spans, self.hold_from)

    def spans(self, data: bytes) -> list[Span]:
        """Where secrets are: merged, in order, without overlap."""
        found = [span for needle in self._needles for span in _all(data, needle)] + patterns.spans(data)
        if self._wrapped:
            joined = _Joined(data)
            for needle in self._wrapped:
                found += [joined.original(span) for span in _all(joined.data, needle)]
        return _merged(found)

    def hold_from(self, data: bytes) -> int:
        """From here on the bytes may be the beginning of a secret whose rest is yet to come."""
        first = min(_unfinished(data, self._needles, length_min=1), patterns.begun(data))
        if not data.endswith(b"\n"):
            first = min(first, _unfinished(data.lower(), patterns.TRIGGERS, length_min=1))
        if self._wrapped:
            joined = _Joined(data)
            line_ended = data.endswith((b"\n", b"\r"))  # a whole line is not held for one letter that fits
            at = _unfinished(joined.data, self._wrapped, length_min=HEAD if line_ended else 1)
            if at < len(joined.data):
                first = min(first, joined.original((at, at + 1))[0])
        return first


class RedactedStream:
    """Chunks in, clean bytes out; `end` gives what was held back."""

    def __init__(self, spans: Callable[[bytes], list[Span]], hold_from: Callable[[bytes], int]) -> None:
        self._spans, self._hold_from = spans, hold_from
        self._held = b""
        self._covered = 0  # so many of the held bytes belong to a secret whose mask was given out

    def feed(self, chunk: bytes) -> bytes:
        """What is certain by now."""
        data = self._held + chunk
        return self._give(data, self._hold_from(data))

    def end(self, last: bytes = b"") -> bytes:
        """The rest: nothing more will come."""
        data = self._held + last
        return self._give(data, len(data))

    def _give(self, data: bytes, cut: int) -> bytes:
        spans = self._spans(data)
        if self._covered:
            spans = _merged([*spans, (0, self._covered)])
        out, done = bytearray(), 0
        for start, end in spans:
            if start >= cut:
                break
            out += data[done:start]
            if start > 0 or not self._covered:
                out += MASK.encode()
            done = end
        out += data[done:cut]
        self._held, self._covered = data[cut:], max(0, max(done, self._covered) - cut)
        return bytes(out)


class _Joined:
    """Data with its line ends taken out, and the way back."""

    def __init__(self, data: bytes) -> None:
        self._here, self._there = [0], [0]
        pieces, at, done = [], 0, 0
        for gap in BREAK.finditer(data):
            pieces.append(data[done : gap.start()])
            at, done = at + gap.start() - done, gap.end()
            self._here.append(at)
            self._there.append(done)
        self.data = b"".join([*pieces, data[done:]])

    def original(self, span: Span) -> Span:
        """The place in the data as it was, from the first byte to behind the last."""
        return self._back(span[0]), self._back(span[1] - 1) + 1

    def _back(self, at: int) -> int:
        piece = bisect_right(self._here, at) - 1
        return self._there[piece] + at - self._here[piece]


def _all(data: bytes, needle: bytes) -> Iterator[Span]:
    at = data.find(needle)
    while at != -1:
        yield at, at + len(needle)
        at = data.find(needle, at + 1)


def _unfinished(data: bytes, needles: Iterable[bytes], *, length_min: int) -> int:
    """The first place from which the data, to its end, is the beginning of a needle and not all of it."""
    first = len(data)
    for needle in needles:
        at = data.find(needle[:HEAD], max(0, len(data) - len(needle) + 1))
        while at != -1 and at < first:
            if needle.startswith(data[at:]):
                first = at
            at = data.find(needle[:HEAD], at + 1)
        for length in range(min(HEAD - 1, len(data), len(needle) - 1), length_min - 1, -1):
            if needle.startswith(data[-length:]):
                first = min(first, len(data) - length)
                break
    return first


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
