"""What a runner asks of a standby order before it keeps it: all of it was sealed by stages that it trusts (INV-9).

The executor, which brings orders, signs none of them, and its link is not believed. Who approves an order, and whether
it could be run now, is asked on the day.
"""

from __future__ import annotations

from hyops.control.standby import order_of
from hyops.errors import RecordError, UnsafePlanError
from hyops.model.dsse import verify_record
from hyops.model.takeover import StandbyOrder
from hyops.ports.signer import Verifier

SEALED = "the order"


def refuse_unsealed(data: bytes, *, verifier: Verifier) -> None:
    """Return when these bytes are one order, as decision stage and dispatcher have sealed it.

    Raises:
        RecordError: no order, in another spelling than the sealed one, or not signed by keys that may.
        UnsafePlanError: its parts do not belong together.
    """
    order = StandbyOrder.read(data, source=SEALED)
    if order.encoded() != data:
        raise RecordError(f"{SEALED} {order.order_id}: not in the form in which it was sealed")
    order_of(order.decision, order.inputs, order.request, order.plan)
    for record, role in ((order.decision, "decision"), (order.request, "dispatch")):
        if role not in verifier.roles(verify_record(record, verifier)):
            raise RecordError(f"{record.kind} {record.record_id}: its key may not sign as {role}")
    decided, asked = order.decision, order.request
    told = [(d.service, d.generation, d.runner_ref) for d in (decided, asked)]
    if told[0] != told[1]:
        raise UnsafePlanError(f"{SEALED} {order.order_id}: the request is not about what was decided: {told}")
