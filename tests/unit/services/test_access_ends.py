"""Ways that runs open at an edge: asked for with a record before, and ended by proof (ACC-1)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hyops.adapters.access_edge import _read
from hyops.adapters.access_grants import FileGrants
from hyops.engine.state import Finish
from hyops.errors import HyopsError, NotVerifiedError, PrerequisiteError, RecordError, UnsafePlanError
from hyops.model.access import AccessDesk, AccessGrant
from hyops.model.vocabulary import Outcome
from hyops.services.access_edge import EdgeDesk
from hyops.services.access_ends import AccessEnds
from hyops.testing.access import FakeEdge
from hyops.testing.clock import EPOCH, FakeClock

pytestmark = pytest.mark.req("ACC-1")
RUN = "run-20260314T030000Z-0000000a"
OTHER = "run-20260314T030000Z-0000000b"
THERE = "198.51.100.7"
BASTION = {"address": THERE, "user": "look", "site": "office", "key_file": "/k", "known_hosts": "/h"}
DESK = AccessDesk.of(
    {
        "api_version": "hybridops/v1",
        "kind": "AccessDesk",
        "grants_dir": "/nowhere",
        "guarded": [{"address": "10.77.2.10", "port": 22}],
        "vantage": BASTION,
    }
)
DONE = Finish(Outcome.SUCCEEDED, 0, None)


def grant(run_id: str = RUN, **more: Any) -> AccessGrant:
    """A drill of ten minutes from one address, of a run."""
    body = {
        "schema": "hyops/access-grant/v1",
        "grant_id": f"{run_id}-0",
        "state": "opening",
        "occasion": "drill",
        "reason": run_id,
        "by": "cloud-runner",
        "source": f"{THERE}/32",
        "address": "10.77.2.10",
        "port": 22,
        "opened_at": EPOCH.isoformat(),
        "expires_at": (EPOCH + timedelta(minutes=10)).isoformat(),
    }
    return AccessGrant.of(body | more)


@dataclass
class Edge:
    """`Edge`: notes what is on the runner's disk whenever it is asked."""

    kept: FileGrants
    away: bool = False
    seen: list[tuple[str, list[str]]] = field(default_factory=list)

    async def open(self, grant: AccessGrant) -> AccessGrant:
        """As asked."""
        return self._asked("open", grant, "open")

    async def remove(self, grant: AccessGrant) -> AccessGrant:
        """As asked."""
        return self._asked("remove", grant, "removed")

    def _asked(self, verb: str, grant: AccessGrant, state: str) -> AccessGrant:
        self.seen.append((verb, [one.state for one in self.kept.all()]))
        if self.away:
            raise PrerequisiteError("the edge does not answer")
        return grant.model_copy(update={"state": state})


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    """One that answers."""
    return Edge(FileGrants(tmp_path))


def ends_of(edge: Edge) -> AccessEnds:
    """The ways over it."""
    return AccessEnds(lambda: edge, edge.kept)


def test_the_record_is_there_before_the_edge_is_asked_and_until_it_is_proved(edge: Edge) -> None:
    """Intent before the question, also when no answer comes; the record goes with the proof, which is noted."""
    ends, noted = ends_of(edge), []
    asyncio.run(ends.open(grant()))
    assert edge.seen == [("open", ["opening"])]
    assert [one.state for one in edge.kept.all()] == ["open"]

    assert asyncio.run(ends.ended(RUN, DONE, noted.append)) is DONE

    assert edge.seen[1:] == [("remove", ["open"])]
    assert [list(told) for told in noted] == [["access_removed"]]
    assert edge.kept.all() == []


def test_an_edge_that_gave_no_answer_leaves_a_record(edge: Edge) -> None:
    """It may have opened it: whoever comes next removes it."""
    edge.away = True
    with pytest.raises(PrerequisiteError):
        asyncio.run(ends_of(edge).open(grant()))
    assert [one.state for one in edge.kept.all()] == ["opening"]

    edge.away = False
    assert asyncio.run(ends_of(edge).sweep(lambda run_id: False)) == []
    assert edge.kept.all() == []


@pytest.mark.parametrize(
    ("finish", "ends"),
    [
        (DONE, (Outcome.FAILED, NotVerifiedError.exit_code)),
        (Finish(Outcome.REFUSED, 12, "no"), (Outcome.REFUSED, 12)),
        (Finish(Outcome.UNKNOWN, 20, None), (Outcome.UNKNOWN, 20)),
        (Finish(Outcome.CANCELLED, 130, "stop"), (Outcome.CANCELLED, 130)),
    ],
)
def test_a_run_whose_way_is_not_proved_closed_says_so_and_is_no_success(
    edge: Edge, finish: Finish, ends: tuple[Outcome, int]
) -> None:
    """Every end names it; what else went wrong stays what it was."""
    noted: list[Any] = []
    asyncio.run(ends_of(edge).open(grant()))
    edge.away = True

    told = asyncio.run(ends_of(edge).ended(RUN, finish, noted.append))

    assert (told.outcome, told.exit_code) == ends
    assert f"{RUN}-0 is not proved closed: the edge does not answer" in str(told.reason)
    assert finish.reason is None or str(finish.reason) in str(told.reason)
    assert [one["access_left"] for one in noted] == [f"{RUN}-0"]
    assert len(edge.kept.all()) == 1


def test_a_run_closes_its_own_way_and_a_sweep_those_of_the_dead(edge: Edge) -> None:
    """Another run that is under way keeps its way."""
    ends = ends_of(edge)
    for run_id in (RUN, OTHER):
        asyncio.run(ends.open(grant(run_id)))

    asyncio.run(ends.sweep(lambda run_id: True))
    assert len(edge.kept.all()) == 2
    asyncio.run(ends.ended(RUN, DONE, lambda told: None))
    assert [one.grant_id for one in edge.kept.all()] == [f"{OTHER}-0"]
    asyncio.run(ends.sweep(lambda run_id: run_id == RUN))
    assert edge.kept.all() == []


def test_without_an_edge_or_with_a_damaged_record_nothing_is_called_closed(edge: Edge, tmp_path: Path) -> None:
    """A definition that went away, or a record that nobody can read: each is a fault."""
    edge.kept.keep(grant())
    assert "no edge is defined" in asyncio.run(AccessEnds(lambda: None, edge.kept).sweep(lambda run_id: False))[0]

    (tmp_path / "x.json").write_text("{")
    assert "cannot be read" in asyncio.run(ends_of(edge).sweep(lambda run_id: False))[0]


class AtTheEdge:
    """An edge's own side, over a fake rule."""

    def __init__(self, edge: FakeEdge) -> None:
        self.kept: list[AccessGrant] = []
        clock = FakeClock()
        clock.advance(3600.0)  # an hour ahead of the runner that asks
        self._desk = EdgeDesk(DESK, edge, edge, self.kept.append, clock.now)

    def says(self, question: object) -> dict[str, Any]:
        """The answer to one line."""
        line = question if isinstance(question, bytes) else json.dumps(question).encode()
        return asyncio.run(self._desk.answer(line))


def test_the_edge_ends_a_way_by_its_own_clock() -> None:
    """Ten minutes from its own now, whatever time the runner has; removed with proof when it is asked."""
    edge = FakeEdge()
    there = AtTheEdge(edge)

    opened = there.says({"verb": "open", "grant": grant().body()})

    assert opened["ok"] is True
    assert edge.rules == {f"{RUN}-0": EPOCH + timedelta(minutes=70)}
    removed = there.says({"verb": "remove", "grant": opened["grant"]})
    assert removed["grant"]["state"] == "removed"
    assert "no connection from outside" in removed["grant"]["proof"]
    assert [one.state for one in there.kept] == ["opening", "open", "removing", "removed"]


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        (b"", RecordError),
        (b"{", RecordError),
        (b"[" * 100_000, RecordError),
        ({"verb": "open"}, RecordError),
        ({"verb": "open", "grant": 5}, RecordError),
        ({"verb": "list", "grant": grant().body()}, HyopsError),
        ({"verb": "open", "grant": grant(port=23).body()}, PrerequisiteError),
        ({"verb": "remove", "grant": grant(address="10.0.0.1").body()}, PrerequisiteError),
        ({"verb": "open", "grant": grant(source="0.0.0.0/0").body()}, UnsafePlanError),
        ({"verb": "open", "grant": grant(source="198.51.100.8/32").body()}, UnsafePlanError),
        ({"verb": "open", "grant": grant(expires_at="2027-03-14T03:00:00Z").body()}, UnsafePlanError),
    ],
)
def test_the_edge_refuses_what_it_does_not_guard_or_cannot_see_closed(question: object, kind: type[HyopsError]) -> None:
    """Garbage, another place, everybody, a source that it cannot look from, an end that is far: nothing is opened."""
    edge = FakeEdge()
    there = AtTheEdge(edge)

    said = there.says(question)

    assert said["ok"] is False
    with pytest.raises(kind, match="the edge says: "):
        _read(json.dumps(said).encode(), grant())
    assert (edge.rules, there.kept) == ({}, [])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no hyops here\n",
        b"[]",
        b"5",
        b'{"ok": true}',
        json.dumps({"ok": True, "grant": grant(OTHER).body()}).encode(),
    ],
)
def test_an_answer_that_is_none_opens_nothing(line: bytes) -> None:
    """Noise, an answer without a grant, or about another one."""
    with pytest.raises((PrerequisiteError, RecordError)):
        _read(line, grant())
