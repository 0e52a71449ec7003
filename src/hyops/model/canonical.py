"""Canonical JSON and digests: the same value has the same bytes on every machine.

The form is RFC 8785 restricted to what hyops writes: sorted keys, no spaces, UTF-8, integers within 2**53, finite
floats in shortest form. `parse` refuses what two readers could read differently: duplicate keys, NaN, deep nesting.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from hyops.errors import RecordError

BYTES_MAX = 4 * 1024 * 1024  # a record is a few KB; anything larger is a mistake or an attack
DEPTH_MAX = 64
INTEGER_MAX = 2**53


def encode(value: Any) -> bytes:
    """The canonical bytes of a JSON value.

    Raises:
        RecordError: a float that is not finite, an integer beyond 2**53, half of a surrogate pair, or no JSON type.
    """
    _check(value, depth=0)
    return written(value)


def written(value: Any) -> bytes:
    """The same of a value that `parse` has just returned, or one made of its parts: they were checked there."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """`sha256:<hex>` over the canonical bytes of a JSON value."""
    return digest_bytes(encode(value))


def digest_bytes(data: bytes) -> str:
    """`sha256:<hex>` over raw bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse(data: bytes, *, source: str = "record", bytes_max: int = BYTES_MAX) -> Any:
    """Read JSON strictly; `source` names it in errors.

    Raises:
        RecordError: empty, too large, not UTF-8, not JSON, a duplicate key, NaN or Infinity, or nested too deep.
    """
    if not data.strip():
        raise RecordError(f"{source}: empty")
    if len(data) > bytes_max:
        raise RecordError(f"{source}: {len(data)} bytes, more than {bytes_max}")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        _check(value, depth=0)
    except UnicodeDecodeError as exc:
        raise RecordError(f"{source}: not UTF-8 at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise RecordError(f"{source}: line {exc.lineno}, column {exc.colno}: {exc.msg}") from exc
    except RecursionError as exc:
        raise RecordError(f"{source}: nested deeper than {DEPTH_MAX}") from exc
    except (RecordError, ValueError) as exc:
        raise RecordError(f"{source}: {exc}") from exc
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RecordError(f"key {key!r} stands twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise RecordError(f"{name} is not a JSON number")


def _check(value: Any, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise RecordError(f"nested deeper than {DEPTH_MAX}")
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _writable(value)
    elif isinstance(value, int):
        if abs(value) > INTEGER_MAX:
            raise RecordError(f"integer {value} is beyond 2**53")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise RecordError(f"{value} is not a finite number")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise RecordError(f"key {key!r} is not a string")
            _writable(key)
            _check(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item, depth + 1)
    else:
        raise RecordError(f"{type(value).__name__} has no JSON form")


def _writable(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as exc:  # what cannot be written must not be signed either
        raise RecordError(f"{text[:40]!r}: half of a surrogate pair is no character") from exc
