"""Ids become file names, so only their exact form passes."""

import pytest

from hyops.errors import RecordError
from hyops.model import ids
from hyops.testing.evidence import START


@pytest.mark.req("LOOP-1")
def test_the_same_content_has_the_same_id() -> None:
    """An id derives from what it answers, so a replay finds it again."""
    assert ids.derived("run", START, "x") == ids.derived("run", START, "x")
    assert ids.checked(ids.derived("run", START, "x"), "run").startswith("run-20260314T030007Z-")


@pytest.mark.req("RUN-6")
@pytest.mark.fault(18)
@pytest.mark.parametrize("tail", ["\n", "/..", "\x00", " ", "0"])
def test_an_id_with_a_tail_is_refused(tail: str) -> None:
    """A newline, a path or one digit too many at the end makes it no id."""
    with pytest.raises(RecordError):
        ids.checked(ids.derived("run", START, "x") + tail, "run")
