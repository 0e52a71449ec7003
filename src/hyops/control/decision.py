"""What should be done, from what was observed: a pure function that replays byte for byte (DEC-4, DEC-5, FAULTS 1-9).

What the signals ask for (`wanted`, `burst`) goes through holds and latches (`holding`). One decision per incident: its
slot counts up only when the one before is spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hyops.control.burst import burst
from hyops.control.checks import checks_of, votes_of
from hyops.control.giving_way import blocking
from hyops.control.holding import despite, held, in_force, latched
from hyops.control.standby import standby_decision
from hyops.control.wanted import Wanted, healed, lost_primary, way_back
from hyops.control.window import current
from hyops.errors import StaleGenerationError, UsageError
from hyops.model import canonical, ids
from hyops.model.decision import Decision, Scaling
from hyops.model.observed import Asked, DecisionInputs, Hold, Mode, Past
from hyops.model.policy import Member, ServicePolicy
from hyops.model.vocabulary import CheckStatus, DecisionType, DrMode, Level, Occasion, Outcome

SPENT = {Outcome.FAILED, Outcome.REFUSED, Outcome.CANCELLED, Outcome.SUCCEEDED}


@dataclass(frozen=True)
class Emission:
    """A decision to record, and the slot that only one decision may ever hold."""

    decision: Decision
    slot: str


def evaluate(inputs: DecisionInputs) -> Emission | None:
    """The one decision to record now, or None. The same inputs give the same bytes on every machine."""
    mode, policy = inputs.mode, inputs.policy
    if blocking(mode, Occasion.UNPLANNED):
        return None  # a run is under way, or nobody knows how one ended: its outcome speaks first
    target = next((m for m in policy.members if m.host != mode.primary), None)
    if target is None:
        return None
    votes = votes_of(inputs)
    wanted = lost_primary(inputs, votes)
    settled = mode.unserved is None and mode.open_attempt is None
    if wanted is None and settled:  # where nobody serves there is nobody to heal or to hand over
        wanted = healed(inputs, votes) or way_back(inputs, votes) or burst(inputs, votes)
    wanted = latched(inputs, held(inputs, wanted))
    if wanted is None:
        return None
    ordinal = _ordinal(inputs, wanted)
    return None if ordinal is None else _emission(inputs, wanted, ordinal, target)


def _ordinal(inputs: DecisionInputs, wanted: Wanted) -> int | None:
    """The number of this decision under its generation; None while the one before is not spent."""
    hold = wanted.kind is DecisionType.HOLD
    same = [p for p in inputs.past if (p.decision_type, p.reason_key or "") == (wanted.kind, wanted.key)]
    last = max(same, key=lambda p: p.ordinal, default=None)
    if wanted.kind is DecisionType.BURST and not _burst_due(inputs):
        return None
    if last is None:
        return 1
    if hold:
        incident_s = inputs.now_s - _incident_since(inputs)
        quiet_s = max(inputs.policy.cooldown_s, incident_s if wanted.key != "healed" else 0.0)
        return None if any(p.age_s <= quiet_s for p in same) else last.ordinal + 1
    return last.ordinal + 1 if wanted.scaling or _spent(last, inputs.policy.cooldown_s) else None


def _burst_due(inputs: DecisionInputs) -> bool:
    """Whether the burst before, either way, is spent: one step at a time, and the next after a rest."""
    rule = inputs.policy.burst
    steps = [past for past in inputs.past if past.decision_type is DecisionType.BURST]
    return rule is not None and all(_spent(past, rule.cooldown_s) for past in steps)


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


def _emission(inputs: DecisionInputs, wanted: Wanted, ordinal: int, target: Member) -> Emission:
    policy, mode = inputs.policy, inputs.mode
    slot = slot_of(policy.service, mode.generation, wanted.kind, wanted.key, ordinal)
    acts = wanted.kind is not DecisionType.HOLD
    level = wanted.level or policy.level
    decision = Decision(
        schema="hyops/decision/v1",
        decision_id=ids.derived("decision", inputs.at, f"{policy.env} {slot}", str(wanted.kind)),
        timestamp_utc=inputs.at,
        expires_at=inputs.at + timedelta(seconds=policy.decision_max_age_s),
        decision_type=wanted.kind,
        level=level,
        occasion=wanted.occasion,
        service=policy.service,
        generation=mode.generation,
        env=policy.env,
        incident=slot,
        dr_mode=DrMode.DENY if wanted.deny else (policy.dr_mode if acts and not wanted.scaling else None),
        requires_approval=not (acts and level is Level.TRIGGER and policy.requires_approval is False),
        rationale=wanted.rationale,
        confidence=wanted.confidence,
        checks=checks_of(inputs),
        inputs_digest=inputs_digest(inputs),
        scaling=wanted.scaling,
        **_place(policy, target, wanted.scaling),
        **(_effects(policy) if acts and not wanted.scaling else {}),
    )
    return Emission(decision, slot)


def _place(policy: ServicePolicy, target: Member, scaling: Scaling | None) -> dict[str, Any]:
    """Where it goes: a move to its member, a burst to where the policy buys capacity."""
    rule = policy.burst
    if scaling is not None and rule is not None:
        profile = rule.profiles[scaling.size_after]
        place = {"runner_ref": rule.runner_ref, "workload_profile_ref": profile}
        return place | {"target_cloud": rule.target_cloud, "execution_plane": rule.execution_plane}
    place = {"runner_ref": target.runner_ref, "execution_plane": policy.execution_plane}
    return place | {"target_cloud": target.target_cloud}


def _effects(policy: ServicePolicy) -> dict[str, Any]:
    """What the policy asks of the plan of a move (DEC-1a)."""
    return {
        "workload_profile_ref": policy.workload_profile_ref,
        "secondary_backup_copy_required": policy.secondary_backup_copy_required,
        "secret_sync_profile": policy.secret_sync_profile,
        "cutover_policy": policy.cutover_policy,
    }


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


def asked_inputs(
    policy: ServicePolicy, mode: Mode, asked: Asked, at: datetime, hold: Hold | None = None
) -> DecisionInputs:
    """What a person's decision is computed from: the policy with its objectives, where the service is and whether
    somebody holds it; no signal.

    `now_s` is 0: nothing in them is on a monotonic clock.
    """
    return DecisionInputs(at=at, now_s=0.0, policy=policy, mode=mode, hold=hold, asked=asked)


def operator_decision(inputs: DecisionInputs) -> Decision:
    """A switch that a person asks for: the same record, on the same path, always approved by people (APR-3).

    Raises:
        StaleGenerationError: a run is open, or nobody knows how one ended; a planned one: nobody serves.
        PrerequisiteError: a hold stands, and nobody says why it cannot wait for its end.
        UsageError: the move does not lead away from where the service is, or nobody asked for one.
    """
    policy, mode, asked, at = inputs.policy, inputs.mode, inputs.asked, inputs.at
    if asked is None:
        raise UsageError("nobody asked for a switch in these inputs")
    kind, occasion = asked.decision_type, asked.occasion
    if (why := blocking(mode, occasion)) is not None:
        raise StaleGenerationError(f"{policy.service}: {why}")
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
        dr_mode=policy.dr_mode,
        requires_approval=True,
        approvals_required=asked.approvals_required,
        rationale=despite(in_force(inputs), asked.despite_hold, asked.rationale, at)[:4096],
        inputs_digest=inputs_digest(inputs),
        requested_by=asked.requested_by,
        requester_key=asked.proof.key_fingerprint if asked.proof else None,
        sync_env=dict(asked.sync_env) if asked.sync_env else None,
        **_place(policy, target, None),
        **_effects(policy),
    )


def inputs_digest(inputs: DecisionInputs) -> str:
    """`sha256:<hex>` of the canonical inputs; their file has this name."""
    return canonical.digest(inputs.body())
