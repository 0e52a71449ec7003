"""Ids that derive from the content they answer, so that a replay finds the same id (LOOP-1, ROOT-4)."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from hyops.errors import RecordError

ID = re.compile(r"^[a-z][a-z-]{0,40}-\d{8}T\d{6}Z-(?:[a-z_]{1,24}-)?[0-9a-f]{8}$")


def stamp(at: datetime) -> str:
    """`20260131T235959Z`."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def derived(prefix: str, at: datetime, answers: str, token: str = "") -> str:
    """`<prefix>-<stamp>[-<token>]-<8 hex>`, the hex from what this id answers (a digest or another id)."""
    short = hashlib.sha256(f"{prefix}\n{token}\n{answers}".encode()).hexdigest()[:8]
    return "-".join(part for part in (prefix, stamp(at), token, short) if part)


def run(at: datetime, execution_digest: str) -> str:
    """The one run of an execution made at `at`: whoever starts it and whoever admits it finds the same id (INV-4)."""
    return derived("run", at, execution_digest)


def misnamed(record_id: str, signed: str) -> str | None:
    """Why a record is not what a person put there, when its name is not the one that its signed words give it.

    A signature covers the words and not the name: filed anew under another one, what was ended would begin again.
    """
    if record_id == signed:
        return None
    return f"it is filed as {record_id}, and what was signed is {signed}: a copy, or of an older hyops; sign it again"


def checked(value: str, prefix: str) -> str:
    """The id itself, when it has the form and the prefix; ids become file names, so nothing else may pass."""
    if not ID.fullmatch(value) or not value.startswith(prefix + "-"):
        raise RecordError(f"{value!r} is not a {prefix} id")
    return value
