"""What a person asks for becomes one decision record, however often the key is pressed (DEC-5)."""

from __future__ import annotations

from typing import Any

from hyops.errors import RecordError
from hyops.model.decision import Decision
from hyops.model.dsse import verify_record
from hyops.ports.records import RecordStore
from hyops.ports.signer import Verifier

OF_THE_MOMENT = ("timestamp_utc", "expires_at", "signature")


def record_once(decisions: RecordStore, asked: Decision, verifier: Verifier) -> Decision:
    """Write what was asked for, or return the decision that already says so: the same id means the same second.

    Raises:
        RecordError: another decision stands under this id, or one that no key of the decision stage signed.
    """
    try:
        decisions.create(asked.decision_id, asked.encoded())
        return asked
    except RecordError as taken:
        there = Decision.read(decisions.read(asked.decision_id), source=asked.decision_id)
        if "decision" not in verifier.roles(verify_record(there, verifier)) or _lasting(there) != _lasting(asked):
            raise RecordError(
                f"{asked.decision_id}: another decision was recorded under this id in the same second",
                hint="nothing was written, and that decision stands; ask again in a second",
            ) from taken
        return there


def _lasting(decision: Decision) -> dict[str, Any]:
    return {key: value for key, value in decision.body().items() if key not in OF_THE_MOMENT}
