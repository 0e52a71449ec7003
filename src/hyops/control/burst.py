"""Burst: one step of capacity out or in, from signals about pressure, while everything else is well (DEC-4, EXE-3).

Out needs enough weight of signals that stood under pressure for `confirm_for_s`; in needs every one of them to have
been well for `stable_for_s`, which is never shorter. A signal whose vantage points disagree, or of which nothing is
known, is neither. A service that is lost, away, latched, held or under way somewhere has no burst.
"""

from __future__ import annotations

from typing import Literal

from hyops.control.checks import CONFIRMING_SAMPLES_MIN, Vote, spans_of
from hyops.control.wanted import Wanted
from hyops.model.decision import Scaling
from hyops.model.observed import DecisionInputs
from hyops.model.policy import Burst, Signal
from hyops.model.vocabulary import CheckStatus, DecisionType, Direction, Level

Pressure = Literal["pressed", "relaxed", "neither"]


def burst(inputs: DecisionInputs, votes: list[Vote]) -> Wanted | None:
    """The step that is wanted now; `deny` names the check that forbids it."""
    rule = inputs.policy.burst
    if rule is None or not _quiet(inputs, votes):
        return None
    size = inputs.scale or 0
    found = {signal.name: _pressure(inputs, rule, signal) for signal in _signals(inputs)}
    pressed = sorted(name for name, state in found.items() if state == "pressed")
    weight = {signal.name: signal.weight for signal in _signals(inputs)}
    total = sum(weight.values())
    share = sum(weight[name] for name in pressed) / total if total else 0.0
    if pressed and share >= rule.confidence_min:
        return _out(inputs, rule, size, pressed, round(share, 4)) if size + 1 < len(rule.profiles) else None
    if size > 0 and found and all(state == "relaxed" for state in found.values()):
        text = f"no pressure for {rule.stable_for_s:g} s ({', '.join(sorted(found))})"
        return _step(inputs, rule, size, Direction.IN, text, 1.0)
    return None


def _quiet(inputs: DecisionInputs, votes: list[Vote]) -> bool:
    """Home serves, nobody has lost it, and no move waits for its end. Holds and latches are judged for all alike."""
    policy, mode = inputs.policy, inputs.mode
    if mode.primary != policy.preferred:
        return False
    if any(vote.state == "lost" for vote in votes) or sum(v.state == "sees" for v in votes) < policy.quorum:
        return False
    moves = [p for p in inputs.past if p.decision_type in (DecisionType.FAILOVER, DecisionType.FAILBACK)]
    return all(past.denied or past.expired or past.closed is not None for past in moves)


def _out(inputs: DecisionInputs, rule: Burst, size: int, pressed: list[str], share: float) -> Wanted | None:
    text = f"pressure for {rule.confirm_for_s:g} s by {', '.join(pressed)}"
    checked = [signal for signal in inputs.policy.signals if signal.name in rule.checks]
    for signal in checked:
        statuses = {span.status for span in spans_of(inputs, signal)}
        if CheckStatus.BAD in statuses:
            text = f"{text}; denied: target check {signal.name} is bad"
            return _step(inputs, rule, size, Direction.OUT, text, share, deny=True)
        if CheckStatus.OK not in statuses:
            text = f"{text}; nothing is known of target check {signal.name}"
            return Wanted(DecisionType.HOLD, text, "burst-unknown", confidence=share)
    return _step(inputs, rule, size, Direction.OUT, text, share)


def _step(
    inputs: DecisionInputs, rule: Burst, size: int, way: Direction, text: str, share: float, *, deny: bool = False
) -> Wanted:
    levels = list(Level)
    level = min(rule.level, inputs.policy.level, key=levels.index)  # never more than the service's own
    after = size + (1 if way is Direction.OUT else -1)
    return Wanted(
        DecisionType.BURST,
        f"{text}; scale {way} from {_profile(rule, size)} to {_profile(rule, after)}",
        str(way),
        deny=deny,
        confidence=share,
        level=level,
        scaling=Scaling(direction=way, size_before=size, size_after=after),
    )


def _profile(rule: Burst, size: int) -> str:
    """The name of a size; where the policy has fewer by now than are in use, it is told as what it is."""
    return rule.profiles[size] if size < len(rule.profiles) else f"step {size}, which the policy does not name any more"


def _signals(inputs: DecisionInputs) -> list[Signal]:
    return [signal for signal in inputs.policy.signals if signal.about == "pressure" and signal.weight > 0]


def _pressure(inputs: DecisionInputs, rule: Burst, signal: Signal) -> Pressure:
    spans = spans_of(inputs, signal)
    statuses = {span.status for span in spans}
    if len(spans) < max(len(signal.vantages), 1) or len(statuses) != 1:
        return "neither"  # somebody is silent, or they contradict each other
    lasting_s = inputs.now_s - max(span.since_s for span in spans)
    if statuses == {CheckStatus.BAD}:
        enough = min(span.count for span in spans) >= CONFIRMING_SAMPLES_MIN
        return "pressed" if enough and lasting_s >= rule.confirm_for_s else "neither"
    return "relaxed" if statuses == {CheckStatus.OK} and lasting_s >= rule.stable_for_s else "neither"
