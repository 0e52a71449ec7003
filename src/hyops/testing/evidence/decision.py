"""What was seen when a site was lost, and the decision that follows from it."""

from __future__ import annotations

from datetime import datetime, timedelta

from hyops.model import canonical, ids
from hyops.model.decision import Decision
from hyops.model.dsse import sign_record
from hyops.model.observed import DecisionInputs, Mode, Series, Span
from hyops.model.policy import ServicePolicy
from hyops.model.signal import Check
from hyops.model.vocabulary import CheckStatus, DecisionType, DrMode, ExecutionPlane, Level, Occasion, TargetCloud
from hyops.testing.evidence.keys import STAGES, START

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


def decision_of(known: DecisionInputs, start: datetime) -> Decision:
    """The signed decision to fail over, made 1.22 s after the loss."""
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
