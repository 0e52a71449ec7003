"""The operator's desk for holds: what stands, and new records put where the decision service looks for them (DEC-6)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from hyops.control import holding
from hyops.errors import NotApprovedError, UsageError
from hyops.model import ids
from hyops.model.hold import HOLD_MAX_S, HoldRecord, HoldStatement
from hyops.model.observed import Hold, Latch
from hyops.model.policy import ServicePolicy
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import ApprovalVerifier
from hyops.services.holds import HoldBook
from hyops.services.typed_words import refuse_unwritable


class HoldDesk:
    """Reads holds and what the loop did; writes holds only."""

    def __init__(
        self,
        store: RecordStore,
        policy: ServicePolicy,
        *,
        people: ApprovalVerifier,
        refusals: RecordStore,
        latch: Callable[[HoldBook], Latch | None],
        clock: Clock,
    ) -> None:
        self.policy = policy
        self._store, self._people, self._latch_of, self._clock = store, people, latch, clock
        self._book = HoldBook(store, policy, people=people, clock=clock, refusals=refusals, tell=False)

    def look(self) -> tuple[tuple[HoldRecord, ...], Hold | None, dict[str, str]]:
        """The holds of people that stand, the one that binds the loop now, and what changes nothing, with why."""
        self._book.refresh()
        return self._book.records(), self._book.hold_now(), self._book.without_effect

    def of_others(self) -> set[str]:
        """Those that change nothing here because they are about another service, as of the last look."""
        return self._book.elsewhere

    def latch(self) -> Latch | None:
        """The latch that stands."""
        self._book.refresh()
        return self._latch_of(self._book)

    def hold(self, *, signer: str, owner: str, reason: str, until: datetime) -> HoldStatement:
        """What a person signs to hold the service; UsageError when it is over already, or lasts too long."""
        now = self._clock.now()
        if until <= now:
            raise UsageError(f"a hold until {ids.stamp(until)} is over already: it is {ids.stamp(now)}")
        if until - now > timedelta(seconds=HOLD_MAX_S):
            raise UsageError(
                f"a hold lasts {HOLD_MAX_S / 86400:g} days at most, not until {ids.stamp(until)}",
                hint="hold it for less and say so again in time, or put the window into the policy's `maintenance`",
            )
        return self._said("hold", signer, owner, reason, until=until)

    def end(self, hold_id: str, *, signer: str, reason: str) -> HoldStatement:
        """What a person signs to end a hold that stands, by its id or the end of it."""
        records, _, _ = self.look()
        found = [record for record in records if record.hold_id.endswith(hold_id)]
        if len(found) != 1:
            stands = ", ".join(record.hold_id for record in records) or "none"
            raise UsageError(f"{len(found)} holds that stand end with {hold_id!r}; there is {stands}")
        return self._said("end", signer, signer, reason, ends=found[0].hold_id)

    def acknowledge(self, *, signer: str, reason: str) -> HoldStatement:
        """What a person signs to set the loop free again; UsageError when nothing is latched."""
        latch = self.latch()
        if latch is None:
            raise UsageError(
                f"{self.policy.service} is not latched: there is nothing to acknowledge", hint="see `hyops status`"
            )
        return self._said("acknowledge", signer, signer, reason, generation=latch.generation)

    def put(self, statement: HoldStatement, ssh_signature: str) -> HoldRecord:
        """Verify as the decision service will, then write; what would have no effect is not written.

        Nor is what would have none today and some tomorrow: an acknowledgement dated ahead would set the loop free
        after a switch that nobody has seen.
        """
        if (why := holding.unfit(statement, self.policy.service, self.policy.env, self._clock.now())) is not None:
            raise NotApprovedError(
                f"{why}: it changes nothing now, and here it is {ids.stamp(self._clock.now())}",
                hint="is that the time? Else set the clock that is wrong; then sign anew",
            )
        by = self._people.verify(statement.signer, statement.signed_bytes(), ssh_signature, statement.signed_at)
        if (why := holding.forbidden(statement, by.roles)) is not None:
            raise NotApprovedError(why, hint="ask one of the approvers, or have the role added to approvers.json")
        record = HoldRecord.signed(statement, ssh_signature)
        self._store.create(record.hold_id, record.encoded())
        return record

    def _said(
        self,
        verdict: holding.Verdict,
        signer: str,
        owner: str,
        reason: str,
        *,
        until: datetime | None = None,
        ends: str | None = None,
        generation: int | None = None,
    ) -> HoldStatement:
        if not reason.strip():
            raise UsageError("--reason is empty: say why, for whoever reads it at 03:00")
        for option, text, most in (("--reason", reason, 4096), ("--owner", owner, 256), ("--signer", signer, 256)):
            refuse_unwritable(option, text, most)
        return HoldStatement(
            verdict=verdict,
            signer=signer,
            owner=owner,
            service=self.policy.service,
            env=self.policy.env,
            reason=reason,
            signed_at=self._clock.now(),
            until=until,
            ends=ends,
            generation=generation,
        )
