"""What a person asks for becomes one decision record, however often the key is pressed (DEC-5).

Its inputs are recorded before it, as the decision service does it: a decision never stands without them.
"""

from __future__ import annotations

from typing import Any

from hyops.errors import RecordError, UsageError
from hyops.model.asking import THE_LOOP
from hyops.model.decision import Decision
from hyops.model.dsse import verify_record
from hyops.model.observed import DecisionInputs
from hyops.ports.records import RecordStore
from hyops.ports.signer import Verifier
from hyops.services.typed_words import refuse_unwritable

OF_THE_MOMENT = ("timestamp_utc", "expires_at", "inputs_digest", "signature")


def record_once(
    decisions: RecordStore, inputs: RecordStore, asked: Decision, known: DecisionInputs, verifier: Verifier
) -> Decision:
    """Write what was asked for, or return the decision that already says so: the same id means the same second.

    `known` is what `asked` was computed from; it is written first, and not at all for a decision that is there.

    Raises:
        RecordError: another decision stands under this id, or one that no key of the decision stage signed.
    """
    if (there := _there(decisions, asked, verifier)) is not None:
        return there
    inputs.create((asked.inputs_digest or "").removeprefix("sha256:"), known.encoded())
    try:
        decisions.create(asked.decision_id, asked.encoded())
        return asked
    except RecordError:  # another was quicker, in this very moment
        if (there := _there(decisions, asked, verifier)) is None:
            raise
        return there


def refuse_unaskable(*, by: str, rationale: str, despite_hold: str | None) -> None:
    """Return when what a person typed can stand in the records.

    Raises:
        UsageError: it cannot, or the name is the loop's own; names the option.
    """
    refuse_unwritable("--by", by, 256)
    refuse_unwritable("--rationale", rationale, 4096)
    if despite_hold is not None:
        refuse_unwritable("--despite-hold", despite_hold, 4096)
    if by.strip() == THE_LOOP:
        raise UsageError(f"--by {by}: so the loop is called, and you are not the loop", hint="say who you are")


def _there(decisions: RecordStore, asked: Decision, verifier: Verifier) -> Decision | None:
    """The decision that stands under this id, if it says the same."""
    try:
        there = Decision.read(decisions.read(asked.decision_id), source=asked.decision_id)
    except KeyError:
        return None
    if "decision" not in verifier.roles(verify_record(there, verifier)) or _lasting(there) != _lasting(asked):
        raise RecordError(
            f"{asked.decision_id}: another decision was recorded under this id in the same second",
            hint="nothing was written, and that decision stands; ask again in a second",
        )
    return there


def _lasting(decision: Decision) -> dict[str, Any]:
    return {key: value for key, value in decision.body().items() if key not in OF_THE_MOMENT}
