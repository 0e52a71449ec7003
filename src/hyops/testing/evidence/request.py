"""From the plan to the execution: what people were asked, what they said, and what was handed over."""

from __future__ import annotations

from datetime import datetime, timedelta

from hyops.model import canonical, ids
from hyops.model.approval import Approval, ApprovalStatement
from hyops.model.decision import Decision
from hyops.model.dispatch import ApprovalDemand, DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import ApprovalSummary, Execution
from hyops.model.plan import Plan, Step
from hyops.model.vocabulary import DecisionType, ExecutionPlane, Phase, RequestStatus
from hyops.testing.evidence.keys import APPROVER, STAGES, SeedApprovals


def switch_plan() -> Plan:
    """What is to be done, in seven steps from the fence to the count of what was lost."""

    def step(name: str, module: str, phase: Phase, *requires: str, optional: bool = False) -> Step:
        return Step(id=name, module_ref=f"native/{module}", phase=phase, requires=list(requires), optional=optional)

    return Plan(
        blueprint_ref="dr/postgresql-warm-promote@v1",
        blueprint_digest=canonical.digest("blueprint"),
        env="lab",
        service="pg",
        decision_type=DecisionType.FAILOVER,
        runner_ref="cloud-runner",
        execution_plane=ExecutionPlane.RUNNER_LOCAL,
        steps=[
            step("fence", "fence", Phase.PREPARE),
            step("promote", "postgresql-promote", Phase.DATA, "fence"),
            step("verify-target", "verify-write", Phase.DATA, "promote"),
            step("cutover", "dns-cutover", Phase.TRAFFIC, "verify-target"),
            step("verify-traffic", "verify-traffic", Phase.TRAFFIC, "cutover"),
            step("rejoin", "postgresql-follow", Phase.BACKUP, "verify-traffic", optional=True),
            step("count-loss", "count-loss", Phase.EVIDENCE, "verify-traffic", optional=True),
        ],
        inputs={"source": "onprem-db", "target": "cloud-db"},
    )


def request_for(decision: Decision, plan: Plan, start: datetime) -> DispatchRequest:
    """The decision routed to the cloud's runner, waiting for approval."""
    at = start + timedelta(seconds=1.24)
    record = DispatchRequest(
        dispatch_id=ids.derived("dispatch", at, decision.digest(), "failover"),
        timestamp_utc=at,
        expires_at=at + timedelta(minutes=10),
        status=RequestStatus.AWAITING_APPROVAL,
        source_decision_id=decision.decision_id,
        source_decision_file=f"{decision.decision_id}.json",
        source_decision_digest=decision.digest(),
        source_decision_signed=True,
        decision_type=decision.decision_type,
        level=decision.level,
        occasion=decision.occasion,
        service="pg",
        generation=7,
        execution_plane=ExecutionPlane.RUNNER_LOCAL,
        runner_ref="cloud-runner",
        target_kind="blueprint",
        target_ref=plan.blueprint_ref,
        target_env="lab",
        plan_digest=plan.digest(),
        requires_approval=True,
        approvals=ApprovalDemand(required=1),
        rationale=decision.rationale,
        requester=decision.requested_by or "decision-service",
        requester_key=decision.requester_key,
    )
    return sign_record(record, STAGES["dispatch"])


def approval_of(request: DispatchRequest, at: datetime) -> Approval:
    """Ada says yes, for an hour."""
    statement = ApprovalStatement(
        verdict="grant",
        approver=APPROVER,
        signed_at=at,
        expires_at=at + timedelta(hours=1),
        plan_digest=request.plan_digest,
        dispatch_id=request.dispatch_id,
        request_digest=request.digest(),
        note="site is dark, power company confirms",
    )
    return Approval.signed(statement, SeedApprovals.sign(APPROVER, statement.signed_bytes()))


def execution_of(request: DispatchRequest, plan: Plan, approval: Approval, at: datetime) -> Execution:
    """The approved request, for the executor."""
    record = Execution(
        execution_id=ids.derived("execution", at, request.digest()),
        timestamp_utc=at,
        expires_at=at + timedelta(minutes=10),
        source_dispatch_id=request.dispatch_id,
        source_request_digest=request.digest(),
        decision_type=request.decision_type,
        occasion=request.occasion,
        service="pg",
        generation=7,
        execution_plane=request.execution_plane,
        runner_ref="cloud-runner",
        target_kind="blueprint",
        target_ref=request.target_ref,
        target_env="lab",
        plan_digest=plan.digest(),
        rationale=request.rationale,
        approval=ApprovalSummary(
            required=True, needed=1, approval_ids=[approval.approval_id], approved_by=[APPROVER], mode="signed"
        ),
    )
    return sign_record(record, STAGES["approval"])
