"""What people said about holding a service, read from their records: believed, or told and without effect (DEC-6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from hyops.control import holding
from hyops.control.holding import Held
from hyops.control.maintenance import check_zones, window_now
from hyops.errors import NotApprovedError, PrerequisiteError
from hyops.model.hold import HoldRecord
from hyops.model.observed import Hold
from hyops.model.policy import ServicePolicy
from hyops.ports.clock import Clock
from hyops.ports.records import RecordStore
from hyops.ports.signer import ApprovalVerifier, Signer
from hyops.services.foretold import Foretold
from hyops.services.inbox import Inbox, NoStage
from hyops.services.loop import log

VERIFIED_FOR_S = 60.0  # a key that is revoked stops counting after this long at the latest
FLOOD_HOLDS_S = 3600.0  # as long as it is looked at again within that time, it goes on
SPEAKING_MAX = 256  # records whose words fit; each costs a verification, and more than this is a mistake or an attack


@dataclass
class _Judged:
    """What was found of one record's signature, and when. `why` None: it is good."""

    why: str | None
    at_s: float


class HoldBook:
    """The holds and acknowledgements of one service. `refresh` reads and verifies; the rest only looks."""

    def __init__(
        self,
        store: RecordStore,
        policy: ServicePolicy,
        *,
        people: ApprovalVerifier | None,
        clock: Clock,
        refusals: RecordStore,
        signer: Signer | None = None,
        tell: bool = True,
    ) -> None:
        """`refusals`: of the decision service, which writes there with its `signer`; others read.

        Raises ConfigError: this host does not know the time zone of a window of the policy.
        """
        check_zones(policy.maintenance or [], source=f"policy of {policy.service}")
        self._inbox = Inbox(store, HoldRecord, NoStage(), role=None)  # people sign these; judged below
        self._policy, self._people, self._clock = policy, people, clock
        self._tell = tell
        self._foretold = Foretold(refusals, signer)
        self._judged: dict[tuple[str, str], _Judged] = {}
        self._told: set[tuple[str, str]] = set()
        self._held, self._flooded = Held(), False
        self.without_effect: dict[str, str] = {}
        """Name of a file -> why it changes nothing, as of the last `refresh`."""
        self.over: set[str] = set()
        """Those of them that are only over: what everybody expects."""
        self.elsewhere: set[str] = set()
        """Those of them that are about another service or environment."""

    def refresh(self, proven: datetime | None = None) -> None:
        """Read what is new, verify what speaks of this service, and tell once of what changes nothing.

        `proven`: the latest time of what is on record of the service, by which a clock that is far behind is told.
        """
        self._inbox.refresh()
        found = {bad.name: bad.reason for bad in [*self._inbox.rejected(), *self._inbox.torn()]}
        service, env, now = self._policy.service, self._policy.env, self._clock.now()
        sure = self._clock.surely()  # no hold ends by a time that nobody confirmed
        speaking: list[HoldRecord] = []
        over: set[str] = set()
        elsewhere: set[str] = set()
        self._flooded = False
        records = self._inbox.records()
        standing = {r.hold_id for r in records if r.statement.until is not None and r.statement.until > sure}
        mine = [r for r in records if (r.statement.service, r.statement.env) == (service, env)]
        dated = [r for r in mine if not (sure < now and holding.ahead(r.statement, sure))]  # else nobody knows if ahead
        foretold = self._foretold.refused(dated, now, proven)
        for record in records:
            why = foretold.get(record.hold_id) or holding.unfit(record.statement, service, env, now, sure)
            if (record.statement.service, record.statement.env) != (service, env):
                elsewhere.add(record.hold_id)
            if record.statement.until is not None and record.statement.until <= sure:
                over.add(record.hold_id)
            if why is None and record.statement.ends is not None and record.statement.ends not in standing:
                over.add(record.hold_id)
                why = f"the hold {record.statement.ends} that it ends is over"
            if why is None and len(speaking) == SPEAKING_MAX:
                self._flooded = True
                why = f"more than {SPEAKING_MAX} records speak of {service}: end some, or remove what is none"
            if why is None:
                speaking.append(record)
            else:
                found[record.hold_id] = why
        believed = []
        for record in speaking:
            why = self._why_not(record)
            if why is None:
                believed.append(record)
            else:
                found[record.hold_id] = why
        self._judged = {key: self._judged[key] for key in self._judged if key[0] in {r.hold_id for r in speaking}}
        self._held, self.without_effect, self.over = holding.standing(believed), found, over
        self.elsewhere = elsewhere
        for told in sorted(found.items()):
            if self._tell and told not in self._told:
                self._told.add(told)
                log("hold without effect", service=service, hold=told[0], reason=told[1])
        self._told &= set(found.items())

    @property
    def acknowledged(self) -> Mapping[int, datetime]:
        """Generation -> when somebody last acknowledged the automatic switch to it."""
        return self._held.acknowledged

    def records(self) -> tuple[HoldRecord, ...]:
        """The holds of people that stand now, by id."""
        sure = self._clock.surely()
        return tuple(r for r in self._held.holds if r.statement.until is not None and sure < r.statement.until)

    def hold_now(self) -> Hold | None:
        """What binds the loop now: the record or the policy's window that lasts longest."""
        now, sure = self._clock.now(), self._clock.surely()
        standing = [holding.hold_of(record) for record in self.records()]
        for at in (now, sure) if sure < now else (now,):
            if (window := window_now(self._policy.service, self._policy.maintenance or [], at)) is not None:
                standing.append(window)
        if self._flooded:  # a hold could be among what was not looked at: a flood holds up, it sets nothing free
            why = f"more than {SPEAKING_MAX} records speak of holds: remove what is none"
            until = now + timedelta(seconds=FLOOD_HOLDS_S)
            standing.append(Hold(service=self._policy.service, owner="hyops", reason=why, until=until))
        return max(standing, key=lambda hold: hold.until, default=None)

    def _why_not(self, record: HoldRecord) -> str | None:
        """Why a record is not believed; a signature that was judged lately is not judged again.

        A hold is verified for the time at which it was signed: it does not lapse with the key of who made it, only
        with a key that is revoked; and it cannot have been signed long ago, for none lasts longer than `HOLD_MAX_S`.
        What sets the loop free must be good now, for who signs chooses the date. While nobody can be asked, a hold
        binds.
        """
        said, key, now_s = record.statement, (record.hold_id, record.digest()), self._clock.monotonic()
        before = self._judged.get(key)
        if before is not None and now_s - before.at_s < VERIFIED_FOR_S:
            return before.why
        if self._people is None:
            return "no `people` in the decision service's configuration: whose hold it is cannot be told"
        try:
            at = said.signed_at if said.verdict == "hold" else self._clock.now()
            by = self._people.verify(said.signer, said.signed_bytes(), record.ssh_signature, at)
        except NotApprovedError as exc:
            self._judged[key] = _Judged(exc.message, now_s)
        except PrerequisiteError as exc:
            if said.verdict == "hold" and (before is None or before.why is None) and record.misnamed() is None:
                return None  # it may be good, and what was good stays good
            if before is not None and before.why is None:
                return None
            return f"its signature cannot be verified now: {exc.message}"
        else:
            self._judged[key] = _Judged(holding.forbidden(said, by.roles) or record.misnamed(), now_s)
        return self._judged[key].why
