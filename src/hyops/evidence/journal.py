"""The runner's journal as evidence sees it: raw lines, each naming the digest of the raw line before it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from hyops.errors import RecordError
from hyops.model import canonical

GENESIS = "sha256:" + "0" * 64


def lines_of(journal: bytes) -> list[bytes]:
    """The raw complete lines, without their newlines; a torn last line is none."""
    return journal.split(b"\n")[:-1]


def body_of(raw: bytes) -> dict[str, Any]:
    """How an entry carries a raw line: as text, or in base64 when a hostile runner sent what is no text."""
    try:
        return {"line": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def raw_of(body: Mapping[str, Any]) -> bytes:
    """The raw line that `body_of` was given."""
    if "line" in body:
        return str(body["line"]).encode()
    return base64.b64decode(str(body.get("base64", "")), validate=True)


def head_of(lines: Sequence[bytes]) -> str:
    """Walk the chain; returns the digest of the last line, which the runner's result must name.

    Raises:
        RecordError: names the first line, counted from 1, that is unreadable or does not follow.
    """
    head = GENESIS
    for number, raw in enumerate(lines, start=1):
        value = canonical.parse(raw, source=f"journal line {number}")
        if not isinstance(value, dict) or "prev" not in value:
            raise RecordError(f"journal line {number}: no record")
        if value["prev"] != head:
            raise RecordError(f"journal line {number}: does not follow from the line before it")
        head = canonical.digest_bytes(raw)
    if not lines:
        raise RecordError("the journal is empty")
    return head
