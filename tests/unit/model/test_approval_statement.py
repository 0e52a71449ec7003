"""A break-glass names what is lost and why: blanks name nothing, whoever reads the statement (APR-4, INV-2)."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from hyops.errors import RecordError
from hyops.model.approval import Approval, ApprovalStatement
from hyops.testing.clock import EPOCH

DIGEST = "sha256:" + "0" * 64
GLASS: dict[str, Any] = {
    "verdict": "break-glass",
    "approver": "ada",
    "signed_at": EPOCH,
    "expires_at": EPOCH + timedelta(hours=1),
    "dispatch_id": "dispatch-1",
    "request_digest": DIGEST,
    "accepted_loss": "1 s of writes",
    "note": "site burnt down",
}


@pytest.mark.req("APR-4", "INV-2")
@pytest.mark.parametrize("field", ["accepted_loss", "note"])
@pytest.mark.parametrize("blank", ["", " ", "\t", "\n \u2003"])
def test_a_break_glass_of_blanks_is_no_record(field: str, blank: str) -> None:
    """However it came into the folder: the stage, the runner and whoever verifies evidence all read it by this."""
    good = Approval.signed(ApprovalStatement(**GLASS), "armored").body()
    bad = {**good, "statement": {**good["statement"], field: blank}}

    assert Approval.read(json.dumps(good).encode()).statement.verdict == "break-glass"
    with pytest.raises(RecordError, match="blanks name nothing"):
        Approval.read(json.dumps(bad).encode())
