"""What settles an execution that has no attempt yet: its attempt, or the refusal that closes it, and never both.

A refusal that stands is the end (INV-7): people were told so, and asked again. So nothing is closed for what is a fact
of this host and not of the execution; that waits until somebody mends it or until it has expired, and is said once, in
the journal and to `hyops explain`.
"""

from __future__ import annotations

import contextlib
from functools import partial

from hyops.control.execution import Done, Wait, attempt_id_of
from hyops.errors import HyopsError, PrerequisiteError, RecordError
from hyops.model import canonical
from hyops.model.base import Record, iso_utc
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.ports.clock import Clock
from hyops.ports.records import Created, RecordStore
from hyops.ports.starts import Hindrance, Rival, Starts
from hyops.services.execution_parts import ExecutionStores
from hyops.services.inbox import Inbox, Refusals, Rejected, slot_for
from hyops.services.loop import log
from hyops.services.noting import Notes
from hyops.services.standing import Standing

AT_ONCE = 16
"""Refusals of records that are not believed, in one pass: each is written durably, and they may be thousands."""
AT_WORK = Wait("somebody else settles it right now")
NO_POLICY = "name the service under `protected` in this executor's configuration, `hyops apply`; or leave it to another"
UNTOLD = "so nothing tells whether that run was started"
MEND = (
    "find out who changed that file and bring back the true one, or put the key that signed it into `trusted_keys`: "
    "the executor goes on by itself"
)


class Settling:
    """One executor's word on executions without an attempt."""

    def __init__(
        self, stores: ExecutionStores, refusals: Refusals, starts: Starts, clock: Clock, standing: Standing
    ) -> None:
        self._stores, self._refusals, self._starts, self._clock = stores, refusals, starts, clock
        self._standing = standing
        self._notes = Notes([])
        self._said: dict[str, Wait] = {}
        self._named: set[tuple[str, str]] = set()

    def begin(self, left: list[HyopsError]) -> None:
        """A pass begins: what kept a note of it from being written stands in `left`, and holds up nothing."""
        self._notes = Notes(left)

    def closed(self, execution: Execution) -> bool:
        """Whether it was refused for good, by whichever executor."""
        return self._refusals.has(_slot(execution))

    def attempt(self, execution: Execution, attempt: Attempt, slot: str) -> Created | None:
        """Record the attempt; None where a refusal closed it, or somebody else settles it right now.

        Raises:
            RecordError: other bytes stand in its place.
        """
        rival = Rival(self._stores.refusals, _slot(execution), by_slot=True)
        data = attempt.encoded()
        return self._starts.settle(
            _name(execution), self._stores.attempts, attempt.attempt_id, data, slot=slot, rival=rival
        )

    def refuse(self, execution: Execution, reason: str) -> bool:
        """Whether it is closed now; False: an attempt stands there, believed or not, or is made right now."""
        store, rival = self._stores.refusals, Rival(self._stores.attempts, _name(execution))
        made = self._refusals.record(
            _slot(execution),
            kind="execution",
            subject=execution.execution_id,
            digest=execution.digest(),
            reason=reason,
            now=self._clock.now(),
            create=lambda record, slot: self._settle(execution, store, record, slot, rival),
        )
        if made:
            log("execution refused", execution_id=execution.execution_id, reason=reason)
            self.unnote(execution.execution_id)
        return self.closed(execution)

    def closes_now(self, execution: Execution, reason: str) -> bool:
        """The same of one that nobody can judge; where that cannot be written now, a later pass does."""
        self._notes.write(partial(self.refuse, execution, reason))
        return self.closed(execution)

    def without_policy(self, execution: Execution) -> Wait | Done:
        """Until it expires, somebody may name its service here, and another executor may know it already."""
        reason = f"service {execution.service} has no policy here"
        if self.closed(execution):
            return Done()
        if self._clock.surely() >= execution.expires_at and self.refuse(execution, f"expired: {reason}"):
            return Done()
        return Wait(reason, NO_POLICY)

    def instead(self, execution: Execution, attempt_id: str) -> Wait:
        """What stands in the place of its attempt: another executor's, which the next pass follows, or a damaged one.

        That one holds up this execution alone.
        """
        self._standing.refresh()
        believed = self._standing.attempt(attempt_id) is not None
        return AT_WORK if believed else self.in_the_way(execution, attempt_id) or AT_WORK

    def behind(self, execution: Execution, attempt_id: str, holder: str, slot: str) -> Wait:
        """Whose run of the service goes first; one that is not believed here goes nowhere by itself."""
        if holder == attempt_id:
            return self.instead(execution, attempt_id)
        if self._standing.attempt(holder) is not None:
            return Wait(f"{holder} has the slot {slot}")
        return Wait(f"{holder} has the slot {slot}, and is damaged or not believed here", MEND)

    def in_the_way(self, execution: Execution, attempt_id: str) -> Wait | None:
        """What stands in the place of its attempt, refused once for these bytes, where it is not believed.

        Asked of who found no believed one there; None: nothing stands there.
        """
        try:
            there = canonical.digest_bytes(self._stores.attempts.read(attempt_id))
            why = f"{attempt_id} stands where its attempt belongs, and is damaged or not believed here"
        except KeyError:
            return None
        except RecordError as exc:
            there, why = canonical.digest_bytes(exc.message.encode()), exc.message
        slot = slot_for("bad", attempt_id, there)  # as `note_unbelieved`, whichever is first
        self.name(slot, "attempt", attempt_id, there, f"{execution.execution_id}: {why}")
        return Wait(f"{why}; {UNTOLD}", MEND)

    def note(self, slot: str, kind: str, subject: str, digest: str, reason: str) -> None:
        """As `name`; nothing waits until that can be written."""
        self._notes.write(partial(self.name, slot, kind, subject, digest, reason))

    def note_rejected(self, executions: Inbox[Execution]) -> None:
        """Refuse once each what lies among the executions and nobody here trusts."""
        for bad in executions.rejected():
            self.note(slot_for("bad", bad.name, bad.digest), "execution", bad.name, bad.digest, bad.reason)

    def note_unbelieved(self, attempts: Inbox[Attempt], outcomes: Inbox[AttemptOutcome]) -> None:
        """Refuse once each what lies among this stage's own records and nobody here trusts."""
        found = [("attempt", bad) for bad in attempts.rejected()] + [("outcome", bad) for bad in outcomes.rejected()]
        fresh = [(kind, bad) for kind, bad in found if (bad.name, bad.digest) not in self._named]
        for kind, bad in fresh[:AT_ONCE]:
            self._notes.write(partial(self._name_bad, kind, bad))

    def _name_bad(self, kind: str, bad: Rejected) -> None:
        self.name(slot_for("bad", bad.name, bad.digest), kind, bad.name, bad.digest, bad.reason)
        self._named.add((bad.name, bad.digest))

    def tell(self, execution: Execution, wait: Wait | None) -> None:
        """Say why it waits, once as long as it is the same; what takes a person is kept where `explain` finds it."""
        before = self._said.get(execution.execution_id)
        if wait == before:
            return
        if wait is None:
            del self._said[execution.execution_id]
        else:
            self._said[execution.execution_id] = wait
            log("execution waits", execution_id=execution.execution_id, reason=wait.reason, next=wait.mend)
        if wait is not None and wait.mend:
            self._note(execution.execution_id, Hindrance(iso_utc(self._clock.now()), "Waits", wait.reason, wait.mend))
        elif before is not None and before.mend:
            self.unnote(execution.execution_id)

    def forget(self, execution: Execution) -> None:
        """It is settled."""
        self.tell(execution, None)

    def unnote(self, execution_id: str) -> None:
        """Nothing is in its way: also what was noted before this process began."""
        self._note(execution_id, None)

    def _note(self, execution_id: str, by: Hindrance | None) -> None:
        with contextlib.suppress(PrerequisiteError):  # this host's own disk
            self._starts.hinder(execution_id, by)

    def _settle(
        self, execution: Execution, store: RecordStore, record: Record, slot: str, rival: Rival
    ) -> Created | None:
        return self._starts.settle(_name(execution), store, record.record_id, record.encoded(), slot=slot, rival=rival)

    def name(self, slot: str, kind: str, subject: str, digest: str, reason: str) -> None:
        """Record once why something is not acted on; that closes nothing."""
        made = self._refusals.record(
            slot, kind=kind, subject=subject, digest=digest, reason=reason, now=self._clock.now()
        )
        if made:
            log(f"{kind} refused", subject=subject, reason=reason)


def _slot(execution: Execution) -> str:
    return slot_for("closed", execution.digest())


def _name(execution: Execution) -> str:
    """The only attempt by which it would run; a dry run runs nothing."""
    return attempt_id_of(execution, "dispatch")
