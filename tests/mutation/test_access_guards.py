"""Each guard of the access modes is taken out; what it keeps must then break, or the guard's tests prove nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from access_kit import BASTION, DB, KEY, LOGIN, options, probes, resolved, run_of
from hyops.access import bastion, public
from hyops.access.bastion import BastionExplicit
from hyops.access.mode import AccessMode, said
from hyops.access.private import PrivateOverlay
from hyops.access.public import PublicEphemeral
from hyops.adapters.access_grants import FileGrants
from hyops.engine.state import Finish
from hyops.errors import HyopsError
from hyops.model.access import AccessGrant, PublicAccess
from hyops.model.vocabulary import ExecutionPlane, Outcome
from hyops.ports.access import HopsSeen, PeerSeen, RouteSeen
from hyops.services.access_ends import AccessEnds
from hyops.testing.access import FakeEdge
from hyops.testing.clock import EPOCH, FakeClock

REOPENED = AccessGrant.of(
    {
        "schema": "hyops/access-grant/v1", "grant_id": "run-1-0", "state": "open", "occasion": "drill", "reason": "x",
        "by": "r", "source": "198.51.100.7/32", "address": DB.address, "port": 22, "opened_at": EPOCH.isoformat(),
        "expires_at": (EPOCH + timedelta(minutes=10)).isoformat(),
    }
)  # fmt: skip
HERE = {"bastions": {"jump": BASTION}, "bastion": "jump"}


def holds(mode: AccessMode, plane: ExecutionPlane, **more: Any) -> bool:
    """Whether the mode resolves."""
    try:
        resolved(mode, run_of(plane, **more))
    except HyopsError:
        return False
    return True


@pytest.mark.req("ACC-1")
def test_without_the_hops_a_tunnel_through_the_failed_site_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the look at the path out: the tunnel is up, and its packets pass the site that failed."""

    async def unseen(*_: Any) -> str:
        return "not looked"

    for guarded in (True, False):
        world = probes(
            wg=[PeerSeen(KEY, "10.77.3.10:51820", 1.0)],
            routes={DB.address: RouteSeen("wg0", "10.99.0.2")},
            paths={"10.77.3.10": HopsSeen(("10.77.1.1",), True)},
        )
        if not guarded:
            monkeypatch.setattr(PrivateOverlay, "_clear", unseen)
        overlay = {"interface": "wg0", "peer_key": KEY, "hub_site": "hub"}
        mode = PrivateOverlay(options(overlay=overlay), LOGIN, world)
        assert holds(mode, ExecutionPlane.PRIVATE_OVERLAY) is not guarded


@pytest.mark.req("ACC-2", "GATE-3")
@pytest.mark.fault(20)
def test_without_the_jump_the_target_is_entered_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the jump out of the mode: the target answers, by a way that nobody approved."""
    for guarded in (True, False):
        world = probes(ran={"cloud-db": True, "jump": False})
        if not guarded:
            monkeypatch.setattr(BastionExplicit, "via", AccessMode.via)
        assert holds(BastionExplicit(options(**HERE), LOGIN, world), ExecutionPlane.BASTION_EXPLICIT)
        assert ("ssh cloud-db via jump" in world.asked) is guarded


@pytest.mark.req("ACC-2")
def test_without_the_rule_a_bastion_is_guessed_for_a_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the limit of inference out: the one bastion that stands near the target decides a cloud DR path."""
    for guarded in (True, False):
        known = options(bastions={"jump": {**BASTION, "site": "cloud"}}, infer_bastion=True)
        if not guarded:
            monkeypatch.setattr(bastion, "may_infer", lambda *_: True)
        mode = BastionExplicit(known, LOGIN, probes(ran={"cloud-db": True, "jump": False}))
        assert holds(mode, ExecutionPlane.BASTION_EXPLICIT) is not guarded


@pytest.mark.req("ACC-1")
def test_without_the_look_from_outside_an_open_door_is_called_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the look out: another rule lets somebody in, and the grant is `removed`."""

    async def unseen(*_: Any) -> bool:
        return False

    for guarded in (True, False):
        edge = FakeEdge(other_way_in=True)
        if not guarded:
            monkeypatch.setattr(edge, "gets_in", unseen)
        assert removed(edge) is not guarded


@pytest.mark.req("ACC-1")
def test_without_its_place_a_look_from_elsewhere_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the check of the vantage out: a grant is made whose end nobody there can see."""
    for guarded in (True, False):
        edge = FakeEdge()
        if not guarded:
            monkeypatch.setattr(public, "check_grant", lambda *_, **__: None)
        work = public.open_grant(grant(), edge, lambda _: None, looks_from="203.0.113.1")
        try:
            asyncio.run(work)
            made = True
        except HyopsError:
            made = False
        assert (made, bool(edge.rules)) == (not guarded, not guarded)


def grant() -> AccessGrant:
    """An open one."""
    return AccessGrant.of(
        {
            "schema": "hyops/access-grant/v1", "grant_id": "g1", "state": "open", "occasion": "drill", "reason": "x",
            "by": "ada", "source": "198.51.100.7/32", "address": DB.address, "port": 22,
            "opened_at": EPOCH.isoformat(), "expires_at": (EPOCH + timedelta(minutes=1)).isoformat(),
        }
    )  # fmt: skip


def removed(edge: FakeEdge) -> bool:
    """Whether the removal counts as proved."""
    try:
        asyncio.run(public.remove_grant(grant(), edge, edge, lambda _: None, FakeClock().now))
    except HyopsError:
        return False
    return True


@pytest.mark.req("ACC-1")
def test_without_the_proof_of_its_occasion_a_plan_opens_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the runner's own word on drills out: a plan that calls itself a drill opens a way into any environment."""
    access = PublicAccess.of({"occasion": "drill", "source_ranges": ["198.51.100.7/32"], "expires_after_s": 600})
    for guarded in (True, False):
        edge: list[AccessGrant] = []

        async def opens(wanted: AccessGrant, edge: list[AccessGrant] = edge) -> AccessGrant:
            edge.append(wanted)
            return wanted

        if not guarded:
            monkeypatch.setattr(
                PublicEphemeral, "_occasion", lambda self, run: said("occasion-allowed", "x", "x", "", "")
            )
        mode = PublicEphemeral(
            options(drill_envs=["drills"]), LOGIN, probes(), grants=list, clock=FakeClock(), opens=opens
        )
        more = {"env": "prod", "public": access, "run_id": "run-1"}
        assert holds(mode, ExecutionPlane.PUBLIC_EPHEMERAL, **more) is not guarded
        assert bool(edge) is not guarded


@pytest.mark.req("ACC-1")
def test_without_the_closing_at_the_end_a_run_leaves_its_way_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Take the removal out: the run is called a success, and the record of its way stays."""
    kept = FileGrants(tmp_path)
    done = Finish(Outcome.SUCCEEDED, 0, None)
    for guarded in (True, False):
        kept.keep(REOPENED)
        if not guarded:
            monkeypatch.setattr(AccessEnds, "_remove", _nothing_left)
        ended = asyncio.run(AccessEnds(lambda: None, kept).ended("run-1", done, lambda told: None))
        assert (ended is done) is not guarded
        assert len(kept.all()) == 1


async def _nothing_left(*_: Any) -> list[str]:
    return []
