"""A whole switch as signed records, with keys made from seeds: what evidence tests and page designers start from.

The approval verifier here is a fake: its "signature" is a digest. Nothing else is faked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hyops.model.approval import Approval
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.evidence import Loss
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.observed import DecisionInputs
from hyops.model.plan import Plan
from hyops.model.run import RunResult
from hyops.model.vocabulary import Outcome
from hyops.ports.transport import RunReturn
from hyops.testing.evidence.decision import SEEN, decision_of, inputs
from hyops.testing.evidence.keys import (
    APPROVALS,
    APPROVER,
    STAGES,
    START,
    VERIFIER,
    SeedApprovals,
    SeedSigner,
    SeedVerifier,
    base64_of,
)
from hyops.testing.evidence.request import approval_of, execution_of, request_for, switch_plan
from hyops.testing.evidence.run import attempt_of, journal_of, outcome_of, receipt, run_of

__all__ = [
    "APPROVALS",
    "APPROVER",
    "SEEN",
    "STAGES",
    "START",
    "VERIFIER",
    "SeedApprovals",
    "SeedSigner",
    "SeedVerifier",
    "Switch",
    "after",
    "attempt_of",
    "base64_of",
    "failover",
    "inputs",
    "journal_of",
    "receipt",
    "resign",
]


@dataclass(frozen=True)
class Switch:
    """The records of one switch, signed by their stages; fields are those that evidence takes."""

    decision: Decision
    inputs: DecisionInputs
    plan: Plan
    request: DispatchRequest
    approvals: tuple[Approval, ...]
    execution: Execution
    attempt: Attempt
    run_return: RunReturn
    outcome: AttemptOutcome
    attachments: Mapping[str, bytes] = field(default_factory=dict)


def failover(*, outcome: Outcome = Outcome.SUCCEEDED, approve_s: float = 0.041, start: datetime = START) -> Switch:
    """`pg` moves from the lost on-prem site to the cloud; with another outcome, its cutover step ended so.

    `start` is when the site was lost: records of long ago have expired for whoever judges them now.
    """
    known = inputs(start=start)
    return after(decision_of(known, start), known, outcome=outcome, approve_s=approve_s, start=start)


def after(
    decision: Decision,
    known: DecisionInputs,
    *,
    outcome: Outcome = Outcome.SUCCEEDED,
    approve_s: float = 0.041,
    start: datetime = START,
) -> Switch:
    """What a signed decision of `pg` led to, with the inputs that it was computed from."""
    plan = switch_plan()
    request = request_for(decision, plan, start)
    approval = approval_of(request, start + timedelta(seconds=1.31 + approve_s))
    execution = execution_of(request, plan, approval, start + timedelta(seconds=1.33 + approve_s))
    attempt = attempt_of(execution, start + timedelta(seconds=1.345 + approve_s))
    started = start + timedelta(seconds=1.48 + approve_s)
    loss = Loss(
        acknowledged=18342,
        surviving=18339,
        lost=3,
        how="exact",
        source="the client's ledger against the rows on cloud-db",
        in_doubt=1,
        rpa_s=0.014,
        client_gap_s=4.31 + approve_s,
        last_ack_at=start - timedelta(seconds=0.18),
        first_ack_at=start + timedelta(seconds=4.13 + approve_s),
    )
    run_return = run_of(attempt, plan, started, outcome, loss)
    closed = outcome_of(attempt, run_return.result)
    return Switch(
        decision,
        known,
        plan,
        request,
        (approval,),
        execution,
        attempt,
        run_return,
        closed,
    )


def resign(switch: Switch, result: RunResult, role: str = "runner:cloud-runner") -> Switch:
    """The same switch with another result, signed anew by the key of `role`."""
    signed = sign_record(result, STAGES[role])
    return replace(switch, run_return=replace(switch.run_return, result=signed))
