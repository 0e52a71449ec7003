"""Run specs as the control loop would make them: approved and signed with seed keys, for any plan; for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from typing import Any

from hyops.model import canonical, ids
from hyops.model.approval import Approval, ApprovalStatement
from hyops.model.decision import Decision
from hyops.model.dispatch import DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.execution import ApprovalSummary, Execution
from hyops.model.plan import Plan, Step
from hyops.model.run import RunSpec
from hyops.model.vocabulary import DecisionType, ExecutionPlane, Level, Occasion, Phase, RequestStatus
from hyops.ports.bundle import BundleFile
from hyops.testing.evidence import APPROVER, STAGES, SeedApprovals

RUNNER = "cloud-runner"


def step(name: str, *requires: str, module: str = "test/step", phase: Phase = Phase.PREPARE, **more: object) -> Step:
    """One step of a test plan."""
    body = {"id": name, "module_ref": module, "phase": str(phase), "requires": list(requires), **more}
    return Step.of(body)


def plan_of(steps: Sequence[Step], *, service: str = "pg", inputs: dict[str, object] | None = None) -> Plan:
    """A plan of these steps for `pg` on the runner `cloud-runner`."""
    return Plan(
        blueprint_ref="test/steps@v1",
        blueprint_digest=canonical.digest("test"),
        env="lab",
        service=service,
        decision_type=DecisionType.FAILOVER,
        runner_ref=RUNNER,
        execution_plane=ExecutionPlane.RUNNER_LOCAL,
        steps=list(steps),
        inputs=inputs or {},
    )


def bundle_of(files: Mapping[str, bytes]) -> dict[str, BundleFile]:
    """Files of a bundle that are in memory."""
    return {
        name: BundleFile(canonical.digest_bytes(data), len(data), partial(BytesIO, data))
        for name, data in files.items()
    }


def noop_plan() -> Plan:
    """One step that changes nothing."""
    return plan_of([step("nothing", module="native/noop")])


def spec_of(
    plan: Plan,
    *,
    at: datetime | None = None,
    epoch: int = 1,
    generation: int = 7,
    occasion: Occasion = Occasion.UNPLANNED,
    token: str = "",
    warnings: Sequence[str] = (),
    module: str | None = None,
) -> RunSpec:
    """A spec that a runner admits: decided, requested, approved and signed by the seed keys of the stages.

    `module`: the plan is of this single module, and so say the records.
    """
    target: dict[str, Any] = {"target_kind": "module" if module else "blueprint"}
    target["target_ref"] = module or plan.blueprint_ref
    at = at or datetime.now(UTC)
    until = at + timedelta(minutes=10)
    decision = sign_record(
        Decision(
            decision_id=ids.derived("decision", at, f"{plan.digest()}{token}", "failover"),
            decision_type=plan.decision_type,
            rationale="test",
            schema="hyops/decision/v1",
            timestamp_utc=at,
            expires_at=until,
            level=Level.TRIGGER,
            occasion=occasion,
            service=plan.service,
            generation=generation,
            env=plan.env,
        ),
        STAGES["decision"],
    )
    request = sign_record(
        DispatchRequest(
            dispatch_id=ids.derived("dispatch", at, decision.digest(), "failover"),
            timestamp_utc=at,
            expires_at=until,
            status=RequestStatus.AWAITING_APPROVAL,
            source_decision_id=decision.decision_id,
            source_decision_file=f"{decision.decision_id}.json",
            source_decision_digest=decision.digest(),
            source_decision_signed=True,
            decision_type=plan.decision_type,
            level=Level.TRIGGER,
            occasion=occasion,
            service=plan.service,
            generation=generation,
            execution_plane=plan.execution_plane,
            runner_ref=plan.runner_ref,
            **target,
            target_env=plan.env,
            plan_digest=plan.digest(),
            requires_approval=True,
            rationale="test",
            warnings=list(warnings),
        ),
        STAGES["dispatch"],
    )
    approval = approval_of(request, at)
    execution = sign_record(
        Execution(
            execution_id=ids.derived("execution", at, request.digest()),
            timestamp_utc=at,
            expires_at=until,
            source_dispatch_id=request.dispatch_id,
            source_request_digest=request.digest(),
            decision_type=plan.decision_type,
            occasion=occasion,
            service=plan.service,
            generation=generation,
            execution_plane=plan.execution_plane,
            runner_ref=plan.runner_ref,
            **target,
            target_env=plan.env,
            plan_digest=plan.digest(),
            rationale="test",
            approval=ApprovalSummary(
                required=True, approval_ids=[approval.approval_id], approved_by=[APPROVER], mode="signed"
            ),
        ),
        STAGES["approval"],
    )
    return RunSpec(
        run_id=execution.run_id(),
        epoch=epoch,
        service=plan.service,
        generation=generation,
        occasion=occasion,
        plan=plan,
        execution=execution,
        request=request,
        decision=decision,
        approvals=[approval],
    )


def reissued(
    spec: RunSpec, *, request: DispatchRequest, approvals: Sequence[Approval], summary: ApprovalSummary | None = None
) -> RunSpec:
    """The spec of another request, as the stages would have made it: signed again, with the run id that follows."""
    request = sign_record(request, STAGES["dispatch"])
    change = {"source_request_digest": request.digest(), "approval": summary or spec.execution.approval}
    execution = sign_record(spec.execution.model_copy(update=change), STAGES["approval"])
    more = {"request": request, "execution": execution, "approvals": list(approvals), "run_id": execution.run_id()}
    return spec.model_copy(update=more)


def approval_of(
    request: DispatchRequest, at: datetime, *, approver: str = APPROVER, verdict: str = "grant", **more: object
) -> Approval:
    """A signed statement about a request; `more` replaces fields of the statement."""
    body = {
        "schema": "hyops/approval/v1",
        "verdict": verdict,
        "approver": approver,
        "signed_at": at.isoformat(),
        "expires_at": (at + timedelta(hours=1)).isoformat(),
        "plan_digest": request.plan_digest,
        "dispatch_id": request.dispatch_id,
        "request_digest": request.digest(),
        "acknowledged_warnings": list(request.warnings),
        **more,
    }
    statement = ApprovalStatement.of({k: v for k, v in body.items() if v is not None})
    return Approval.signed(statement, SeedApprovals.sign(approver, statement.signed_bytes()))
