"""What a pull agent and its desk say to each other, and the desk to a dispatcher (RUN-11, ADR on pull mode).

The agent only asks: `wait` for channels to open, `in` for bytes to its server's input, `out` with bytes of its output.
Every byte has its place in its direction, and every opening its number: what comes twice is known by it and acts once.
The desk holds an answer until there is something to say, never longer than `hold_s`. Standard library only.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from hyops.errors import RunnerUnreachableError

PATH = "/pull/1/"
INSTANCE, DESK, CHANNEL, AT, END = "hyops-instance", "hyops-desk", "hyops-channel", "hyops-at", "hyops-end"
CHUNK_MAX = 512 * 1024
REPLY_MAX = 64 * 1024  # of a `wait`
CHANNELS_MAX = 24  # of one runner; a dispatch uses six
HOLD_MAX_S = 30.0
ID_MAX = 64

LINE_MAX = 4096
DATA, ENDED, LOST = b"D", b"E", b"L"
FRAME = struct.Struct(">cI")


def number(text: str | None, *, most: int = 2**53) -> int:
    """A decimal of a header.

    Raises:
        ValueError: missing, signed, padded or too large.
    """
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 16:
        raise ValueError(f"{str(text)[:40]!r} is no number")
    if (found := int(text)) > most:
        raise ValueError(f"{found} is over {most}")
    return found


def opened(data: bytes) -> tuple[str, list[int]]:
    """The answer to a `wait`: the desk's own name, and the numbers of channels to open, rising.

    Raises:
        ValueError: something else.
    """
    try:
        value: Any = json.loads(data)
        desk, channels = value["desk"], value["channels"]
    except (KeyError, TypeError, RecursionError) as exc:
        raise ValueError(f"no answer of a desk: {type(exc).__name__}") from exc
    if not isinstance(desk, str) or not 0 < len(desk) <= ID_MAX or not isinstance(channels, list):
        raise ValueError("no answer of a desk")
    if any(type(n) is not int or n < 1 for n in channels) or channels != sorted(set(channels)):
        raise ValueError("channels do not rise")
    return desk, channels


def frame(kind: bytes, body: bytes = b"") -> bytes:
    """One frame from the desk to a dispatcher."""
    return FRAME.pack(kind, len(body)) + body


def frame_of(head: bytes) -> tuple[bytes, int]:
    """Kind and length of a frame.

    Raises:
        RunnerUnreachableError: what speaks there is no desk.
    """
    kind, length = FRAME.unpack(head)
    if kind not in (DATA, ENDED, LOST) or length > CHUNK_MAX:
        raise RunnerUnreachableError("what answers on the desk's socket is no pull desk")
    return kind, length
