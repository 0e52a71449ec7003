"""The lab's one approver: a person with an SSH key that lies on no host of the lab (APR-1).

The statements are those that `hyops approval` makes; only the way into the approvals folder is the lab's.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hyops.adapters.approval_ssh import sign
from hyops.model.approval import Approval, ApprovalStatement
from hyops.model.dispatch import DispatchRequest
from hyops.model.plan import Plan
from hyops.model.vocabulary import DecisionType, Occasion
from hyops_lab.loop import CONTROL, FOLDERS, Json
from hyops_lab.release import project_root
from hyops_lab.wiring import everything, service
from hyops_lab.wiring.keys import APPROVER

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

GRANTED_FOR = timedelta(minutes=10)
STANDS_FOR = timedelta(days=1)


def grant(lab: Lab, request: Json, note: str = "") -> str:
    """Sign one request, over the digest of its bytes, and hand it in; returns the approval's id."""
    return hand_in(lab, granted(lab, request, datetime.now(UTC), note=note))


def granted(lab: Lab, request: Json, signed_at: datetime, note: str = "") -> Approval:
    """One request signed at a moment, for some minutes, and not handed in."""
    read = DispatchRequest.of(request, source="request")
    statement = ApprovalStatement(
        verdict="grant",
        approver=APPROVER,
        signed_at=signed_at,
        expires_at=signed_at + GRANTED_FOR,
        plan_digest=read.plan_digest,
        dispatch_id=read.dispatch_id,
        request_digest=read.digest(),
        service=read.service,
        acknowledged_warnings=read.warnings,
        note=note or None,
    )
    return _signed(lab, statement)


def stand(lab: Lab) -> list[str]:
    """Sign the two plans of the lab's service beforehand, for a day: drills wait for nobody."""
    made = []
    for decision_type, plan in plans().items():
        now = datetime.now(UTC)
        statement = ApprovalStatement(
            verdict="standing",
            approver=APPROVER,
            signed_at=now,
            expires_at=now + STANDS_FOR,
            plan_digest=plan.digest(),
            service=service.SERVICE,
            decision_types=[decision_type],
            occasions=[Occasion.PLANNED, Occasion.UNPLANNED],
            note="drills",
        )
        made.append(hand_in(lab, _signed(lab, statement)))
    return made


def plans() -> dict[DecisionType, Plan]:
    """The plans that the lab's routes lead to, from the catalogue of this checkout."""
    from hyops.compose_loop import planner
    from hyops.model.decision import Decision
    from hyops.services.config_requests import DispatchConfig

    config = DispatchConfig.of(
        {
            "api_version": "hybridops/v1",
            "kind": "DecisionDispatcher",
            "signing_key": "/none",
            "trusted_keys": "/none",
            "routes": service.routes(),
            "services": [service.SERVICE],
            "catalogs": [str(project_root() / "catalog")],
        }
    )
    plan_for = planner(config)
    made = {}
    for decision_type in (DecisionType.FAILOVER, DecisionType.FAILBACK):
        (route,) = config.routes.of_type(decision_type)
        decision = Decision(decision_id="d", decision_type=decision_type, rationale="plan", service=service.SERVICE)
        made[decision_type] = plan_for(route, decision)
    return made


def hand_in(lab: Lab, approval: Approval) -> str:
    """Put an approval where the approval stage looks for it; returns its id."""
    path = f"{FOLDERS['approval']}/{approval.approval_id}.json"
    lab.write(CONTROL, path, approval.encoded(), 0o640, "hyops-consumer:hyops-loop")
    return approval.approval_id


def _signed(lab: Lab, statement: ApprovalStatement) -> Approval:
    key: Path = everything.keyring(lab).folder / "approver"
    return Approval.signed(statement, sign(statement.signed_bytes(), key))
