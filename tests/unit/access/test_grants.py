"""A way in from outside: restricted, ending by itself, and gone only when a probe from outside says so (ACC-1)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from access_kit import DB, LOGIN, options, probes, resolved, run_of
from hyops.access.public import PublicEphemeral, check_grant, due, named, open_grant, remove_grant
from hyops.errors import NotVerifiedError, PrerequisiteError, UnsafePlanError
from hyops.model.access import OPEN_MAX_S, AccessGrant, PublicAccess
from hyops.model.vocabulary import ExecutionPlane
from hyops.testing.access import FakeEdge
from hyops.testing.clock import EPOCH, FakeClock

pytestmark = pytest.mark.req("ACC-1")
THERE = "198.51.100.7"


def grant(**more: Any) -> AccessGrant:
    """A drill of ten minutes from one address."""
    body = {
        "schema": "hyops/access-grant/v1",
        "grant_id": "g1",
        "state": "opening",
        "occasion": "drill",
        "reason": "drill of March",
        "by": "ada",
        "source": f"{THERE}/32",
        "address": DB.address,
        "port": 22,
        "opened_at": EPOCH.isoformat(),
        "expires_at": (EPOCH + timedelta(minutes=10)).isoformat(),
    }
    return AccessGrant.of(body | more)


def public(occasion: str = "drill") -> PublicAccess:
    """What a plan says of its way in."""
    return PublicAccess.of({"occasion": occasion, "source_ranges": [f"{THERE}/32"], "expires_after_s": 600})


class Records:
    """What was kept, newest last."""

    def __init__(self) -> None:
        self.kept: list[AccessGrant] = []

    def __call__(self, one: AccessGrant) -> None:
        """Keep it."""
        self.kept.append(one)

    @property
    def states(self) -> list[str]:
        """The states in order."""
        return [one.state for one in self.kept]


def remove(one: AccessGrant, edge: FakeEdge, kept: Records) -> AccessGrant:
    """Remove at the epoch."""
    return asyncio.run(remove_grant(one, edge, edge, kept, FakeClock().now))


def test_the_intent_is_there_before_the_rule_and_the_proof_before_the_end() -> None:
    """opening, rule, open; removing, looked from outside, removed."""
    edge, kept = FakeEdge(), Records()

    opened = asyncio.run(open_grant(grant(), edge, kept, looks_from=THERE))
    assert (kept.states, list(edge.rules)) == (["opening", "open"], ["g1"])
    removed = remove(opened, edge, kept)

    assert kept.states[2:] == ["removing", "removed"]
    assert removed.proof is not None
    assert "no connection from outside" in removed.proof
    assert edge.rules == {}


@pytest.mark.parametrize("crash", ["before", "after"])
def test_a_crash_leaves_an_end_and_a_record_that_is_cleaned(crash: str) -> None:
    """Whether the rule was made or not: the record names it, the edge ends it, `remove` proves it gone."""
    edge, kept = FakeEdge(crash=crash), Records()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(open_grant(grant(), edge, kept, looks_from=THERE))

    assert kept.states == ["opening"]
    assert edge.rules == ({} if crash == "before" else {"g1": grant().expires_at})
    assert due(kept.kept) == kept.kept
    assert remove(kept.kept[-1], edge, kept).state == "removed"
    assert edge.rules == {}


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        (FakeEdge(rules={"g1": EPOCH}, deaf=True), "listed by the edge still"),
        (FakeEdge(other_way_in=True), "lets somebody in"),
        (FakeEdge(away=True), "nobody looked from outside"),
    ],
)
def test_what_is_not_proved_gone_is_not_removed(edge: FakeEdge, why: str) -> None:
    """A removal that nobody saw from outside stays `removing`, and is due again."""
    kept = Records()

    with pytest.raises(NotVerifiedError, match=why):
        remove(grant(state="open"), edge, kept)

    assert kept.states == ["removing"]
    assert due([kept.kept[-1]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "0.0.0.0/0"},
        {"source": "198.51.100.0/24"},
        {"source": "::/0"},
        {"source": "198.51.100.8/32"},
        {"expires_at": EPOCH.isoformat()},
        {"expires_at": (EPOCH + timedelta(seconds=OPEN_MAX_S + 1)).isoformat()},
        {"reason": "  "},
    ],
)
def test_an_open_or_endless_grant_is_refused_before_anything_is_written(wrong: dict[str, Any]) -> None:
    """One place, one end, one reason."""
    edge, kept = FakeEdge(), Records()

    with pytest.raises(UnsafePlanError):
        asyncio.run(open_grant(grant(**wrong), edge, kept, looks_from=THERE))

    assert (kept.kept, edge.rules) == ([], {})


def test_the_longest_grant_is_taken() -> None:
    """The limit itself is allowed."""
    check_grant(grant(expires_at=(EPOCH + timedelta(seconds=OPEN_MAX_S)).isoformat()), looks_from=THERE)


@pytest.mark.parametrize(
    ("more", "held"),
    [
        ({"state": "open"}, True),
        ({"state": "opening"}, False),
        ({"state": "removing"}, False),
        ({"state": "open", "address": "10.0.0.1"}, False),
        ({"state": "open", "expires_at": EPOCH.isoformat()}, False),
    ],
)
def test_a_run_goes_by_a_grant_that_is_open_now_and_leads_there(more: dict[str, Any], held: bool) -> None:
    """Expired, half made and other ones do not count."""
    mode = PublicEphemeral(
        options(drill_envs=["drills"]), LOGIN, probes(), grants=lambda: [grant(**more)], clock=FakeClock()
    )
    run = run_of(ExecutionPlane.PUBLIC_EPHEMERAL, env="drills", public=public())

    if held:
        assert [check.prerequisite for check in resolved(mode, run).checks] == list(mode.names)
    else:
        with pytest.raises(PrerequisiteError, match="grant-open"):
            resolved(mode, run)


def test_an_unknown_grant_is_named() -> None:
    """With what to do next."""
    assert named([grant()], "g1").grant_id == "g1"
    with pytest.raises(PrerequisiteError, match="no grant g2"):
        named([grant()], "g2")
