"""The cache as text: `KEY=value` lines that a shell can source, each with a comment that says whence and when (SEC-1).

Other tools read and write the same file, so a key without our comment is kept with an unknown origin. Comments of
others are not kept. No error quotes a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from hyops.errors import Effect, SecretsError
from hyops.model.base import iso_utc
from hyops.model.secret import Secret

KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
ASSIGNMENT = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=")
PIECE = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[A-Za-z0-9_@%+=:,./-]+""", re.DOTALL)
LINE_END = re.compile(r"[ \t\r]*(?:\n|\Z)")
NOTE = "#hyops "
HEAD = "# kept by hyops secrets; comments of others are not kept"
EXEC_BYTES_MAX = 128 * 1024  # Linux takes no longer `KEY=value` into an environment, its NUL at the end included
REVISION_MAX = 2**63


@dataclass(frozen=True)
class Origin:
    """Where a value came from. `authority`: vault, gsm, asm, akv, set, generated; unknown: another tool wrote it."""

    authority: str = "unknown"
    place: str | None = None
    ref: str | None = None
    scope: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class Entry:
    """One key. Without a value it is gone upstream: the mark is kept so that it is not asked for in vain."""

    value: Secret | None
    origin: Origin = field(default_factory=Origin)
    at: datetime | None = None
    revision: int = 0


@dataclass(frozen=True)
class Cache:
    """All keys; `revision` counts writes, so a writer sees what another one did in between."""

    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))
    revision: int = 0

    def values(self) -> dict[str, Secret]:
        """Key -> value, of those that have one."""
        return {key: entry.value for key, entry in self.entries.items() if entry.value is not None}

    def changed(self, entries: Mapping[str, Entry | None]) -> Cache:
        """The next revision: entries replaced, or dropped where None."""
        revision = self.revision + 1
        kept = {key: entry for key, entry in self.entries.items() if key not in entries}
        fresh = {key: replace(entry, revision=revision) for key, entry in entries.items() if entry is not None}
        return Cache({**kept, **fresh}, revision)


def check_value(key: str, text: str) -> str | None:
    """Why a text cannot be kept under a key; None when it can."""
    if not KEY.fullmatch(key):
        return f"{key!r} is no name for an environment variable"
    if "\0" in text:
        return f"{key}: the value holds a NUL character"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"{key}: the value is not valid text"
    if size > (most := EXEC_BYTES_MAX - len(key) - len("=\0")):
        return f"{key}: the value is longer than {most} bytes, so no program could be started with it"
    return None


def render(cache: Cache) -> bytes:
    """The text, keys in order."""
    lines = [
        "# kept by hyops secrets; comments of others are not kept",
        NOTE + json.dumps({"revision": cache.revision}),
    ]
    for key in sorted(cache.entries):
        entry = cache.entries[key]
        note = {name: value for name, value in vars(entry.origin).items() if value is not None}
        note |= {"revision": entry.revision} | ({} if entry.at is None else {"at": iso_utc(entry.at)})
        note |= {"gone": key} if entry.value is None else {}
        lines.append(NOTE + json.dumps(note, sort_keys=True))
        if entry.value is not None:
            lines.append(f"{key}={_quoted(entry.value.reveal())}")
    return ("\n".join(lines) + "\n").encode()


def parse(data: bytes, *, source: str) -> Cache:
    """What `render` wrote, or another tool.

    Raises:
        SecretsError: names `source` and the line.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _fault(source, 1, "not UTF-8") from None
    entries: dict[str, Entry] = {}
    revision, note = 0, dict[str, Any]()
    for number, kind, body in _lines(text, source):
        if kind == "note":
            found = _note(body, source, number)
            if set(found) == {"revision"}:
                revision = _revision(found, source, number)
            elif "gone" in found:
                entries[str(found["gone"])] = _entry(None, found, source, number)
            else:
                note = found
            continue
        if kind in entries and entries[kind].value is not None:
            raise _fault(source, number, f"{kind} stands twice")
        if (why := check_value(kind, body)) is not None:
            raise _fault(source, number, why)
        entries[kind], note = _entry(Secret(body), note, source, number), {}
    return Cache(entries, max([revision, *(entry.revision for entry in entries.values())]))


def _lines(text: str, source: str) -> Iterator[tuple[int, str, str]]:
    """(line number, "note" or the key, JSON or value); a quoted value may span lines."""
    at = 0
    while at < len(text):
        number, end = text.count("\n", 0, at) + 1, text.find("\n", at)
        end = len(text) if end == -1 else end
        line = text[at:end].strip(" \t\r")
        if not line or line.startswith("#"):
            if line.startswith(NOTE):
                yield number, "note", line[len(NOTE) :]
            at = end + 1
            continue
        start = ASSIGNMENT.match(text, at)
        if start is None:
            raise _fault(source, number, "neither KEY=value nor a comment")
        if text[start.end() : start.end() + 1] in ("'", '"'):
            value, at = _unquoted(text, start.end(), source, number)
        else:
            value, at = text[start.end() : end].rstrip(" \t\r"), end + 1
        yield number, start[1], value


def _unquoted(text: str, at: int, source: str, number: int) -> tuple[str, int]:
    """A value made of quoted pieces, as a shell reads it, and the place behind its line."""
    pieces = []
    while (piece := PIECE.match(text, at)) is not None:
        word, at = piece.group(), piece.end()
        if word[0] == '"':
            word = re.sub(r'\\([\\"$`])', r"\1", word[1:-1])
        elif word[0] == "'":
            word = word[1:-1]
        elif word[0] == "\\":
            word = word[1:]
        pieces.append(word)
    if (end := LINE_END.match(text, at)) is None:
        raise _fault(source, number, "a quote is not closed, or something stands behind it")
    return "".join(pieces), end.end()


def _quoted(value: str) -> str:
    return value if PLAIN.fullmatch(value) else "'" + value.replace("'", "'\\''") + "'"


def _note(body: str, source: str, number: int) -> dict[str, Any]:
    try:
        note = json.loads(body)
    except (ValueError, RecursionError):
        note = None
    if not isinstance(note, dict):
        raise _fault(source, number, "a comment of hyops is damaged")
    return note


def _revision(note: Mapping[str, Any], source: str, number: int) -> int:
    revision = note.get("revision", 0)
    if type(revision) is not int or not 0 <= revision < REVISION_MAX:
        raise _fault(source, number, "a comment of hyops has no valid revision")
    return revision


def _entry(value: Secret | None, note: Mapping[str, Any], source: str, number: int) -> Entry:
    texts = {name: note.get(name) for name in ("authority", "place", "ref", "scope", "version", "at")}
    revision = _revision(note, source, number)
    if any(not isinstance(text, str | None) for text in texts.values()):
        raise _fault(source, number, "a comment of hyops is damaged")
    written = texts.pop("at")
    try:
        at = None if written is None else datetime.fromisoformat(written)
    except ValueError:
        raise _fault(source, number, "a comment of hyops has no valid time") from None
    if at is not None and at.tzinfo is None:
        raise _fault(source, number, "a comment of hyops has a time without a zone")
    authority = texts.pop("authority") or "unknown"
    return Entry(value, Origin(authority, **texts), at, revision)


def _fault(source: str, number: int, why: str) -> SecretsError:
    return SecretsError(
        f"{source}: line {number} of its text: {why}",
        hint="`ansible-vault view` shows the text; mend it with `ansible-vault edit`, or remove it and sync again",
        effect=Effect.NONE,
    )
