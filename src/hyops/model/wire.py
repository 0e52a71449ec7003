"""Frames between a dispatcher and a runner: one line of JSON, then as many raw bytes as its `bytes` says (RUN-11).

Standard library only: the runner's side is started for every connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from hyops import errors
from hyops.errors import HyopsError, RunnerUnreachableError
from hyops.model import words

HEADER_MAX = 1024 * 1024
PAYLOAD_MAX = 64 * 1024 * 1024
CHUNK_MAX = 1024 * 1024
_ABORT = 0xFFFFFFFF
HINT_MAX, FACT_MAX, FACTS_MAX = 1000, 100, 100
NO_WORD = "it refused without a word"
MARK = "the other side says: "
_OURS = ("self", "message", "hint", "effect")

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

    One that does not say what was touched may have touched anything: its effect is `unknown`. The peer's words are
    shown without what would speak to a terminal; a hint that is not its class's own is marked as the peer's. Its bug
    is a failure here, and no bug of ours.
    """
    kind = getattr(errors, str(error.get("error")), None)
    code = error.get("exit_code")
    if not (isinstance(kind, type) and issubclass(kind, HyopsError)) or kind is HyopsError:
        kind = errors.RefusedError if type(code) is int and 10 <= code < 20 else errors.FailedError
    message, hint = error.get("message"), error.get("hint")
    effect, facts = error.get("effect"), error.get("facts")
    known = facts if isinstance(facts, dict) else {}
    return kind(
        words.shown("; ".join(message.split("\n"))) if isinstance(message, str) and message else NO_WORD,
        hint=_hint(hint, kind),
        effect=errors.Effect(effect) if effect in list(errors.Effect) else errors.Effect.UNKNOWN,
        **{words.shown(k, FACT_MAX): _fact(v) for k, v in list(known.items())[:FACTS_MAX] if k not in _OURS},
    )


def _hint(hint: object, kind: type[HyopsError]) -> str | None:
    if not isinstance(hint, str) or not hint.strip():
        return None  # the class's own
    return hint if hint == kind.hint else MARK + words.shown(hint.removeprefix(MARK), HINT_MAX)


def _fact(value: object) -> object:
    return value if value is None or isinstance(value, int | float) else words.shown(value)


class Chunks:
    """A stream of unknown length within a connection, read from the peer: pieces until an end or a word of giving up.

    `told` is called before each piece is waited for. Reads like a file; past the end it gives nothing.
    """

    def __init__(self, source: BinaryIO, told: Callable[[], None] = lambda: None) -> None:
        self._source, self._told = source, told
        self._piece, self._at = b"", 0
        self.ended = self.aborted = False

    def read(self, count: int) -> bytes:
        """So many bytes; fewer only at the end.

        Raises:
            RunnerUnreachableError: the link ended within, or the peer gave up, or it announces too much.
        """
        parts, left = [], count
        while left and not self.ended:
            if self._at == len(self._piece):
                self._next()
                continue
            part = self._piece[self._at : self._at + left]
            parts.append(part)
            self._at, left = self._at + len(part), left - len(part)
        return b"".join(parts)

    def drain(self) -> None:
        """Read away what still comes, so that the next request is found behind it.

        Raises:
            RunnerUnreachableError: nothing came for too long (`told` says so); there is no next request.
        """
        while not self.ended:
            try:
                self._next()
            except RunnerUnreachableError:
                if not self.ended:
                    raise

    def _next(self) -> None:
        self._told()
        head = self._source.read(4)
        length = int.from_bytes(head)
        self._piece, self._at = b"", 0
        if len(head) < 4 or length in (0, _ABORT):
            self.ended, self.aborted = True, len(head) < 4 or length == _ABORT
        elif length > CHUNK_MAX:
            self.ended = self.aborted = True
            raise RunnerUnreachableError(f"a piece of {length} bytes is over {CHUNK_MAX}")
        else:
            self._piece = self._source.read(length)
            if len(self._piece) < length:
                self.ended = self.aborted = True
        if self.aborted:
            self._piece = b""
            raise RunnerUnreachableError("the stream ended before its end: the other side gave up, or the link did")


def chunk(data: bytes) -> bytes:
    """One piece of a stream; an empty one ends it."""
    return len(data).to_bytes(4) + data


def abort() -> bytes:
    """Instead of the end: what was sent is not to be kept."""
    return _ABORT.to_bytes(4)
