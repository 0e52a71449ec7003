"""RTA and RPA from the records, per phase (EVD-1).

Only differences of two stamps of one clock are used: the control host's for detection, hand-over and the end; the
runner's for what happened inside the run. What lies between the two clocks counts against us.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.evidence import Actuals, Loss, Objectives, Verdict
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.observed import DecisionInputs
from hyops.model.plan import Plan
from hyops.model.run import RunResult
from hyops.model.vocabulary import CheckStatus, Outcome, Phase


def measure(
    *,
    decision: Decision | None,
    request: DispatchRequest | None,
    execution: Execution | None,
    attempt: Attempt | None,
    plan: Plan | None,
    result: RunResult | None,
    outcome: AttemptOutcome | None,
    loss: Loss | None = None,
    inputs: DecisionInputs | None = None,
) -> Actuals:
    """What was achieved; a part that nothing measured is absent, never zero.

    Args:
        inputs: what the decision was computed from, with the policy and its objectives; without it nothing was
            promised, and the window before the confirmation is not counted.
        (others): the records of one attempt, whatever exists of them.
    """
    policy = inputs.policy if inputs else None
    objectives = Objectives(rto_s=policy.rto_s, rpo_s=policy.rpo_s) if policy else Objectives()
    failed_at = first_failed(decision, inputs)
    begin = failed_at or (attempt.timestamp_utc if attempt else None)
    upper, lower = _recovery(begin, attempt, plan, result, outcome)
    stamps = [
        ("detect and decide", failed_at, decision.timestamp_utc if decision else None),
        ("dispatch", decision.timestamp_utc if decision else None, request.timestamp_utc if request else None),
        ("approve", request.timestamp_utc if request else None, execution.timestamp_utc if execution else None),
        ("start", execution.timestamp_utc if execution else None, attempt.timestamp_utc if attempt else None),
        ("run and collect", attempt.timestamp_utc if attempt else None, outcome.timestamp_utc if outcome else None),
    ]
    rpa_s = None if loss is None else 0.0 if loss.lost == 0 and loss.rpa_s is None else loss.rpa_s
    return Actuals(
        objectives=objectives,
        first_failed_at=failed_at,
        measured_from="first-failed-signal" if failed_at else "attempt" if attempt else "nothing",
        rta_s=upper,
        rta_at_least_s=lower,
        rto=_verdict(objectives.rto_s, upper, lower),
        rpa_s=rpa_s,
        rows_lost=loss.lost if loss else None,
        rpo=_verdict(objectives.rpo_s, rpa_s, rpa_s),
        control_s={name: _span(a, b) for name, a, b in stamps if a is not None and b is not None},
        phases_s=dict(result.phases_s) if result else {},
    )


def first_failed(decision: Decision | None, inputs: DecisionInputs | None) -> datetime | None:
    """When the first signal failed that still failed at the decision, on the decision service's clock.

    Only signals about the primary that carry weight count: one that is watched without weight may be bad for days.
    """
    if decision is None:
        return None
    stamps = [c.sampled_at for c in decision.checks if c.status is CheckStatus.BAD and c.sampled_at is not None]
    if inputs is not None and stamps:
        weighty = {s.name for s in inputs.policy.signals if s.about == "primary" and s.weight > 0}
        last = [series.spans[-1] for series in inputs.series if series.signal in weighty]
        since = [span.since_s for span in last if span.status is CheckStatus.BAD]
        if since:
            return inputs.at - timedelta(seconds=max(0.0, inputs.now_s - min(since)))
    return min(stamps, default=None)


def traffic_verified_at(plan: Plan | None, result: RunResult | None) -> datetime | None:
    """The end of the last step of the traffic phase, on the runner's clock; None unless all of them succeeded."""
    if plan is None or result is None:
        return None
    steps = {step.id for step in plan.steps if step.phase is Phase.TRAFFIC}
    done = [s for s in result.steps if s.step_id in steps and s.outcome is Outcome.SUCCEEDED]
    return max((s.ended_at for s in done), default=None) if len(done) == len(steps) else None


def _recovery(
    begin: datetime | None,
    attempt: Attempt | None,
    plan: Plan | None,
    result: RunResult | None,
    outcome: AttemptOutcome | None,
) -> tuple[float | None, float | None]:
    served_at = traffic_verified_at(plan, result)
    if begin is None or attempt is None or result is None or outcome is None or served_at is None:
        return None, None
    after_traffic = _span(served_at, result.ended_at)
    upper = max(0.0, round(_span(begin, outcome.timestamp_utc) - after_traffic, 6))
    lower = round(_span(begin, attempt.timestamp_utc) + _span(result.started_at, served_at), 6)
    return upper, min(upper, lower)


def _span(start: datetime, end: datetime) -> float:
    return max(0.0, round((end - start).total_seconds(), 6))


def _verdict(objective: float | None, upper: float | None, lower: float | None) -> Verdict:
    if objective is None:
        return "no-objective"
    if upper is None or lower is None:
        return "unproven"
    return "met" if upper <= objective else "missed" if lower > objective else "unproven"
