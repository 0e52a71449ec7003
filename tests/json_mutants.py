"""Mutants of one JSON document, made from its bytes alone: a thousand times cheaper than to generate each anew.

The document is read once for where its values and members stand. A mutant is then a splice of bytes: another value in
the place of one, a member left out or there twice, a key that nobody knows, or damage that knows no JSON at all.
"""

from __future__ import annotations

import json
import random
import re

SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s,\]}:]+')
ODD = [
    b"null", b"true", b"0", b"-0", b"-1", b"1.5", b"1e3", b"1E400", b"-1e-400", b"9007199254740993", b"1" * 400,
    b"1" * 5000, b"NaN", b"Infinity", b"-Infinity", b"nan", b"01", b"+1", b"0x1", b".5", b'""', b'"\\u0000"',
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xe2\x80\xae"', b'"' + b"x" * 70_000 + b'"',
    b'"a\nb"', b"'a'", b"[]", b"{}", b"[[]]", b'{"":0}', b'{"a":{"a":{}}}', b"[" * 65 + b"]" * 65, b"[" * 5000,
    b"[" * 100_000, b'{"a":' * 5000, b"[" + b"0," * 1000 + b"0]", b'"2026-02-30T00:00:00Z"',
    b'"0001-01-01T00:00:00+14:00"', b'"a{1,99999999999999999999}"', b'"[a--b]"', b'"((((((((("',
    b'"sha256:"', b'"../../etc/passwd"', b'"9999-12-31T23:59:59.999999Z"', b"/* */1", b"undefined",
]  # fmt: skip
"""What may stand in the place of any value; the long ones are drawn more rarely, for they cost more."""
CHEAP = [one for one in ODD if len(one) < 100]
WHOLE = [
    b"",
    b" ",
    b"\n",
    b"\x00",
    b"\xef\xbb\xbf{}",
    b"null",
    b"[]",
    b"{}",
    b"0",
    b'"a"',
    b"\xff\xfe",
    b"{",
    b"}",
    b"//",
]


class Mutants:
    """An endless supply, the same for the same seed."""

    def __init__(self, document: bytes, seed: int) -> None:
        self._whole, self._rng = document, random.Random(seed)
        self._values: list[tuple[int, int]] = []
        self._members: list[tuple[int, int]] = []
        end = self._read(0)
        assert end == len(document.rstrip()), "the example is not one document"

    def next(self) -> bytes:
        """One more."""
        rng, data = self._rng, self._whole
        how = int(rng.random() * 12)
        if how == 0:  # bytes changed
            copy = bytearray(data)
            for _ in range(1 + int(rng.random() * 3)):
                copy[int(rng.random() * len(copy))] = int(rng.random() * 256)
            return bytes(copy)
        if how == 1:  # cut, or empty, or something else altogether
            return rng.choice(WHOLE) if rng.random() < 0.05 else data[: int(rng.random() * len(data))]
        if how == 2:  # some bytes taken out, or put in
            at, count = int(rng.random() * len(data)), 1 + int(rng.random() * 8)
            return (
                data[:at] + data[at + count :] if rng.random() < 0.5 else data[:at] + rng.randbytes(count) + data[at:]
            )
        if how == 3 and self._members:  # a member less
            low, high = rng.choice(self._members)
            return (data[:low] + data[high:].lstrip(b",")).replace(b",}", b"}")
        if how == 4 and self._members:  # a member twice
            low, high = rng.choice(self._members)
            return data[:high] + b"," + data[low:high] + data[high:]
        if how == 5 and self._members:  # a key that nobody knows, or a key's name changed
            low, high = rng.choice(self._members)
            new = b'"unknown":1,' if rng.random() < 0.5 else b""
            return data[:low] + new + (data[low:high] if new else b'"x' + data[low + 1 : high]) + data[high:]
        if how == 6:  # a value from elsewhere in the document
            low, high = rng.choice(self._values)
            start, end = rng.choice(self._values)
            return data[:low] + data[start:end] + data[high:] if end - start < 2000 else data[:low] + b"7" + data[high:]
        if how == 7:  # white space, which is no damage
            low, high = rng.choice(self._values)
            return data[:low] + b" \r\n\t" + data[low:high] + b" " + data[high:]
        if how == 8 and rng.random() < 0.1:  # two documents
            return data + data
        low, high = rng.choice(self._values)
        return data[:low] + rng.choice(ODD if rng.random() < 0.05 else CHEAP) + data[high:]

    def _read(self, at: int) -> int:
        """Note the value that begins at `at`, and all below; returns where it ends. The document has no spaces."""
        start, first = at, self._whole[at : at + 1]
        if first in (b"{", b"["):
            close = b"}" if first == b"{" else b"]"
            at += 1
            while self._whole[at : at + 1] != close:
                begin = at
                at = self._read(self._scalar(at) + 1 if first == b"{" else at)
                if first == b"{":
                    self._members.append((begin, at))
                at += self._whole[at : at + 1] == b","
            at += 1
        else:
            at = self._scalar(at)
        self._values.append((start, at))
        return at

    def _scalar(self, at: int) -> int:
        found = SCALAR.match(self._whole, at)
        assert found is not None, self._whole[at : at + 20]
        json.loads(found[0])
        return found.end()
