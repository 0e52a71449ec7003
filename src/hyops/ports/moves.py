"""A place that holds the records of a whole loop, as a move from one to another sees it (LOOP-3)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hyops.ports.starts import Remembered

Kind = tuple[str, str]
"""Stage and kind: `("dispatch", "requests")`."""


@dataclass(frozen=True)
class Held:
    """One kind of record in one place: id -> bytes, slot -> id, and what lies there and is no record."""

    records: dict[str, bytes]
    slots: dict[str, str]
    faults: dict[str, str]


class RecordPlace(Protocol):
    """Files below the homes, or a prefix of etcd. Every call raises PrerequisiteError where the place is not usable."""

    name: str

    def closed(self) -> str | None:
        """What the sign says that keeps stages and commands away from here; None: there is none."""

    def close(self, words: str) -> None:
        """Put the sign up, durably; no record is created here from then on. Repeating it changes the words."""

    def signs(self) -> set[str | None]:
        """What the signs say at all of its parts; with None where a part has none."""

    def open(self) -> None:
        """Take the sign away."""

    def serving(self) -> list[str]:
        """Who runs on these records now, for a person to stop."""

    def quiet(self) -> AbstractContextManager[None]:
        """Nobody writes here meanwhile but this process; refused while somebody serves."""

    def kinds(self) -> list[Kind]:
        """Every kind that has been written here, sorted."""

    def held(self, kind: Kind) -> Held:
        """All of one kind; nothing for a kind that was never written."""

    def add(self, kind: Kind, record_id: str, data: bytes, slot: str | None) -> bool:
        """Create one record, also behind the sign; False when these very bytes are there.

        Raises:
            RecordError: another record has the id or the slot.
        """

    def where(self, kind: Kind, record_id: str) -> str:
        """Where a person finds one record."""

    def set_aside(self, kind: Kind, records: Sequence[str], slots: Sequence[str]) -> dict[str, str]:
        """Take these out of the records, and keep them: record, or `slot <slot>`, -> where it is now.

        For a place behind its sign.
        """

    def remembered(self) -> Remembered:
        """What the executors of this place remember beside the records."""

    def remember(self, known: Remembered) -> None:
        """Know all of that here too, durably; what is known already stays."""
