"""When a stage tells of itself anew: where something changed, and else so rarely that etcd's space lasts (LOOP-3)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hyops._version import __version__
from hyops.adapters.etcd_presence_told import EVERY_S, STEP_S, Telling, Told
from hyops.errors import RecordError
from hyops.ports.lease import QuorumLostError

pytestmark = pytest.mark.req("LOOP-3")

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
FIRST = Telling(NOW, 1000.0, 0.0, None)


class Session:
    """One whose mirrors are confirmed, or not."""

    call_limit_s, lost = 30.0, None

    def __init__(self) -> None:
        self.why: Exception | None = None

    async def confirm(self, *, counted: bool) -> None:
        """Creations alone are compared."""
        assert not counted
        if self.why is not None:
            raise self.why


def telling(session: Any) -> Told:
    """What a stage with that session tells."""
    return Told(session, 34.0, lambda: NOW)


def after(passed_s: float, *, stepped_s: float = 0.0, **changes: Any) -> Telling:
    """The next look."""
    clock = NOW + timedelta(seconds=passed_s + stepped_s)
    return replace(FIRST, clock=clock, at_s=FIRST.at_s + passed_s, **changes)


@pytest.mark.parametrize(
    ("now", "news"),
    [
        (after(4.0), False),
        (after(EVERY_S - 0.1), False),
        (after(EVERY_S), True),
        (after(4.0, stepped_s=STEP_S / 2), False),
        (after(4.0, stepped_s=STEP_S * 1.1), True),
        (after(4.0, stepped_s=-STEP_S * 1.1), True),
        (after(4.0, stepped_s=86400.0), True),
        (after(4.0, behind="no answer"), True),
    ],
)
def test_it_is_told_anew_where_something_changed(now: Telling, news: bool) -> None:
    """Time, a clock that was set, mirrors that fell behind; nothing else is worth a revision."""
    told = telling(Session())
    assert told.news(FIRST)
    told.last = FIRST
    assert told.news(now) is news


def test_mirrors_that_caught_up_are_told_and_another_reason_is_none() -> None:
    """That they are behind is the news, not each new word for it."""
    told = telling(Session())
    told.last = replace(FIRST, behind="no answer")
    assert not told.news(after(4.0, behind="another word"))
    assert told.news(after(4.0))


@pytest.mark.parametrize("why", [QuorumLostError("no answer"), TimeoutError(), RecordError("torn")])
def test_what_cannot_be_found_out_is_not_confirmed(why: Exception) -> None:
    """Before the first look, and whenever one fails; its age goes on from the last that worked."""
    session = Session()
    told = telling(session)
    assert told.now().behind is not None

    asyncio.run(told.look())
    assert told.now().behind is None
    session.why = why
    asyncio.run(told.look())
    first, second = told.now(), told.now()
    assert first.behind == (str(why) or "no answer in time")
    assert second.confirmed_s - first.confirmed_s == pytest.approx(second.at_s - first.at_s)
    session.why = None
    asyncio.run(told.look())
    assert told.now().behind is None


def test_an_older_reader_finds_what_it_knows() -> None:
    """The version, and since when."""
    told = telling(Session())
    body = json.loads(told.words(FIRST))
    assert (body["version"], body["since"]) == (__version__, "2026-01-31T12:00:00+00:00")
    assert (body["clock"], body["every_s"], body["lapse_s"]) == ("2026-01-31T12:00:00.000+00:00", EVERY_S, 34.0)
