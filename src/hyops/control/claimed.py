"""How many people seem to say yes to a request, by the words alone: for a page, never for a decision (UX-2).

The approval stage judges signatures, roles and keys (see `approval`). Who has no right to look at those counts here
what the same rule would count if all signatures were good and each name were one person.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from hyops.control.hearing import BREAK_GLASS
from hyops.model.approval import Approval
from hyops.model.dispatch import DispatchRequest
from hyops.model.quorum import Absent, Yes, carriers


def claimed(request: DispatchRequest, said: Iterable[Approval], unfit: Collection[str], now: datetime) -> int:
    """People, each once, whose yes is to these bytes, has not ended and was not taken back; `unfit`: ids left out."""
    mine = [one for one in said if one.statement.request_digest == request.digest()]
    back = {one.statement.approver for one in mine if one.statement.verdict == "withdraw"}
    yeses = [
        one
        for one in mine
        if one.statement.verdict in ("grant", BREAK_GLASS)
        and one.approval_id not in unfit
        and now < one.statement.expires_at
        and not {one.statement.approver, one.statement.on_behalf_of} & back
    ]
    return len(carriers(map(_yes, yeses), required=1, requester=None)) if yeses else 0


def _yes(approval: Approval) -> Yes:
    said = approval.statement
    absent = Absent(said.on_behalf_of, said.on_behalf_of) if said.on_behalf_of else None
    return Yes(approval.approval_id, said.approver, said.approver, acts_for=absent)
