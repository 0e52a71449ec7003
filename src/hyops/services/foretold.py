"""What sets the loop free and was dated ahead when it was first seen: it never does, whatever the clock says (DEC-6).

Who signs chooses the date. The desk files nothing that is dated ahead, but a file may be laid into the folder by hand,
or be filed on a host whose clock is ahead, and would set the loop free on its date, by itself. So the decision service
refuses it for good: in memory at once, and in a record of its own, which outlives a restart and binds every host that
reads these records. The refusal is of the words that were signed: neither another name nor another signature over them
brings them back. Whoever means it says so again.

Holds are none of this. One that begins later is a maintenance window, and it binds only.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from hyops.control import holding
from hyops.errors import PrerequisiteError, RecordError, StoreLostError
from hyops.model import ids
from hyops.model.canonical import digest_bytes
from hyops.model.hold import HoldRecord
from hyops.model.refusal import Refusal
from hyops.ports.records import RecordStore
from hyops.ports.signer import Signer
from hyops.services.inbox import Inbox, NoStage, Refusals, slot_for

KIND = "hold"
RECORDED_MAX = 64  # refusals that one look writes; the rest are remembered, and recorded by the next ones


class Foretold:
    """Who has a `signer` refuses for good; without one what was refused is only read."""

    def __init__(self, refusals: RecordStore, signer: Signer | None) -> None:
        # Whose signature a refusal has does not matter to a reader: all that a forged one does is set nothing free.
        self._recorded = Inbox(refusals, Refusal, NoStage(), role=None)
        self._writer = Refusals(refusals, signer, "decision") if signer else None
        self._ahead: dict[str, str] = {}
        self._in_time: set[str] = set()

    def refused(self, records: Iterable[HoldRecord], now: datetime, proven: datetime | None) -> dict[str, str]:
        """Hold id -> why it never sets anything free; looked at as of now.

        Args:
            records: all that speak of one service; holds are passed over.
            now: the time here.
            proven: when something happened that is on record; a clock that is far behind that refuses nothing for
                good, so that a host that begins in 1970 does not do away with what people said this year.
        Raises:
            StoreLostError: what was refused before cannot be read now.
        """
        freeing = [record for record in records if record.statement.verdict != "hold"]
        if not freeing:
            return {}
        self._recorded.refresh()
        known = {refusal.subject_digest: refusal.reason for refusal in self._recorded.records()}
        behind = proven is not None and now + timedelta(seconds=holding.FUTURE_MAX_S) < proven
        found: dict[str, str] = {}
        written = 0
        for record in freeing:
            digest = digest_bytes(record.statement.signed_bytes())
            if digest not in known and digest not in self._ahead and digest not in self._in_time and not behind:
                self._first_look(record, digest, now)
            if digest in known or digest in self._ahead:
                found[record.hold_id] = known.get(digest) or self._ahead[digest]
            if digest in self._ahead and digest not in known and written < RECORDED_MAX:
                written += self._record(record, digest, now)
        return found

    def _first_look(self, record: HoldRecord, digest: str, now: datetime) -> None:
        """A statement that was in time once is not refused because the clock is set back later."""
        if not holding.ahead(record.statement, now):
            self._in_time.add(digest)
            return
        self._ahead[digest] = (
            f"it was signed in the future, at {ids.stamp(record.statement.signed_at)}, when it was first seen here at "
            f"{ids.stamp(now)}: it never counts; say it anew"
        )

    def _record(self, record: HoldRecord, digest: str, now: datetime) -> bool:
        """What cannot be recorded now (a full disk) is in memory, and tried again at the next look."""
        if self._writer is None:
            return False
        try:
            self._writer.record(
                slot_for("foretold", digest),
                kind=KIND,
                subject=record.hold_id,
                digest=digest,
                reason=self._ahead[digest],
                now=now,
            )
        except StoreLostError:
            raise
        except (PrerequisiteError, RecordError):
            return False
        return True
