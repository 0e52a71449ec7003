"""The desk for holds files nothing that changes nothing now and something later (DEC-6)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hyops.control.holding import FUTURE_MAX_S, Verdict
from hyops.errors import NotApprovedError
from hyops.model.hold import HoldStatement
from hyops.services.hold_desk import HoldDesk
from hyops.testing.clock import EPOCH, FakeClock
from hyops.testing.evidence import APPROVER, SeedApprovals
from hyops.testing.records import MemoryRecordStore
from simulation.world import policy


def _file(store: MemoryRecordStore, verdict: Verdict, signed_s: float) -> None:
    """File what was signed so much later than now."""
    people = SeedApprovals(APPROVER)
    refusals = MemoryRecordStore()
    desk = HoldDesk(store, policy(), people=people, refusals=refusals, latch=lambda book: None, clock=FakeClock())
    signed_at = EPOCH + timedelta(seconds=signed_s)
    body = {"verdict": verdict, "signer": APPROVER, "owner": APPROVER, "service": policy().service, "env": policy().env}
    own: dict[str, Any] = {
        "hold": {"until": signed_at + timedelta(hours=1)}, "end": {"ends": "hold-1"}, "acknowledge": {"generation": 8}
    }  # fmt: skip
    said = HoldStatement(**{**body, "reason": "later", "signed_at": signed_at, **own[verdict]})
    desk.put(said, people.sign(APPROVER, said.signed_bytes()))


@pytest.mark.req("DEC-6", "UX-1")
@pytest.mark.parametrize("verdict", ["hold", "end", "acknowledge"])
def test_what_is_dated_ahead_is_not_filed(verdict: Verdict) -> None:
    """It would set the loop free tomorrow, by itself: refused with both times. A clock a little ahead is no matter."""
    store = MemoryRecordStore()
    with pytest.raises(NotApprovedError, match=r"it was signed in the future, at .*, and here it is") as refused:
        _file(store, verdict, FUTURE_MAX_S + 1)
    assert ("clock" in refused.value.hint, store.ids()) == (True, [])

    for ahead_s in (FUTURE_MAX_S, 0.0):
        _file(store, verdict, ahead_s)
    assert len(store.ids()) == 2


@pytest.mark.req("DEC-6")
def test_a_hold_that_is_over_before_it_is_filed_is_not() -> None:
    """Nobody answered the question for so long."""
    store = MemoryRecordStore()
    with pytest.raises(NotApprovedError, match="it was over at"):
        _file(store, "hold", -3600.0)
    assert store.ids() == []
