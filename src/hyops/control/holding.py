"""What a hold and a latch make of what the signals ask for: still noticed, still said, and not done (DEC-6).

Holds and latches bind the loop alone. A person's own request says why it goes on in spite of a hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from hyops.control.wanted import Wanted
from hyops.errors import PrerequisiteError
from hyops.model import ids
from hyops.model.hold import HoldRecord, HoldStatement
from hyops.model.observed import DecisionInputs, Hold
from hyops.model.vocabulary import DecisionType, Level, Occasion

Verdict = Literal["hold", "end", "acknowledge"]
MAINTENANCE = "maintenance"
ROLES = frozenset({"approver", "holder"})
"""Who may hold a service and end a hold."""
ACKNOWLEDGES = frozenset({"approver"})
"""Who may set the loop free again."""
FUTURE_MAX_S = 300.0  # a person's own clock may be a little ahead of ours, not more


@dataclass(frozen=True)
class Held:
    """What believed records say at one moment: the holds that stand, and what was acknowledged.

    `acknowledged`: generation -> when somebody last acknowledged the switch to it.
    """

    holds: tuple[HoldRecord, ...] = ()
    acknowledged: Mapping[int, datetime] = field(default_factory=dict)


def in_force(inputs: DecisionInputs) -> Hold | None:
    """The hold that binds these inputs' service now; one for another service, or one that is over, binds nobody."""
    hold = inputs.hold
    return hold if hold and hold.service == inputs.policy.service and inputs.at < hold.until else None


def held(inputs: DecisionInputs, wanted: Wanted | None) -> Wanted | None:
    """Under a hold a real loss becomes one `hold` that says what would have been done; all else can wait."""
    hold = in_force(inputs)
    if hold is None or wanted is None:
        return wanted
    if wanted.kind is DecisionType.HOLD or wanted.kind is DecisionType.BURST or wanted.occasion is Occasion.PLANNED:
        return None
    text = (
        f"held until {ids.stamp(hold.until)} by {hold.owner} ({hold.reason}); without that a {wanted.kind} "
        f"would {'be denied' if wanted.deny else 'have been decided'}: {wanted.rationale}"
    )
    return Wanted(DecisionType.HOLD, text[:4096], MAINTENANCE, confidence=wanted.confidence)


def latched(inputs: DecisionInputs, wanted: Wanted | None) -> Wanted | None:
    """After an automatic failover nothing is triggered until a person acknowledges it: the next is recommended."""
    latch, policy = inputs.latch, inputs.policy
    if wanted is None or latch is None or policy.latch is False or latch.generation != inputs.mode.generation:
        return wanted
    if wanted.kind is DecisionType.BURST:
        return None
    if wanted.kind is DecisionType.HOLD or (wanted.level or policy.level) is not Level.TRIGGER:
        return wanted
    text = (
        f"{wanted.rationale}; recommended only: nobody has acknowledged the automatic switch to generation "
        f"{latch.generation} ({latch.decision_id or 'whose decision is not here'})"
    )
    return replace(wanted, rationale=text[:4096], level=Level.RECOMMEND)


def despite(hold: Hold | None, reason: str | None, rationale: str, at: datetime) -> str:
    """The rationale of what a person asks for, with why it goes on in spite of the hold that stands.

    Raises:
        PrerequisiteError: a hold stands, and the person gives no reason, or one of blanks.
    """
    if hold is None or at >= hold.until:
        return rationale
    if not (reason or "").strip():
        raise PrerequisiteError(
            f"{hold.service} is held until {ids.stamp(hold.until)} by {hold.owner}: {hold.reason}",
            hint="ask the owner, or say why it cannot wait with --despite-hold REASON, which approvers see",
        )
    return f"{rationale}; despite the hold of {hold.owner} until {ids.stamp(hold.until)} ({hold.reason}): {reason}"


def unfit(said: HoldStatement, service: str, env: str, now: datetime, surely: datetime | None = None) -> str | None:
    """Why a statement says nothing about this service now, before anybody looks at its signature; None when it does.

    `surely`: what has passed for certain, where that is not `now`; no hold is over, and nothing sets free, before that.
    """
    if (said.service, said.env) != (service, env):
        return f"it is about {said.service} in {said.env}, not {service} in {env}"
    if ahead(said, now if said.verdict == "hold" else surely or now):
        return f"it was signed in the future, at {ids.stamp(said.signed_at)}"
    if said.until is not None and said.until <= (surely or now):
        return f"it was over at {ids.stamp(said.until)}"
    return None


def ahead(said: HoldStatement, now: datetime) -> bool:
    """Whether it is dated later than anybody's clock may be ahead of ours."""
    return said.signed_at > now + timedelta(seconds=FUTURE_MAX_S)


def forbidden(said: HoldStatement, roles: Collection[str]) -> str | None:
    """Why whoever signed may not say that; None when he may."""
    needed = ACKNOWLEDGES if said.verdict == "acknowledge" else ROLES
    if needed & set(roles):
        return None
    return f"{said.signer} has none of the roles {', '.join(sorted(needed))}"


def standing(believed: Iterable[HoldRecord]) -> Held:
    """What stands of records that are all believed, in whatever order they come."""
    records = list(believed)
    ended = {record.statement.ends for record in records}
    holds = [r for r in records if r.statement.verdict == "hold" and r.hold_id not in ended]
    said = sorted((r.statement for r in records if r.statement.verdict == "acknowledge"), key=lambda s: s.signed_at)
    acknowledged = {statement.generation or 0: statement.signed_at for statement in said}
    return Held(tuple(sorted(holds, key=lambda r: r.hold_id)), acknowledged)


def hold_of(record: HoldRecord) -> Hold:
    """The hold of a record, as decisions keep it."""
    said = record.statement
    assert said.until is not None
    return Hold(service=said.service, owner=said.owner, reason=said.reason, until=said.until, hold_id=record.hold_id)
