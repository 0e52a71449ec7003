"""Frames between a dispatcher and a runner: one line of JSON, then as many raw bytes as its `bytes` says (RUN-11).

Standard library only: the runner's side is started for every connection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hyops import errors
from hyops.errors import HyopsError, RunnerUnreachableError

HEADER_MAX = 1024 * 1024
PAYLOAD_MAX = 64 * 1024 * 1024

JOURNAL_BITS = 26
"""Journal and log end at 64 MiB each, so both offsets fit into the one integer that `attach` hands out."""


def encode(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    value = {**header, "bytes": len(payload)} if payload else dict(header)
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n" + payload


def header_of(line: bytes) -> tuple[dict[str, Any], int]:
    """A header line and the length of the payload that follows.

    Raises:
        RunnerUnreachableError: the peer speaks nonsense, or announces more than the limit.
    """
    if len(line) > HEADER_MAX or not line.endswith(b"\n"):
        raise RunnerUnreachableError(f"a frame's header of {len(line)} bytes is torn or over {HEADER_MAX}")
    try:
        header = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise RunnerUnreachableError(f"a frame's header is not JSON: {line[:60]!r}") from exc
    if not isinstance(header, dict):
        raise RunnerUnreachableError("a frame's header is not an object")
    length = header.get("bytes", 0)
    if type(length) is not int or not 0 <= length <= PAYLOAD_MAX:
        raise RunnerUnreachableError(f"a frame announces {length!r} bytes; the limit is {PAYLOAD_MAX}")
    return header, length


def pack(journal: int, log: int) -> int:
    """Both offsets as one; callers treat it as opaque and hand it back."""
    return (journal << JOURNAL_BITS) | log


def unpack(offset: int) -> tuple[int, int]:
    """Journal and log offset."""
    return offset >> JOURNAL_BITS, offset & ((1 << JOURNAL_BITS) - 1)


def error_of(error: Mapping[str, Any]) -> HyopsError:
    """An error of the tree from the form that `HyopsError.as_json` gave it; an unknown one gets the nearest class.

    One that does not say what was touched may have touched anything: its effect is `unknown`.
    """
    kind = getattr(errors, str(error.get("error")), None)
    code = error.get("exit_code")
    if not (isinstance(kind, type) and issubclass(kind, HyopsError)):
        kind = errors.RefusedError if isinstance(code, int) and 10 <= code < 20 else errors.FailedError
    effect, facts = error.get("effect"), error.get("facts")
    known = {str(k): v for k, v in facts.items()} if isinstance(facts, dict) else {}
    return kind(
        str(error.get("message"))[:4000],
        hint=str(error.get("hint"))[:1000],
        effect=errors.Effect(effect) if effect in list(errors.Effect) else errors.Effect.UNKNOWN,
        **{k: v for k, v in known.items() if k not in ("self", "message", "hint", "effect")},
    )
