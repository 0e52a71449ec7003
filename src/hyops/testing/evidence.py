"""A whole switch as signed records, with keys made from seeds: what evidence tests and page designers start from.

The approval verifier here is a fake: its "signature" is a digest. Nothing else is faked.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hyops.errors import NotApprovedError, RecordError
from hyops.model import canonical, ids
from hyops.model.approval import Approval, ApprovalStatement
from hyops.model.decision import Decision
from hyops.model.dispatch import ApprovalDemand, DispatchRequest
from hyops.model.dsse import sign_record
from hyops.model.evidence import Loss
from hyops.model.execution import ApprovalSummary, Attempt, AttemptOutcome, Execution
from hyops.model.fence import FenceReceipt, Observation
from hyops.model.observed import DecisionInputs, Mode, Series, Span
from hyops.model.plan import Plan, Step
from hyops.model.policy import ServicePolicy
from hyops.model.run import RunResult, StepOutcome
from hyops.model.signal import Check
from hyops.model.vocabulary import (
    CheckStatus,
    DecisionType,
    DrMode,
    ExecutionPlane,
    Level,
    Occasion,
    Outcome,
    Phase,
    ReceiptClass,
    RequestStatus,
    TargetCloud,
)
from hyops.ports.signer import ApproverSignature
from hyops.ports.transport import RunReturn

START = datetime(2026, 3, 14, 3, 0, 7, 210000, tzinfo=UTC)


class SeedSigner:
    """An Ed25519 key that is the same in every run; for tests only."""

    def __init__(self, name: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def keyid(self) -> str:
        """`sha256:<hex>` of the raw public key."""
        return canonical.digest_bytes(self.public)

    def sign(self, data: bytes) -> bytes:
        """The 64-byte signature."""
        return self._key.sign(data)


class SeedVerifier:
    """Trusts the given public keys with the given roles."""

    def __init__(self, keys: Mapping[bytes, frozenset[str]]) -> None:
        self._keys = {canonical.digest_bytes(raw): (raw, roles) for raw, roles in keys.items()}

    def verify(self, keyid: str, data: bytes, signature: bytes) -> None:
        """Return when good; raises RecordError."""
        if keyid not in self._keys:
            raise RecordError(f"key {keyid} is not trusted")
        try:
            Ed25519PublicKey.from_public_bytes(self._keys[keyid][0]).verify(signature, data)
        except InvalidSignature as exc:
            raise RecordError(f"key {keyid}: the signature is not over these bytes") from exc

    def roles(self, keyid: str) -> frozenset[str]:
        """What the key may sign."""
        return self._keys[keyid][1] if keyid in self._keys else frozenset()


class SeedApprovals:
    """Stands in for `ssh-keygen -Y verify`."""

    def __init__(self, *principals: str, roles: frozenset[str] = frozenset({"approver"})) -> None:
        self._principals, self._roles = principals, roles

    @staticmethod
    def sign(principal: str, data: bytes) -> str:
        """What the fake takes for a signature."""
        return f"fake {principal} {hashlib.sha256(principal.encode() + data).hexdigest()}"

    def verify(self, principal: str, data: bytes, ssh_signature: str, at: datetime) -> ApproverSignature:
        """Return who signed; raises NotApprovedError."""
        if principal not in self._principals:
            raise NotApprovedError(f"{principal} is not an allowed signer")
        if ssh_signature != self.sign(principal, data):
            raise NotApprovedError("the signature is not over these bytes")
        return ApproverSignature(principal, self._roles, f"SHA256:{principal}")


def base64_of(signer: SeedSigner) -> str:
    """The public key as `trusted_keys.json` holds it."""
    return base64.b64encode(signer.public).decode()


STAGES = {role: SeedSigner(role) for role in ("decision", "dispatch", "approval", "execution", "runner:cloud-runner")}
VERIFIER = SeedVerifier({signer.public: frozenset({role}) for role, signer in STAGES.items()})
APPROVER = "ada@example.org"
APPROVALS = SeedApprovals(APPROVER)


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
    return after(_decision(known, start), known, outcome=outcome, approve_s=approve_s, start=start)


def after(
    decision: Decision,
    known: DecisionInputs,
    *,
    outcome: Outcome = Outcome.SUCCEEDED,
    approve_s: float = 0.041,
    start: datetime = START,
) -> Switch:
    """What a signed decision of `pg` led to, with the inputs that it was computed from."""
    plan = _plan()
    request = _request(decision, plan, start)
    approval = _approval(request, start + timedelta(seconds=1.31 + approve_s))
    execution = _execution(request, plan, approval, start + timedelta(seconds=1.33 + approve_s))
    attempt = _attempt(execution, start + timedelta(seconds=1.345 + approve_s))
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
    run_return = _run(attempt, plan, started, outcome, loss)
    closed = _outcome(attempt, run_return.result)
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


SEEN = (("control", 0.0), ("witness", 0.07), ("cloud-runner", 0.19))
"""Who saw the primary fail first, and how long after START."""


def inputs(now_s: float = 501.2, start: datetime = START) -> DecisionInputs:
    """What the decision was computed from: three vantage points see the primary's port refuse since START."""
    member = {"port": 5432, "target_cloud": "none"}
    watched = [name for name, _ in SEEN]
    policy = {
        "api_version": "hybridops/v1",
        "kind": "ServicePolicy",
        "service": "pg",
        "env": "lab",
        "members": [
            {"host": "onprem-db", "site": "onprem", "address": "10.77.1.10", "runner_ref": "onprem-runner", **member},
            {"host": "cloud-db", "site": "cloud", "address": "10.77.2.10", "runner_ref": "cloud-runner", **member},
        ],
        "preferred": "onprem-db",
        "endpoint": {
            "name": "pg.lab.hyops.internal",
            "zone": "lab.hyops.internal",
            "authorities": ["10.77.3.20:53"],
            "tsig_key_name": "hyops-switch",
        },
        "lease": {"endpoints": ["http://10.77.3.10:2379"]},
        "signals": [{"name": "pg-write", "source": "postgresql", "vantages": watched}],
        "receipts": ["observed", "lease-expired"],
        "rto_s": 10.0,
        "rpo_s": 1.0,
    }
    series = [
        Series(
            signal="pg-write",
            vantage=vantage,
            spans=[
                Span(
                    status=CheckStatus.BAD,
                    since_s=500.0 + offset,
                    last_s=501.0 + offset,
                    count=4,
                    taken_at=start + timedelta(seconds=1.0 + offset),
                    reason="connection timed out after 0.7 s",
                )
            ],
        )
        for vantage, offset in SEEN
    ]
    return DecisionInputs(
        at=start + timedelta(seconds=1.2),
        now_s=now_s,
        policy=ServicePolicy.of(policy),
        mode=Mode(generation=7, primary="onprem-db"),
        series=series,
    )


def _decision(known: DecisionInputs, start: datetime) -> Decision:
    checks = [
        Check(
            name="pg-write",
            status=CheckStatus.BAD,
            value=None,
            threshold=1.0,
            comparator="gte",
            sampled_at=start + timedelta(seconds=1.0 + offset),
            age_s=0.21,
            vantage=vantage,
            reason="connection timed out after 0.7 s",
        )
        for vantage, offset in SEEN
    ]
    checks.append(
        Check(name="target-lag", status=CheckStatus.OK, value=0.0, threshold=1048576.0, comparator="lte", age_s=0.1)
    )
    at = start + timedelta(seconds=1.22)
    record = Decision(
        decision_id=ids.derived("decision", at, "pg-g7", "failover"),
        decision_type=DecisionType.FAILOVER,
        rationale="pg-write bad from 3 of 3 vantage points for 1.0 s; standby cloud-db is ready (lag 0 bytes)",
        checks=checks,
        schema="hyops/decision/v1",
        timestamp_utc=at,
        expires_at=at + timedelta(minutes=10),
        level=Level.TRIGGER,
        occasion=Occasion.UNPLANNED,
        service="pg",
        generation=7,
        target_cloud=TargetCloud.GCP,
        dr_mode=DrMode.WARM_PROMOTE,
        execution_plane=ExecutionPlane.RUNNER_LOCAL,
        runner_ref="cloud-runner",
        confidence=1.0,
        inputs_digest=canonical.digest(known.body()),
        env="lab",
    )
    return sign_record(record, STAGES["decision"])


def _plan() -> Plan:
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


def _request(decision: Decision, plan: Plan, start: datetime) -> DispatchRequest:
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
    )
    return sign_record(record, STAGES["dispatch"])


def _approval(request: DispatchRequest, at: datetime) -> Approval:
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
    signature = SeedApprovals.sign(APPROVER, statement.signed_bytes())
    approval_id = ids.derived("approval", at, canonical.digest_bytes(statement.signed_bytes()))
    return Approval(approval_id=approval_id, statement=statement, ssh_signature=signature)


def _execution(request: DispatchRequest, plan: Plan, approval: Approval, at: datetime) -> Execution:
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


def _attempt(execution: Execution, at: datetime) -> Attempt:
    record = Attempt(
        attempt_id=ids.derived("attempt", at, execution.digest()),
        run_id=execution.run_id(),
        timestamp_utc=at,
        status="dispatching",
        execution_mode="dispatch",
        source_execution_id=execution.execution_id,
        source_execution_digest=execution.digest(),
        source_dispatch_id=execution.source_dispatch_id,
        service="pg",
        generation=7,
        runner_ref="cloud-runner",
        plan_digest=execution.plan_digest,
    )
    return sign_record(record, STAGES["execution"])


def receipt(run_id: str, at: datetime) -> FenceReceipt:
    """A signed receipt of class `lease-expired` for onprem-db."""
    seen = [
        Observation(by="cloud-runner", how="lease-watch", saw="no holder of generation 7 is left", at=at),
        Observation(
            by="cloud-runner",
            how="write-probe",
            saw="10.77.1.10:5432 unreachable (proves nothing by itself)",
            at=at - timedelta(seconds=0.4),
        ),
    ]
    record = FenceReceipt(
        receipt_id=ids.derived("receipt", at, run_id),
        receipt_class=ReceiptClass.LEASE_EXPIRED,
        service="pg",
        host="onprem-db",
        generation=7,
        next_generation=8,
        target="cloud-db",
        run_id=run_id,
        issued_at=at,
        observations=seen,
        margin_s=0.25,
        limits="assumes that onprem-db's clock ran while it was cut off",
    )
    return sign_record(record, STAGES["runner:cloud-runner"])


def _run(attempt: Attempt, plan: Plan, started: datetime, outcome: Outcome, loss: Loss) -> RunReturn:
    lengths = {"fence": 1.62, "promote": 0.31, "verify-target": 0.04, "cutover": 0.06, "verify-traffic": 0.12}
    at = started + timedelta(seconds=0.08)
    steps: list[StepOutcome] = []
    phases: dict[str, float] = {}
    for step in plan.steps:
        length = lengths.get(step.id, 0.03)
        outputs: dict[str, Any] = {}
        ended = at + timedelta(seconds=length)
        if step.id == "fence":
            outputs = {"receipt": receipt(attempt.run_id, ended).body(), "generation_after": 8}
        elif step.id == "promote":
            outputs = {"primary_after": "cloud-db", "timeline": 2}
        elif step.id == "cutover":
            outputs = {"endpoint": {"name": "pg.lab.hyops.internal", "address": "10.77.2.10", "generation": 8}}
        elif step.id == "count-loss":
            outputs = {"loss": loss.body()}
        failed = step.id == "cutover" and outcome is not Outcome.SUCCEEDED
        idle = step.id == "rejoin"
        steps.append(
            StepOutcome(
                step_id=step.id,
                outcome=outcome if failed else Outcome.SUCCEEDED,
                changed=not idle,
                reason="old primary is unreachable; it comes up fenced" if idle else "refused" if failed else None,
                started_at=at,
                ended_at=ended,
                elapsed_s=length,
                outputs={} if failed else outputs,
            )
        )
        phases[str(step.phase)] = round(phases.get(str(step.phase), 0.0) + length, 3)
        at = ended
        if failed:
            break
    journal = _journal(attempt.run_id, started, steps)
    last = journal.split(b"\n")[-2]
    result = RunResult(
        run_id=attempt.run_id,
        runner_ref="cloud-runner",
        service="pg",
        generation_before=7,
        generation_after=8,
        primary_after="cloud-db",
        outcome=outcome,
        exit_code=0 if outcome is Outcome.SUCCEEDED else 20,
        reason=None if outcome is Outcome.SUCCEEDED else "promoted, not switched",
        started_at=started,
        ended_at=at + timedelta(seconds=0.02),
        steps=steps,
        journal_head=canonical.digest_bytes(last),
        journal_records=journal.count(b"\n"),
        plan_digest=plan.digest(),
        phases_s=phases,
        endpoints={"pg.lab.hyops.internal": {"address": "10.77.2.10", "port": 5432, "generation": 8}},
    )
    signed = sign_record(result, STAGES["runner:cloud-runner"])
    return RunReturn(signed, journal, b"03:00:08.6 fence: asking onprem-db\n03:00:10.2 fence: lease expired\n")


def _journal(run_id: str, started: datetime, steps: list[StepOutcome]) -> bytes:
    told: list[tuple[str, datetime, dict[str, Any]]] = [("run-opened", started, {"run_id": run_id, "epoch": 1})]
    for step in steps:
        told.append(("intent", step.started_at, {"step": step.step_id}))
        told.append(("outcome", step.ended_at, {"step": step.step_id, "outcome": str(step.outcome)}))
    told.append(("run-closed", steps[-1].ended_at, {"run_id": run_id}))
    prev, lines = "sha256:" + "0" * 64, []
    for seq, (kind, at, body) in enumerate(told):
        raw = canonical.encode({"seq": seq, "prev": prev, "kind": kind, "at": at.isoformat(), "body": body})
        prev = canonical.digest_bytes(raw)
        lines.append(raw + b"\n")
    return b"".join(lines)


def _outcome(attempt: Attempt, result: RunResult) -> AttemptOutcome:
    at = result.ended_at + timedelta(seconds=0.05)
    record = AttemptOutcome(
        outcome_id=ids.derived("outcome", at, attempt.attempt_id),
        attempt_id=attempt.attempt_id,
        run_id=attempt.run_id,
        timestamp_utc=at,
        outcome=result.outcome,
        reason=result.reason,
        exit_code=result.exit_code,
        service="pg",
        generation_before=7,
        generation_after=result.generation_after,
        primary_after=result.primary_after,
        journal_head=result.journal_head,
        phases_s=result.phases_s,
        endpoints=result.endpoints,
        result=result.body(),
    )
    return sign_record(record, STAGES["execution"])
