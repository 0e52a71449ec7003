"""The run on its runner: the attempt, its steps and journal, the receipt of the fence, and the outcome."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from hyops.model import canonical, ids
from hyops.model.dsse import sign_record
from hyops.model.evidence import Loss
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.fence import FenceReceipt, Observation
from hyops.model.plan import Plan
from hyops.model.run import RunResult, StepOutcome
from hyops.model.vocabulary import Outcome, ReceiptClass
from hyops.ports.transport import RunReturn
from hyops.testing.evidence.keys import STAGES


def attempt_of(execution: Execution, at: datetime) -> Attempt:
    """The executor's intent to run it."""
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


def run_of(attempt: Attempt, plan: Plan, started: datetime, outcome: Outcome, loss: Loss) -> RunReturn:
    """What comes back from the runner; with another outcome than success, the cutover ended so and nothing followed."""
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
    journal = journal_of(attempt.run_id, started, steps)
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


def journal_of(run_id: str, started: datetime, steps: list[StepOutcome]) -> bytes:
    """The journal of a run of these steps, chained, one line for each intent and outcome."""
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


def outcome_of(attempt: Attempt, result: RunResult) -> AttemptOutcome:
    """What the executor keeps of the result."""
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
