"""The same bytes are read, digested and verified once per process, while schedules are played: only for simulations.

A schedule reads each record in six places, and thousands of schedules read the same ones. What is kept here is what
pure functions of bytes gave; nothing of it is a guard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hyops.model import canonical
from hyops.model.base import Part, Record
from hyops.testing.evidence import SeedVerifier

KEPT_MAX = 20_000


@contextmanager
def quick() -> Iterator[None]:
    """Everything played within costs a fraction."""
    if Part.__dict__["read"] is _READ:
        yield
        return
    before = (Part.__dict__["read"], Record.unsigned, Record.digest, SeedVerifier.verify, canonical._check)
    _fill(before)
    Part.read = _READ  # type: ignore[assignment,method-assign]  # a classmethod in a classmethod's place
    Record.unsigned = _unsigned  # type: ignore[method-assign]
    Record.digest = _digest  # type: ignore[method-assign]
    SeedVerifier.verify = _verify  # type: ignore[method-assign]
    canonical._check = _no_check
    try:
        yield
    finally:
        Part.read = before[0]  # type: ignore[method-assign]
        Record.unsigned = before[1]  # type: ignore[method-assign]
        Record.digest = before[2]  # type: ignore[method-assign]
        SeedVerifier.verify = before[3]  # type: ignore[method-assign]
        canonical._check = before[4]
        forget()


def forget() -> None:
    """Drop what is kept; the records of one schedule are of no use to the next."""
    _read_kept.clear()
    _bytes_kept.clear()
    _digest_kept.clear()
    if len(_verified) > KEPT_MAX:
        _verified.clear()


_real: list[Any] = []
_read_kept: dict[tuple[type, bytes], Any] = {}
_bytes_kept: dict[int, tuple[Record, bytes]] = {}
_digest_kept: dict[int, tuple[Record, str]] = {}
_verified: set[tuple[str, bytes, bytes]] = set()


def _fill(before: tuple[Any, ...]) -> None:
    _real[:] = before


def _read(cls: type[Part], data: bytes, *, source: str = "record") -> Any:
    if (kept := _read_kept.get((cls, data))) is None:
        kept = _read_kept[cls, data] = _real[0].__func__(cls, data, source=source)
    return kept


def _unsigned(self: Record) -> bytes:
    kept = _bytes_kept.get(id(self))
    if kept is None:
        kept = _bytes_kept[id(self)] = (self, _real[1](self))
    return kept[1]


def _digest(self: Record) -> str:
    kept = _digest_kept.get(id(self))
    if kept is None:
        kept = _digest_kept[id(self)] = (self, _real[2](self))
    return kept[1]


def _verify(self: SeedVerifier, keyid: str, data: bytes, signature: bytes) -> None:
    if (keyid, data, signature) not in _verified:
        _real[3](self, keyid, data, signature)
        _verified.add((keyid, data, signature))


def _no_check(value: Any, depth: int) -> None:
    """What the loop writes has a JSON form; `json` itself refuses what has none."""


_READ: Any = classmethod(_read)
Clear = Callable[[], None]
