"""A real WireGuard tunnel, and the ways in which it is none: down, through the failed site, around (ACC-1)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from access_hosts import Host, target
from access_kit import options, run_of
from hyops.access.circumstances import Target
from hyops.access.mode import resolve
from hyops.access.private import PrivateOverlay
from hyops.adapters import access_network
from hyops.adapters.access_probes import HostProbes
from hyops.adapters.clock_system import SystemClock
from hyops.errors import PrerequisiteError
from hyops.model.access import ResolvedAccess
from hyops.model.vocabulary import ExecutionPlane
from loopback import missing, own_network
from overlay import HOST, HUB, INNER, Overlay, tunnel

LACKS = missing("sshd", "ip", "wg", "wireguard-go") or (
    None if os.geteuid() == 0 and Path("/dev/net/tun").exists() else "needs root and /dev/net/tun"
)
pytestmark = [pytest.mark.skipif(LACKS is not None, reason=str(LACKS)), pytest.mark.req("ACC-1")]
SITES = {"onprem": ["10.77.1.0/24"], "cloud": ["10.77.2.0/24"], "hub": ["10.77.3.0/24"]}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Overlay, Host]]:
    """The tunnel, and a target behind its hub."""
    folder = tmp_path_factory.mktemp("overlay")
    with tunnel(folder) as made:
        inside = ("ip", "netns", "exec", made.space("host"))
        db = target(folder / "db", address=HOST, port=22022, inside=inside)
        try:
            db.start()
            yield made, db
        finally:
            db.stop()


def overlay(up: tuple[Overlay, Host], **more: Any) -> ResolvedAccess:
    """Resolve private-overlay for the host behind the hub, after a failure of the on-prem site."""
    made, db = up
    definition = {"interface": made.interface("runner"), "peer_key": made.keys["hub"], "hub_site": "hub"} | more
    mode = PrivateOverlay(options(overlay=definition, ready_wait_s=5.0), db.place, HostProbes())
    run = run_of(ExecutionPlane.PRIVATE_OVERLAY, targets=(Target("cloud-db", HOST, "cloud"),), site_networks=SITES)
    return asyncio.run(resolve(mode, run, SystemClock()))


def test_a_tunnel_that_is_up_and_elsewhere_is_the_way(up: tuple[Overlay, Host]) -> None:
    """Every prerequisite holds over real packets: handshake, outer way by the router, inner way by the hub."""
    found = overlay(up)

    assert [check.prerequisite for check in found.checks] == list(PrivateOverlay.names)
    by_name = {check.prerequisite: check.seen for check in found.checks}
    assert f"{HUB}:51820" in by_name["tunnel-up"]
    assert f"hops {INNER}.1" in by_name["path-outside-failed-site"]
    assert found.limits


def test_the_way_of_the_tunnel_through_the_failed_site_is_seen(up: tuple[Overlay, Host]) -> None:
    """The tunnel is up and its hub is elsewhere; only its packets pass the on-prem router."""
    made, _ = up
    made.run(None, "ip", "route", "replace", f"{HUB}/32", "via", "10.77.1.1")
    try:
        with pytest.raises(PrerequisiteError, match=r"endpoint-outside-failed-site.*passes 10.77.1.1 in onprem"):
            overlay(up)
    finally:
        made.run(None, "ip", "route", "del", f"{HUB}/32")


def test_a_router_of_the_failed_site_within_the_tunnel_is_seen(up: tuple[Overlay, Host]) -> None:
    """The first hop inside answers from an address of the failed site."""
    made, _ = up
    hub = made.interface("hub")
    made.run("hub", "ip", "addr", "flush", "dev", hub)
    made.run("hub", "ip", "addr", "add", "10.77.1.50/32", "dev", hub)
    made.run("hub", "ip", "route", "add", f"{INNER}.0/24", "dev", hub)
    made.peer("runner", "hub", f"{INNER}.0/24,10.88.0.0/24,10.77.1.50/32")  # WireGuard drops what no AllowedIPs admits
    try:
        with pytest.raises(PrerequisiteError, match=r"path-outside-failed-site.*passes 10.77.1.50 in onprem"):
            overlay(up)
    finally:
        made.run("hub", "ip", "addr", "flush", "dev", hub)
        made.run("hub", "ip", "addr", "add", f"{INNER}.1/24", "dev", hub)
        made.peer("runner", "hub", f"{INNER}.0/24,10.88.0.0/24")


def test_a_hub_that_stands_in_the_failed_site_is_refused(up: tuple[Overlay, Host]) -> None:
    """What is declared is enough to refuse; nothing is asked of the network."""
    with pytest.raises(PrerequisiteError, match="hub-outside-failed-site"):
        overlay(up, hub_site="onprem")


def test_a_route_around_the_tunnel_is_refused(up: tuple[Overlay, Host]) -> None:
    """The target would be reached, in the clear: private is not turned into anything else."""
    made, db = up
    before = db.connections
    made.run(None, "ip", "route", "replace", f"{HOST}/32", "via", "10.77.2.1")
    try:
        with pytest.raises(PrerequisiteError, match=r"route-through-overlay.*not by hw"):
            overlay(up)
    finally:
        made.run(None, "ip", "route", "del", f"{HOST}/32")

    assert db.connections == before


def test_an_old_handshake_is_no_tunnel(up: tuple[Overlay, Host]) -> None:
    """An interface that is up and routes that are there say nothing: the peer's own last word does."""
    with pytest.raises(PrerequisiteError, match=r"tunnel-up.*handshake is \d+ s old"):
        overlay(up, handshake_age_s_max=0.001)


def test_another_peer_key_is_no_tunnel(up: tuple[Overlay, Host]) -> None:
    """The pin is the definition's, not whatever the interface has."""
    with pytest.raises(PrerequisiteError, match=r"tunnel-up.*pinned peer"):
        overlay(up, peer_key="B" * 43 + "=")


def test_a_tunnel_that_is_down_is_refused(up: tuple[Overlay, Host]) -> None:
    """No interface, no word: refused by its name. Last, for it takes the tunnel down."""
    up[0].stop("runner")

    with pytest.raises(PrerequisiteError, match="access mode private-overlay: tunnel-up"):
        overlay(up)


def test_silence_is_told_as_silence() -> None:
    """A network without anybody: no route is a refusal, and a way nobody answers on is not reached."""
    with own_network():
        with pytest.raises(PrerequisiteError):
            asyncio.run(access_network.route("192.0.2.1"))
        with pytest.raises(PrerequisiteError, match="no way to"):
            asyncio.run(access_network.hops("192.0.2.1", 2))
