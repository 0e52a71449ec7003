"""Who approved for somebody else: the bundle holds their right to, and the execution says so (APR-1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hyops.evidence.chain import BadRecordError, Fault
from hyops.evidence.contents import Placed
from hyops.model.approval import Approval
from hyops.model.delegation import misfit
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Execution


def delegated(
    execution: Placed[Execution], request: DispatchRequest, given: Mapping[str, Placed[Approval]]
) -> Iterator[BadRecordError]:
    """Every disagreement between the approvals, the delegations that they name, and the execution's summary."""
    summary = execution.record.approval
    said = {(one.approval_id, one.delegate, one.on_behalf_of) for one in summary.delegations or ()}
    acting = {
        approval_id: placed for approval_id, placed in given.items() if placed.record.statement.on_behalf_of is not None
    }
    meant = {
        (p.record.statement.delegation, p.record.statement.approver, p.record.statement.on_behalf_of)
        for p in acting.values()
    }
    if said != meant:
        yield execution.bad(Fault.CONTRADICTION, "it does not say truly who approved for whom")
    for placed in acting.values():
        statement = placed.record.statement
        under = given.get(statement.delegation or "")
        if under is None:
            yield placed.bad(Fault.MISSING, f"its delegation {statement.delegation} is not in the bundle")
            continue
        at, kind = execution.record.timestamp_utc, request.decision_type
        why = misfit(statement, under.record.statement, service=execution.record.service, decision_type=kind, at=at)
        if why is not None:
            yield placed.bad(Fault.CONTRADICTION, why)
