"""What must hold in every row of the table, whatever the policy says (INV-2, INV-5, DEC-3, DEC-4)."""

from __future__ import annotations

from collections.abc import Iterator

from hyops.control.checks import is_wal
from hyops.control.proof.bursts import of_burst
from hyops.control.proof.rules import Finding, Where
from hyops.control.proof.situation import BLOCKS, BURSTING, STAND_IN, UNCONFIRMED, Situation, look_of, means, places_of
from hyops.control.proof.table import PASTS, Row, acts
from hyops.model.decision import Decision
from hyops.model.policy import ServicePolicy, Signal
from hyops.model.vocabulary import CheckStatus, DecisionType, Level, Occasion


def broken(policy: ServicePolicy, row: Row) -> Iterator[Finding]:
    """Every claim that one row breaks."""
    if not acts(row.emission) or row.emission is None:
        return
    made, situation = row.emission.decision, row.situation
    told, burst = described(policy, row), made.decision_type is DecisionType.BURST
    for rule, where, message in (
        *_standing(situation, made),
        *_direction(policy, situation, made),
        *(of_burst(policy, situation, made) if burst else _of_switch(policy, situation, made)),
    ):
        yield Finding(rule, where, message, told)


def described(policy: ServicePolicy, row: Row) -> dict[str, str]:
    """A situation as people read it: only what is not well, by signal and vantage point."""
    situation = row.situation
    told = {
        f"{signal.name}@{vantage}": str(word)
        for signal, vantage in places_of(policy)
        if (word := situation.words.get((signal.name, vantage))) is not None
    }
    told["mode"] = situation.mode
    if situation.block != "none":
        told["standing"] = situation.block
    if policy.burst is not None:
        told["size"] = policy.burst.profiles[situation.size]
    if row.emission is None:
        told["decision"] = "nothing"
    else:
        told["decision"] = f"{row.verdict}: {row.emission.decision.rationale}"
    return told


def _standing(situation: Situation, made: Decision) -> Iterator[tuple[str, Where, str]]:
    if situation.block == BURSTING and made.occasion is not Occasion.UNPLANNED:
        yield "act/blocked", ("service",), f"a {made.occasion} {made.decision_type} is decided although a burst runs"
    if situation.block in BLOCKS:
        what = {"open": "a run is under way", "uncertain": "nobody knows how a run ended", "held": "a hold stands"}
        yield "act/blocked", ("service",), f"a switch is decided although {what[situation.block]}"
    if situation.block in PASTS:
        burst: Where = ("burst",) if made.decision_type is DecisionType.BURST else ()
        yield "act/repeated", (*burst, "cooldown_s"), f"the same is decided again: the first was {situation.block}"


def _direction(policy: ServicePolicy, situation: Situation, made: Decision) -> Iterator[tuple[str, Where, str]]:
    at = policy.preferred if situation.mode in {"home", "unserved"} else situation.mode
    others = {member.runner_ref for member in policy.members if member.host != at}
    if made.decision_type is not DecisionType.BURST and made.runner_ref not in others:
        yield "act/contradiction", ("members",), f"{at} is primary, and the target's runner is {made.runner_ref}"
    home = policy.member(policy.preferred).runner_ref
    if made.decision_type is DecisionType.FAILBACK and made.runner_ref != home:
        said = f"a failback to {policy.preferred} has the target of {made.runner_ref}, whose member is another one"
        yield "act/contradiction", ("members",), said
    if made.occasion is Occasion.PLANNED and made.level is Level.TRIGGER:
        yield "act/failback-alone", ("level",), f"a planned {made.decision_type} is triggered"


def witnesses(policy: ServicePolicy, situation: Situation) -> dict[str, list[Signal]]:
    """The vantage points that have a confirmed loss to tell, and by which signals with weight."""
    found: dict[str, list[Signal]] = {}
    for signal, vantage in places_of(policy):
        word = situation.words.get((signal.name, vantage))
        if _has_a_say(signal) and word is not None and means(signal, word) is CheckStatus.BAD:
            found.setdefault(vantage, []).append(signal)
    return found


def _primary(policy: ServicePolicy, situation: Situation) -> Iterator[tuple[str, Where, str]]:
    """An unplanned move rests on a confirmed loss, seen from more than one place by more than a port check."""
    found = witnesses(policy, situation)
    young = [
        signal.name
        for signal, vantage in places_of(policy)
        if signal.about == "primary" and situation.words.get((signal.name, vantage)) in UNCONFIRMED
    ]
    if not found and young:
        yield "act/unconfirmed", ("confirm_for_s",), f"a loss that {young[0]} has not confirmed moves the service"
    elif not found:
        yield "act/unknown", ("signals",), "no vantage point knows that the primary is lost, and the service is moved"
    elif len(found) == 1:
        (vantage,) = found
        yield "act/one-vantage", ("quorum",), f"{vantage} alone lost the primary, and the service is moved"
    looks = {look_of(signal) for signals in found.values() for signal in signals}
    if len(looks) == 1 and "postgresql" not in looks:
        (look,) = looks
        alike = [(i, s.name) for i, s in enumerate(policy.signals) if _has_a_say(s) and look_of(s) == look]
        said = f"{' and '.join(name for _, name in alike)} ({look}) alone {'say' if len(alike) > 1 else 'says'}"
        yield "act/one-signal", ("signals", alike[0][0]), f"{said} that the primary is lost, and the service is moved"


def _has_a_say(signal: Signal) -> bool:
    return signal.about == "primary" and bool(signal.vantages) and signal.weight > 0


def _of_switch(policy: ServicePolicy, situation: Situation, made: Decision) -> Iterator[tuple[str, Where, str]]:
    if made.occasion is Occasion.UNPLANNED:
        yield from _primary(policy, situation)
    yield from _target(policy, situation, made)


def _target(policy: ServicePolicy, situation: Situation, made: Decision) -> Iterator[tuple[str, Where, str]]:
    known = 0
    for index, signal in enumerate(policy.signals):
        if signal.about != "target":
            continue
        words = (situation.words.get((signal.name, vantage)) for vantage in signal.vantages or [STAND_IN])
        said = {means(signal, word) for word in words if word is not None}
        known += bool(said - {CheckStatus.UNKNOWN})
        if is_wal(signal) and made.occasion is Occasion.UNPLANNED and CheckStatus.OK in said:
            yield "act/wal-arriving", ("signals", index), f"{signal.name} says that WAL arrives, and it is promoted"
        if not is_wal(signal) and CheckStatus.BAD in said:
            yield "act/target-bad", ("signals", index), f"target check {signal.name} is bad, and it is promoted"
        if not said - {CheckStatus.UNKNOWN}:
            yield "act/target-unknown", ("signals", index), f"nothing is known of {signal.name}, and it is promoted"
    if known == 0 and not any(signal.about == "target" for signal in policy.signals):
        yield "act/target-unknown", ("signals",), "no signal is about the target, and it is promoted"
