"""The fields that records of the loop keep, as the specification lists them: other tools read these files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyops.errors import RecordError
from hyops.model.dispatch import DispatchRequest
from hyops.model.execution import Attempt, AttemptOutcome, Execution
from hyops.model.vocabulary import Outcome
from hyops.testing.evidence import failover

SWITCH = failover()
REQUEST = (
    "dispatch_id timestamp_utc status execution_mode source_decision_id source_decision_file source_decision_digest "
    "decision_type execution_plane runner_ref target_kind target_ref target_env plan_digest requires_approval "
    "rationale checks"
)
EXECUTION = "execution_id status source_dispatch_id approval"
ATTEMPT = "attempt_id status source_execution_id"
OUTCOME = "outcome phases_s endpoints"


def written(record: Any) -> dict[str, Any]:
    """What stands in the record's file."""
    told: dict[str, Any] = json.loads(record.encoded())
    return told


@pytest.mark.req("DSP-2")
@pytest.mark.parametrize("field", REQUEST.split())
def test_a_request_names_it(field: str) -> None:
    """In the file itself, under this very name."""
    assert field in written(SWITCH.request)


@pytest.mark.req("DSP-2")
def test_a_request_has_the_documented_id_and_words() -> None:
    """`dispatch-<YYYYMMDDTHHMMSSZ>-<type>-<8hex>`, record-only, and one of four statuses."""
    told = written(SWITCH.request)
    prefix, stamp, kind, tail = told["dispatch_id"].split("-")

    assert (prefix, stamp[8] + stamp[-1], kind) == ("dispatch", "TZ", "failover")
    assert len(stamp) == len("YYYYMMDDTHHMMSSZ")
    assert len(tail) == 8
    assert int(tail, 16) >= 0
    assert told["execution_mode"] == "record-only"
    for word in ("awaiting-approval", "queued", "denied", "expired"):
        assert DispatchRequest.of({**told, "status": word, "signature": None}).status == word
    with pytest.raises(RecordError, match="status"):
        DispatchRequest.of({**told, "status": "maybe", "signature": None})


@pytest.mark.req("EXE-2")
@pytest.mark.parametrize(
    ("record", "field"),
    [
        *((SWITCH.execution, field) for field in EXECUTION.split()),
        *((SWITCH.attempt, field) for field in ATTEMPT.split()),
        *((SWITCH.outcome, field) for field in OUTCOME.split()),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_an_execution_an_attempt_and_an_outcome_name_it(
    record: Execution | Attempt | AttemptOutcome, field: str
) -> None:
    """In the file itself, under this very name."""
    assert written(record)[field] not in (None, {}, "")


@pytest.mark.req("EXE-2")
def test_an_execution_is_ready_and_says_who_approved_it() -> None:
    """`approved-ready`, with approvals by id and by name."""
    told = written(SWITCH.execution)

    assert told["status"] == "approved-ready"
    assert told["source_dispatch_id"] == SWITCH.request.dispatch_id
    assert told["approval"]["approval_ids"] == [a.approval_id for a in SWITCH.approvals]
    assert written(SWITCH.attempt)["source_execution_id"] == told["execution_id"]


@pytest.mark.req("EXE-2", "VOC-5")
def test_an_outcome_is_one_of_five_words() -> None:
    """A sixth is refused with its path."""
    told = {**written(SWITCH.outcome), "signature": None}

    assert [str(word) for word in Outcome] == ["succeeded", "failed", "refused", "cancelled", "unknown"]
    for word in Outcome:
        assert AttemptOutcome.of({**told, "outcome": str(word)}).outcome is word
    with pytest.raises(RecordError, match="outcome"):
        AttemptOutcome.of({**told, "outcome": "probably"})
