"""Older words in decision records are read, in the strict mode that everything else is read in."""

import pytest

from hyops.errors import RecordError
from hyops.model.decision import Decision
from hyops.model.vocabulary import DecisionType


@pytest.mark.req("VOC-1")
def test_cutover_is_read_as_failover_and_kept() -> None:
    """A record that says `cutover` is a failover, and still shows the original word."""
    decision = Decision.read(b'{"decision_id":"d-1","decision_type":"cutover","rationale":"r"}')

    assert decision.decision_type is DecisionType.FAILOVER
    assert decision.source_decision_type == "cutover"


@pytest.mark.req("LOOP-2")
def test_a_signed_decision_comes_back_as_it_was_written() -> None:
    """Times survive the way to disk and back: strictness is JSON's, so a stamp may be a string."""
    data = b'{"decision_id":"d-1","decision_type":"hold","rationale":"r","timestamp_utc":"2026-03-14T03:00:07.000000Z"}'

    assert Decision.read(Decision.read(data).encoded()) == Decision.read(data)


@pytest.mark.req("INV-5")
@pytest.mark.parametrize("word", ["move", "FAILOVER", ""])
def test_an_unknown_type_is_refused(word: str) -> None:
    """A word outside the closed set is refused with its path, never mapped."""
    with pytest.raises(RecordError, match="decision_type"):
        Decision.read(f'{{"decision_id":"d-1","decision_type":"{word}","rationale":"r"}}'.encode())
