"""What should be done, from what was observed: a pure function that replays byte for byte (DEC-4, DEC-5, FAULTS 1-9).

A vantage point votes with the weights of its signals, and only when it judges itself healthy. A quorum of votes that
stood for `confirm_for_s` without a gap makes a failover; one voice, a standby that still receives WAL, or anything
unknown makes a `hold`; a degraded target makes a `deny` that names the check. One decision per incident: its slot
counts up only when the one before is spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from hyops.control.checks import Vote, checks_of, confidence_of, readiness, votes_of, wal_still_arrives
from hyops.control.standby import standby_decision
from hyops.control.window import current
from hyops.errors import StaleGenerationError, UsageError
from hyops.model import canonical, ids
from hyops.model.decision import Decision
from hyops.model.observed import Asked, DecisionInputs, Mode, Past
from hyops.model.policy import Member, ServicePolicy
from hyops.model.vocabulary import CheckStatus, DecisionType, DrMode, Level, Occasion, Outcome

SPENT = {Outcome.FAILED, Outcome.REFUSED, Outcome.CANCELLED, Outcome.SUCCEEDED}
PLANNED = "planned"
HEALED_WORTH_S = 2.0  # a shorter loss that never confirmed is not worth a record


@dataclass(frozen=True)
class Emission:
    """A decision to record, and the slot that only one decision may ever hold."""

    decision: Decision
    slot: str


@dataclass(frozen=True)
class _Wanted:
    kind: DecisionType
    rationale: str
    key: str = ""
    deny: bool = False
    confidence: float | None = None
    level: Level | None = None
    occasion: Occasion = Occasion.UNPLANNED


def evaluate(inputs: DecisionInputs) -> Emission | None:
    """The one decision to record now, or None. The same inputs give the same bytes on every machine."""
    mode, policy = inputs.mode, inputs.policy
    if mode.open_attempt or mode.uncertain:
        return None  # a run is under way, or nobody knows how one ended: its outcome speaks first
    if inputs.hold is not None and inputs.hold.service == policy.service and inputs.at < inputs.hold.until:
        return None
    target = next((m for m in policy.members if m.host != mode.primary), None)
    if target is None:
        return None
    votes = votes_of(inputs)
    wanted = _failover(inputs, votes)
    if wanted is None and mode.unserved is None:  # where nobody serves there is nobody to heal or to hand over
        wanted = _healed(inputs, votes) or _failback(inputs, votes)
    if wanted is None:
        return None
    ordinal = _ordinal(inputs, wanted)
    return None if ordinal is None else _emission(inputs, wanted, ordinal, target)


def _failover(inputs: DecisionInputs, votes: list[Vote]) -> _Wanted | None:
    policy = inputs.policy
    lost = [vote for vote in votes if vote.confirmed]
    if not lost:
        return None
    names = ", ".join(vote.vantage for vote in lost)
    since_s = inputs.now_s - max(vote.since_s for vote in lost)
    lasting = inputs.now_s - min(v.since_s for v in lost) >= 2 * policy.confirm_for_s
    confidence = confidence_of(inputs, votes)
    if len(lost) < policy.quorum:
        text = f"{len(lost)} of {policy.quorum} needed vantage points lost the primary ({names}): no quorum"
        return _Wanted(DecisionType.HOLD, text, "quorum", confidence=confidence) if lasting else None
    if confidence < policy.confidence_min:
        text = f"confidence {confidence:.2f} is under {policy.confidence_min:.2f} although {names} lost the primary"
        return _Wanted(DecisionType.HOLD, text, "confidence", confidence=confidence) if lasting else None
    if wal_still_arrives(inputs):
        text = f"{names} lost the primary, but the standby still receives WAL: the path is broken, not the primary"
        return _Wanted(DecisionType.HOLD, text, "path", confidence=confidence)
    ready = readiness(inputs)
    away = inputs.mode.primary != policy.preferred
    move = DecisionType.FAILBACK if away else DecisionType.FAILOVER  # the route's plan says from where to where
    text = f"{inputs.mode.primary} lost by {names} for {since_s:.1f} s"
    text = f"{text}; {inputs.mode.unserved}" if inputs.mode.unserved else text
    if ready.bad:
        text = f"{text}; denied: target check {ready.bad} is bad"
        return _Wanted(move, text, deny=True, confidence=confidence)
    if ready.unknown:
        text = f"{text}; nothing is known of target check {ready.unknown}"
        return _Wanted(DecisionType.HOLD, text, "target-unknown", confidence=confidence) if lasting else None
    return _Wanted(move, text, confidence=confidence)


def _healed(inputs: DecisionInputs, votes: list[Vote]) -> _Wanted | None:
    """A loss that a quorum saw and that ended before it was confirmed: say what would have happened, and when."""
    policy = inputs.policy
    losses: list[tuple[float, float]] = []
    for vote in votes:
        series = vote.heaviest
        if vote.state != "sees" or series is None or len(series.spans) < 2:
            continue
        bad, good = series.spans[-2], series.spans[-1]
        if bad.status is CheckStatus.BAD and good.status is CheckStatus.OK:
            losses.append((bad.since_s, good.since_s))
    worth_s = max(policy.confirm_for_s / 2, HEALED_WORTH_S)
    losses = [(a, b) for a, b in losses if worth_s <= b - a < policy.confirm_for_s]
    if len(losses) < policy.quorum:
        return None
    began_s, ended_s = min(a for a, _ in losses), max(b for _, b in losses)
    if any(past.age_s <= inputs.now_s - began_s for past in inputs.past):
        return None
    would = inputs.at + timedelta(seconds=began_s + policy.confirm_for_s - inputs.now_s)
    text = (
        f"{len(losses)} vantage points lost the primary for {ended_s - began_s:.1f} s and it came back; after "
        f"{policy.confirm_for_s:g} s, at {ids.stamp(would)}, a failover would have been decided"
    )
    return _Wanted(DecisionType.HOLD, text, "healed")


def _failback(inputs: DecisionInputs, votes: list[Vote]) -> _Wanted | None:
    """Away from home, and home is ready and both are stable: recommend the way back, never trigger it."""
    policy, mode = inputs.policy, inputs.mode
    if mode.primary == policy.preferred or policy.options.get("failback") == "never":
        return None
    stable = [v for v in votes if v.state == "sees" and inputs.now_s - v.stable_since_s >= policy.stable_for_s]
    ready = readiness(inputs)
    if len(stable) < policy.quorum or not ready.asked or ready.bad or ready.unknown:
        return None
    if inputs.now_s - ready.since_s < policy.stable_for_s or not wal_still_arrives(inputs, needed=False):
        return None
    text = f"{mode.primary} serves and {policy.preferred} follows, both stable for {policy.stable_for_s:g} s"
    level = policy.level if policy.level is Level.MONITOR else Level.RECOMMEND
    return _Wanted(DecisionType.FAILBACK, text, PLANNED, level=level, occasion=Occasion.PLANNED)


def _ordinal(inputs: DecisionInputs, wanted: _Wanted) -> int | None:
    """The number of this decision under its generation; None while the one before is not spent."""
    hold = wanted.kind is DecisionType.HOLD
    same = [p for p in inputs.past if (p.decision_type, p.reason_key or "") == (wanted.kind, wanted.key)]
    last = max(same, key=lambda p: p.ordinal, default=None)
    if last is None:
        return 1
    if hold:
        incident_s = inputs.now_s - _incident_since(inputs)
        quiet_s = max(inputs.policy.cooldown_s, incident_s if wanted.key != "healed" else 0.0)
        return None if any(p.age_s <= quiet_s for p in same) else last.ordinal + 1
    return last.ordinal + 1 if _spent(last, inputs.policy.cooldown_s) else None


def _spent(past: Past, cooldown_s: float) -> bool:
    if past.denied:
        return past.age_s >= cooldown_s
    if past.closed in SPENT:
        return past.closed_age_s is not None and past.closed_age_s >= cooldown_s
    return past.closed is None and past.expired and past.age_s >= cooldown_s


def _incident_since(inputs: DecisionInputs) -> float:
    since_s = inputs.now_s
    for signal in inputs.policy.signals:
        for series in inputs.series:
            if signal.about == "primary" and series.signal == signal.name:
                span = current(series, signal, inputs.now_s)
                if span is not None and span.status is CheckStatus.BAD:
                    since_s = min(since_s, span.since_s)
    return since_s


def _emission(inputs: DecisionInputs, wanted: _Wanted, ordinal: int, target: Member) -> Emission:
    policy, mode = inputs.policy, inputs.mode
    slot = slot_of(policy.service, mode.generation, wanted.kind, wanted.key, ordinal)
    acts = wanted.kind is not DecisionType.HOLD
    decision = Decision(
        schema="hyops/decision/v1",
        decision_id=ids.derived("decision", inputs.at, f"{policy.env} {slot}", str(wanted.kind)),
        timestamp_utc=inputs.at,
        expires_at=inputs.at + timedelta(seconds=policy.decision_max_age_s),
        decision_type=wanted.kind,
        level=wanted.level or policy.level,
        occasion=wanted.occasion,
        service=policy.service,
        generation=mode.generation,
        env=policy.env,
        incident=slot,
        target_cloud=target.target_cloud,
        dr_mode=DrMode.DENY if wanted.deny else (policy.dr_mode if acts else None),
        execution_plane=policy.execution_plane,
        runner_ref=target.runner_ref,
        requires_approval=True,
        rationale=wanted.rationale,
        confidence=wanted.confidence,
        checks=checks_of(inputs),
        inputs_digest=inputs_digest(inputs),
    )
    return Emission(decision, slot)


def slot_of(service: str, generation: int, kind: DecisionType, key: str, ordinal: int) -> str:
    """The name of an incident: only one decision may ever hold it."""
    return "-".join(part for part in (service, f"g{generation}", str(kind), key, str(ordinal)) if part)


def place_of(decision: Decision) -> tuple[int, str | None]:
    """Ordinal and key, as they stand at the end of `incident`."""
    head, _, number = (decision.incident or "").rpartition("-")
    start = slot_of(decision.service or "", decision.generation or 0, decision.decision_type, "", 0)[: -len("-0")]
    if not number.isdigit() or int(number) < 1 or not head.startswith(start):
        return 1, None
    return int(number), head.removeprefix(start).removeprefix("-") or None


def decision_of(inputs: DecisionInputs) -> Decision | None:
    """What these inputs give, whoever asked: the loop itself, or a person (DEC-5). None: nothing to be done."""
    if inputs.asked is not None:
        return operator_decision(inputs)
    if inputs.standby is not None:
        return standby_decision(inputs)
    emission = evaluate(inputs)
    return emission.decision if emission else None


def asked_inputs(policy: ServicePolicy, mode: Mode, asked: Asked, at: datetime) -> DecisionInputs:
    """What a person's decision is computed from: the policy with its objectives, and where the service is; no signal.

    `now_s` is 0: nothing in them is on a monotonic clock.
    """
    return DecisionInputs(at=at, now_s=0.0, policy=policy, mode=mode, asked=asked)


def operator_decision(inputs: DecisionInputs) -> Decision:
    """A switch that a person asks for: the same record, on the same path, always approved by people (APR-3).

    Raises:
        StaleGenerationError: a run is open, or nobody knows how one ended; a planned one: nobody serves.
        UsageError: the move does not lead away from where the service is, or nobody asked for one.
    """
    policy, mode, asked, at = inputs.policy, inputs.mode, inputs.asked, inputs.at
    if asked is None:
        raise UsageError("nobody asked for a switch in these inputs")
    kind, occasion = asked.decision_type, asked.occasion
    if mode.open_attempt or mode.uncertain:
        raise StaleGenerationError(mode.uncertain or f"attempt {mode.open_attempt} of {policy.service} is open")
    if mode.unserved is not None and occasion is Occasion.PLANNED:
        raise StaleGenerationError(
            f"{mode.unserved}, so nobody can hand over",
            hint=f"ask for an unplanned one, or give {mode.primary} its place back: `hyops fence readmit` there",
        )
    fitting = DecisionType.FAILOVER if mode.primary == policy.preferred else DecisionType.FAILBACK
    if kind is not fitting:
        raise UsageError(f"{mode.primary} is primary, so the way from there is a {fitting}, not a {kind}")
    target = next(member for member in policy.members if member.host != mode.primary)
    answers = f"{policy.env} {policy.service} g{mode.generation} {occasion} {asked.requested_by} {asked.rationale}"
    return Decision(
        schema="hyops/decision/v1",
        decision_id=ids.derived("decision", at, answers, str(kind)),
        timestamp_utc=at,
        expires_at=at + timedelta(seconds=policy.decision_max_age_s),
        decision_type=kind,
        level=Level.TRIGGER,
        occasion=occasion,
        service=policy.service,
        generation=mode.generation,
        env=policy.env,
        target_cloud=target.target_cloud,
        dr_mode=policy.dr_mode,
        execution_plane=policy.execution_plane,
        runner_ref=target.runner_ref,
        requires_approval=True,
        approvals_required=asked.approvals_required,
        rationale=asked.rationale,
        inputs_digest=inputs_digest(inputs),
        requested_by=asked.requested_by,
        sync_env=dict(asked.sync_env) if asked.sync_env else None,
    )


def inputs_digest(inputs: DecisionInputs) -> str:
    """`sha256:<hex>` of the canonical inputs; their file has this name."""
    return canonical.digest(inputs.body())
