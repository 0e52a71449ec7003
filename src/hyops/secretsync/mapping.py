"""Which secret of the authority becomes which key: CSV maps of `scope,ENV_KEY,REF` (SEC-1).

`{env}`, `{scope}`, `{env_key}` and `{env_key_slug}` (lower case, hyphens) stand for themselves in REF. Only what a map
names is ever asked for.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hyops.errors import ConfigError
from hyops.secretsync.document import KEY

HEADER = ["scope", "ENV_KEY", "REF"]
SCOPE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
REF_CHARS_MAX = 512
ROWS_MAX = 1000
BYTES_MAX = 1024 * 1024
UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")  # some readers end a line at some of them
LINE = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Row:
    """One key that is to be filled; `ref` has no placeholders any more."""

    scope: str
    key: str
    ref: str


def parse_map(data: bytes, *, env: str, source: str, scopes: Collection[str] = ()) -> list[Row]:
    """The rows of the named scopes, or all; in the map's order.

    Raises:
        ConfigError: one line per fault, `file:line: what is wrong`; also a scope that no row has, and no row at all.
    """
    if len(data) > BYTES_MAX:
        raise ConfigError(f"{source}: more than {BYTES_MAX} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not UTF-8") from None
    faults: list[str] = []
    rows: dict[str, Row] = {}
    known: set[str] = set()
    for number, cells in _cells(text, source):
        made = _row(cells, env)
        if isinstance(made, str):
            faults.append(f"{source}:{number}: {made}")
            continue
        known.add(made.scope)
        if scopes and made.scope not in scopes:
            continue
        if made.key in rows:
            faults.append(f"{source}:{number}: {made.key}: stands twice among the scopes that were asked for")
        rows[made.key] = made
    faults += [f"{source}: no row has the scope {scope!r}" for scope in sorted(set(scopes) - known)]
    if not faults and not 0 < len(rows) <= ROWS_MAX:
        faults.append(f"{source}: {len(rows)} rows; there must be 1 to {ROWS_MAX}")
    if faults:
        raise ConfigError("\n".join(faults), hint="a row is scope,ENV_KEY,REF; mend the named lines")
    return list(rows.values())


def _cells(text: str, source: str) -> Iterator[tuple[int, list[str]]]:
    if (odd := UNSEEN.search(text)) is not None:
        line = len(LINE.findall(text, 0, odd.start())) + 1
        raise ConfigError(f"{source}:{line}: character {odd.group()!r} does not belong into a map")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            trimmed = [cell.strip() for cell in cells]
            if not any(trimmed) or trimmed[0].startswith("#") or trimmed == HEADER:
                continue
            yield reader.line_num, trimmed
    except csv.Error as exc:
        raise ConfigError(f"{source}:{reader.line_num}: {exc}") from exc


def _row(cells: list[str], env: str) -> Row | str:
    """The row, or why it is none."""
    if len(cells) != len(HEADER):
        return f"{len(cells)} columns; there must be {len(HEADER)}: {','.join(HEADER)}"
    scope, key, ref = cells
    if not SCOPE.fullmatch(scope):
        return f"scope {scope!r}: letters, digits, hyphens, dots and underscores"
    if not KEY.fullmatch(key):
        return f"{key!r} is no name for an environment variable"
    words = {"env": env, "scope": scope, "env_key": key, "env_key_slug": key.lower().replace("_", "-")}
    if unknown := [name for name in PLACEHOLDER.findall(ref) if name not in words]:
        return f"{key}: no placeholder {{{unknown[0]}}}; there are {', '.join(f'{{{word}}}' for word in words)}"
    filled = PLACEHOLDER.sub(lambda found: words[found[1]], ref)
    if not filled or len(filled) > REF_CHARS_MAX or not filled.isprintable() or set(filled) & set("{} "):
        return f"{key}: the reference is empty, too long, or has a character that no authority knows"
    return Row(scope, key, filled)
