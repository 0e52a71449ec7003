"""Where records live: create-only, durable, watched (LOOP-1, LOOP-2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Created:
    """`made` is False when the id or the slot was taken: `record_id` is then the one that stands."""

    made: bool
    record_id: str


class RecordStore(Protocol):
    """One kind of record in one place. Bytes in, bytes out; parsing is the caller's."""

    def create(self, record_id: str, data: bytes, *, slot: str | None = None) -> Created:
        """Write durably, all or nothing, and never over another record.

        `slot` is a second name that only one record may ever hold (for example `pg-g7-failover`): it makes two
        writers with different ids agree. Creating the same id with the same bytes again is not an error.

        Raises:
            RecordError: the id exists with other bytes; or it has over 64 letters, a slot over 160, or such that are
                neither ASCII letters, digits nor one of `_.-`. What people name (hosts, services) may be as long as
                that itself, so no id is put together of such a name.
            PrerequisiteError: the store is full, read-only, gone or elsewhere; nothing was written. Or, with the effect
                `unknown`, the store was lost meanwhile: trying again is safe.
        """

    def read(self, record_id: str) -> bytes:
        """The bytes; raises KeyError when there is no such record."""

    def slot(self, slot: str) -> str | None:
        """The id that holds a slot."""

    def known(self, slot: str) -> str | None:
        """The same as of the last look, where asking costs a request: for who creates with that slot and hears then."""

    def complete(self) -> None:
        """Finish what writers began who died: what is not there afterwards appears by nobody but a writer who lives.

        Costs no look at the records where the last writer came to its end.

        Raises:
            PrerequisiteError: it cannot be done now, so nobody can tell what will appear.
        """

    def ids(self) -> list[str]:
        """Every complete record's id, oldest name first. Torn and temporary files are not records."""

    def changed(self, since: int) -> tuple[int, list[str]]:
        """A mark for the next call, and the ids that came, changed or went after the mark `since`; 0: from the start.

        Costs what is new, however many records there are. An id may be named more than once, or be gone again.
        """

    def faults(self) -> dict[str, str]:
        """Name -> why it is not a record (torn, empty, a link, foreign); left where it is for a person to look at."""

    def changes(self, rescan_s: float) -> AsyncIterator[list[str]]:
        """Yield ids as they appear: all known ones first, then new ones by event, with a rescan as safety net."""
