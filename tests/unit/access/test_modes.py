"""Access modes: named prerequisites, one refusal, no second mode (ACC-1, ACC-2, GATE-3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from access_kit import BASTION, DB, KEY, LOGIN, options, probes, resolved, run_of
from hyops.access.bastion import BastionExplicit, chosen
from hyops.access.circumstances import Target, plane_of, targets_of
from hyops.access.iap import IAP_RANGE, GcpIap, deciding, open_to_all, tunnel_argv
from hyops.access.mode import AccessMode
from hyops.access.private import PrivateOverlay, RunnerLocal, host_of
from hyops.access.public import PublicEphemeral
from hyops.errors import HostKeyError, PrerequisiteError, RecordError, UnsafePlanError
from hyops.model.access import PublicAccess
from hyops.model.dispatch import Route
from hyops.model.vocabulary import ExecutionPlane, Occasion
from hyops.ports.access import FirewallSeen, HopsSeen, InstanceSeen, PeerSeen, RouteSeen
from hyops.testing.access import FakeCloud, FakeProbes
from hyops.testing.clock import FakeClock
from hyops.testing.runs import plan_of

LOCAL, OVERLAY = ExecutionPlane.RUNNER_LOCAL, ExecutionPlane.PRIVATE_OVERLAY
VIA_BASTION, IAP, PUBLIC = ExecutionPlane.BASTION_EXPLICIT, ExecutionPlane.GCP_IAP, ExecutionPlane.PUBLIC_EPHEMERAL
WG: dict[str, Any] = {"interface": "wg0", "peer_key": KEY, "hub_site": "hub"}
HERE = {"bastions": {"jump": BASTION}, "bastion": "jump"}
PEER = PeerSeen(KEY, "10.77.3.10:51820", 4.0)
TUNNELLED = {DB.address: RouteSeen("wg0", "10.99.0.2")}
BEHIND: dict[str, Any] = {
    "project": "dr-project",
    "zone": "europe-west1-b",
    "instance": "db",
    "firewall_tag": "iap-ssh",
}
INSTANCE = InstanceSeen("RUNNING", (DB.address,), ("iap-ssh",), "net")
SSH_RANGE = (("tcp", ((22, 22),)),)
ADMITS = FirewallSeen("iap", "net", 1000, True, False, (IAP_RANGE,), ("iap-ssh",), SSH_RANGE)


def local(**world: Any) -> AccessMode:
    """runner-local."""
    return RunnerLocal(options(), LOGIN, probes(**world))


def overlay(definition: dict[str, Any] | None = None, **world: Any) -> AccessMode:
    """private-overlay, up, with its hub at the hub."""
    known = {"wg": [PEER], "routes": TUNNELLED} | world
    return PrivateOverlay(options(overlay=WG if definition is None else definition), LOGIN, probes(**known))


def bastion(definition: dict[str, Any] | None = None, **world: Any) -> AccessMode:
    """bastion-explicit, whose key only forwards."""
    known = {"ran": {"cloud-db": True, "jump": False}} | world
    return BastionExplicit(options(**(HERE if definition is None else definition)), LOGIN, probes(**known))


def iap(instance: InstanceSeen = INSTANCE, rules: list[FirewallSeen] | None = None, **world: Any) -> AccessMode:
    """gcp-iap."""
    cloud = FakeCloud(instance, [ADMITS] if rules is None else rules)
    return GcpIap(options(iap=BEHIND), LOGIN, probes(**world), cloud=cloud)


@pytest.mark.req("ACC-1", "EVD-1")
@pytest.mark.parametrize(("plane", "mode"), [(LOCAL, local), (OVERLAY, overlay), (VIA_BASTION, bastion), (IAP, iap)])
def test_a_mode_asks_every_prerequisite_that_it_names(plane: ExecutionPlane, mode: Callable[[], AccessMode]) -> None:
    """All of them, in order, each with what it saw; the record says the plane and the targets."""
    made = mode()

    found = resolved(made, run_of(plane))

    assert tuple(dict.fromkeys(check.prerequisite for check in found.checks)) == made.names
    assert all(check.seen for check in found.checks)
    assert (found.plane, found.targets) == (plane, ["cloud-db (10.77.2.10)"])


BROKEN: list[tuple[ExecutionPlane, AccessMode, str, str]] = [
    (LOCAL, local(ran={}), "target-answers", "did not answer"),
    (LOCAL, local(ran={"cloud-db": False}), "target-answers", "answers no command"),
    (LOCAL, local(routes={DB.address: RouteSeen("eth0", "203.0.113.7")}), "route-private", "public"),
    (OVERLAY, PrivateOverlay(options(), LOGIN, probes()), "overlay-defined", "no overlay"),
    (OVERLAY, overlay({**WG, "hub_site": "onprem"}), "hub-outside-failed-site", "the site that failed"),
    (OVERLAY, overlay(wg=[]), "tunnel-up", "pinned peer"),
    (OVERLAY, overlay(wg=[PeerSeen("B" * 43 + "=", PEER.endpoint, 1.0)]), "tunnel-up", "pinned peer"),
    (OVERLAY, overlay(wg=[PeerSeen(KEY, PEER.endpoint, None)]), "tunnel-up", "no handshake"),
    (OVERLAY, overlay(wg=[PeerSeen(KEY, PEER.endpoint, 181.0)]), "tunnel-up", "181 s old"),
    (OVERLAY, overlay(wg=[PeerSeen(KEY, None, 1.0)]), "endpoint-outside-failed-site", "no endpoint"),
    (OVERLAY, overlay(wg=[PeerSeen(KEY, "10.77.1.9:1", 1.0)]), "endpoint-outside-failed-site", "passes 10.77.1.9"),
    (OVERLAY, overlay(paths={"10.77.3.10": HopsSeen(("10.77.2.1", "10.77.1.1"), True)}), "endpoint-outside-failed-site",
     "passes 10.77.1.1"),
    (OVERLAY, overlay(routes={}), "route-through-overlay", "leave by eth0"),
    (OVERLAY, overlay(paths={DB.address: HopsSeen((None, "10.77.1.1"), True)}), "path-outside-failed-site",
     "10.77.1.1"),
    (OVERLAY, overlay(paths={DB.address: HopsSeen((None, None), False)}), "path-outside-failed-site", "nothing on"),
    (OVERLAY, overlay(routes={DB.address: RouteSeen("wg0", "10.99.0.2", "10.77.1.3")}), "path-outside-failed-site",
     "10.77.1.3"),
    (VIA_BASTION, bastion({}), "bastion-defined", "no bastion is named"),
    (VIA_BASTION, bastion({**HERE, "bastions": {"jump": {**BASTION, "site": "onprem"}}}), "bastion-outside-failed-site",
     "the site that failed"),
    (VIA_BASTION, bastion(pinned=0), "bastion-key-pinned", "pins no key"),
    (VIA_BASTION, bastion(ran={"cloud-db": True}), "bastion-answers", "did not answer"),
    (VIA_BASTION, bastion(ran={"cloud-db": True, "jump": True}), "bastion-only-forwards", "may run commands"),
    (VIA_BASTION, bastion(ran={"jump": False}), "target-answers", "did not answer"),
    (IAP, GcpIap(options(), LOGIN, probes(), cloud=FakeCloud(INSTANCE)), "instance-defined", "no instance"),
    (IAP, iap(InstanceSeen("TERMINATED", (DB.address,), ("iap-ssh",), "net")), "instance-running", "TERMINATED"),
    (IAP, iap(InstanceSeen("RUNNING", ("10.9.9.9",), ("iap-ssh",), "net")), "instance-running", "not 10.77.2.10"),
    (IAP, iap(InstanceSeen("RUNNING", (DB.address,), (), "net")), "instance-tagged", "no tag"),
    (IAP, iap(rules=[]), "firewall-admits-iap", "no rule"),
]  # fmt: skip


@pytest.mark.req("ACC-1", "ACC-2", "INV-6", "GATE-1")
@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("plane", "mode", "name", "why"), BROKEN, ids=[f"{b[0]}-{b[2]}-{n}" for n, b in enumerate(BROKEN)]
)
def test_a_missing_prerequisite_is_refused_by_its_name(
    plane: ExecutionPlane, mode: AccessMode, name: str, why: str
) -> None:
    """The refusal names mode and prerequisite, touches nothing, and nothing is asked after it."""
    with pytest.raises(PrerequisiteError, match=why) as caught:
        resolved(mode, run_of(plane))

    assert (caught.value.facts["mode"], caught.value.facts["prerequisite"]) == (plane, name)
    assert f"access mode {plane}: {name}" in caught.value.message
    assert "no other mode is tried" in caught.value.message
    assert caught.value.hint


@pytest.mark.req("ACC-2", "GATE-3")
@pytest.mark.fault(20)
def test_a_bastion_that_is_down_leaves_the_target_alone() -> None:
    """The target would answer without it; nobody asks."""
    world = probes()
    mode = BastionExplicit(options(**HERE), LOGIN, world)

    with pytest.raises(PrerequisiteError, match="bastion-answers"):
        resolved(mode, run_of(VIA_BASTION))

    assert world.asked == ["pins jump", "ssh jump"]


@pytest.mark.req("ACC-2", "GATE-3")
def test_a_mode_does_not_serve_another_plane() -> None:
    """What was approved decides; a mode that happens to work is not asked."""
    with pytest.raises(PrerequisiteError, match="bastion-explicit was approved"):
        resolved(local(), run_of(VIA_BASTION))


@pytest.mark.req("ACC-1")
@pytest.mark.parametrize("plane", [LOCAL, OVERLAY])
def test_a_public_target_is_no_target_of_a_private_mode(plane: ExecutionPlane) -> None:
    """Private is never turned into public."""
    target = Target("cloud-db", "203.0.113.5", "cloud")
    mode = local() if plane is LOCAL else overlay()

    with pytest.raises(PrerequisiteError, match=r"address-private \(cloud-db\): 203.0.113.5 is no private"):
        resolved(mode, run_of(plane, targets=(target,)))


@pytest.mark.req("ACC-3", "ACC-1")
def test_a_wrong_host_key_keeps_its_own_error() -> None:
    """It is not another missing prerequisite: somebody must look."""
    with pytest.raises(HostKeyError, match="access mode bastion-explicit: bastion-answers"):
        resolved(bastion(wrong_keys={"jump"}), run_of(VIA_BASTION))


@pytest.mark.req("ACC-1")
def test_where_a_failed_site_is_must_be_known() -> None:
    """A hop can be placed only when the site's networks are declared."""
    mode = overlay()

    with pytest.raises(PrerequisiteError, match="where onprem is, is not declared"):
        resolved(mode, run_of(OVERLAY, site_networks={"cloud": ["10.77.2.0/24"]}))


@pytest.mark.req("ACC-1")
def test_without_a_failed_site_no_path_is_traced() -> None:
    """A planned switch may pass the source's site, which stands."""
    world = probes(wg=[PEER], routes=TUNNELLED)

    resolved(PrivateOverlay(options(overlay=WG), LOGIN, world), run_of(OVERLAY, failed_site=None))

    assert not [question for question in world.asked if question.startswith("hops")]


@pytest.mark.req("ACC-2")
@pytest.mark.parametrize(
    ("blueprint", "site", "failed", "allowed"),
    [
        ("lab/hello@v1", "cloud", None, True),
        ("networking/onprem-base@v1", "onprem", None, True),
        ("networking/onprem-base@v1", "cloud", None, False),
        ("networking/onprem-base@v1", "onprem", "onprem", False),
        ("dr/postgresql-warm-promote@v1", "onprem", None, False),
        ("dr/lab/x@v1", "cloud", None, False),
    ],
)
def test_a_bastion_is_inferred_for_labs_and_bootstrap_only(
    blueprint: str, site: str, failed: str | None, allowed: bool
) -> None:
    """And even then only the one bastion that stands where the targets are."""
    known = options(bastions={"jump": {**BASTION, "site": site}}, infer_bastion=True, onprem_sites=["onprem"])
    run = run_of(VIA_BASTION, blueprint_ref=blueprint, failed_site=failed, targets=(Target("h", "10.0.0.1", site),))

    if allowed:
        assert chosen(known, run) == "jump"
    else:
        with pytest.raises(PrerequisiteError, match="not inferred"):
            chosen(known, run)


@pytest.mark.req("ACC-2")
@pytest.mark.parametrize("names", [(), ("a", "b")])
def test_two_bastions_or_none_are_no_guess(names: tuple[str, ...]) -> None:
    """Exactly one must stand there."""
    known = options(bastions={name: {**BASTION, "site": "cloud"} for name in names}, infer_bastion=True)

    with pytest.raises(PrerequisiteError, match=f"{len(names)} bastions"):
        chosen(known, run_of(VIA_BASTION, blueprint_ref="lab/hello@v1"))


@pytest.mark.req("VOC-3", "DRIFT-1")
def test_a_workstation_is_no_plane() -> None:
    """Refused by its name where a person types it, and where a route is read."""
    with pytest.raises(UnsafePlanError, match="refused: recovery and burst"):
        plane_of("workstation-direct")
    with pytest.raises(UnsafePlanError, match="one of runner-local"):
        plane_of("private")
    with pytest.raises(RecordError, match="execution_plane"):
        Route.of({"target_ref": "dr/x@v1", "target_env": "lab", "execution_plane": "workstation-direct"})
    assert plane_of("gcp-iap") is IAP


def test_the_targets_of_a_run_are_those_that_must_be_reached() -> None:
    """After a failure only the target; when the source is asked to hand over, the source too."""
    members = [{"host": "a", "address": "10.0.0.1", "site": "x"}, {"host": "b", "address": "10.0.0.2", "site": "y"}]
    plan = plan_of([], inputs={"source": "a", "target": "b", "members": members})

    assert targets_of(plan, Occasion.UNPLANNED, {}) == (Target("b", "10.0.0.2", "y"),)
    assert targets_of(plan, Occasion.PLANNED, {"b": "z"}) == (
        Target("b", "10.0.0.2", "z"),
        Target("a", "10.0.0.1", "x"),
    )
    assert targets_of(plan_of([]), Occasion.PLANNED, {}) == ()


@pytest.mark.req("ACC-1")
@pytest.mark.parametrize(
    ("rules", "decides"),
    [
        ([ADMITS], "iap"),
        ([FirewallSeen("wide", "net", 1, True, False, ("35.0.0.0/8",), ("iap-ssh",), (("all", ()),))], "wide"),
        ([FirewallSeen("half", "net", 1, True, False, ("35.235.240.0/21",), ("iap-ssh",), SSH_RANGE)], None),
        ([FirewallSeen("off", "net", 1, True, True, (IAP_RANGE,), ("iap-ssh",), SSH_RANGE)], None),
        ([FirewallSeen("else", "net2", 1, True, False, (IAP_RANGE,), ("iap-ssh",), SSH_RANGE)], None),
        ([FirewallSeen("tag", "net", 1, True, False, (IAP_RANGE,), ("web",), SSH_RANGE)], None),
        ([FirewallSeen("all", "net", 1, True, False, (IAP_RANGE,), (), SSH_RANGE)], None),
        ([FirewallSeen("port", "net", 1, True, False, (IAP_RANGE,), ("iap-ssh",), (("tcp", ((80, 90),)),))], None),
        ([FirewallSeen("udp", "net", 1, True, False, (IAP_RANGE,), ("iap-ssh",), (("udp", ()),))], None),
        ([ADMITS, FirewallSeen("no", "net", 1000, False, False, ("0.0.0.0/0",), (), (("all", ()),))], "no"),
        ([ADMITS, FirewallSeen("late", "net", 1001, False, False, ("0.0.0.0/0",), (), (("all", ()),))], "iap"),
        ([ADMITS, FirewallSeen("others", "net", 9, False, False, (IAP_RANGE,), ("web",), (("all", ()),))], "iap"),
        ([ADMITS, FirewallSeen("part", "net", 9, False, False, ("35.235.241.0/24",), (), (("all", ()),))], "part"),
        ([ADMITS, FirewallSeen("who", "net", 9, False, False, (), (), (("all", ()),), other_sources=True)], "who"),
    ],
)
def test_the_firewall_rule_that_decides(rules: list[FirewallSeen], decides: str | None) -> None:
    """The lowest number wins, a denial wins a tie; only a rule for the whole range and by tag lets the proxy in."""
    found = deciding(rules, INSTANCE, "iap-ssh", 22)

    assert (found.name if found else None) == decides


@pytest.mark.req("GATE-3", "ACC-1")
def test_an_instance_that_everybody_reaches_is_not_behind_the_proxy() -> None:
    """An open rule beside the proxy's is refused, not used."""
    everybody = FirewallSeen("open", "net", 900, True, False, ("0.0.0.0/0",), (), SSH_RANGE)

    assert open_to_all([ADMITS], INSTANCE, 22) is None
    assert (
        open_to_all([FirewallSeen("web", "net", 1, True, False, ("0.0.0.0/0",), ("web",), SSH_RANGE)], INSTANCE, 22)
        is None
    )
    with pytest.raises(PrerequisiteError, match="rule open lets everybody in"):
        resolved(iap(rules=[ADMITS, everybody]), run_of(IAP))


@pytest.mark.req("ACC-1")
def test_the_proxys_command_is_the_published_one() -> None:
    """It opens no local port, and project and zone never come from somebody's own settings."""
    definition = options(iap=BEHIND).iap
    assert definition is not None
    assert tunnel_argv(definition, 22) == (
        "/usr/bin/gcloud", "compute", "start-iap-tunnel", "db", "22", "--listen-on-stdin",
        "--zone=europe-west1-b", "--project=dr-project", "--quiet",
    )  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        {"bastions": {"jump": {**BASTION, "address": "jump.example"}}},
        {"overlay": {**WG, "peer_key": "short"}},
        {"overlay": {**WG, "interface": "wg0; rm"}},
        {"iap": {**BEHIND, "instance": "--impersonate-service-account=x"}},
        {"iap": {**BEHIND, "project": "-x"}},
        {"private_networks": ["10.0.0.1/8"]},
        {"fallback": "runner-local"},
        {**HERE, "bastion": "other"},
        {"ready_wait_s": 0.0},
    ],
)
def test_a_definition_that_could_mean_something_else_is_refused(broken: dict[str, Any]) -> None:
    """Names reach command lines and files, so each has a strict form; there is no key for a second mode."""
    with pytest.raises(RecordError):
        options(**broken)


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [("10.0.0.1:51820", "10.0.0.1"), ("[fd00::1]:51820", "fd00::1"), (None, None), ("(none)", None)],
)
def test_the_address_of_an_endpoint(endpoint: str | None, address: str | None) -> None:
    """Both families; nothing for none."""
    assert host_of(endpoint) == address


@pytest.mark.req("ACC-1")
@pytest.mark.parametrize(
    ("occasion", "env", "glass", "name"),
    [
        (None, "drills", True, "occasion-allowed"),
        ("drill", "prod", False, "occasion-allowed"),
        ("drill", "prod", True, "occasion-allowed"),
        ("break-glass", "drills", False, "occasion-allowed"),
        ("drill", "drills", False, "grant-open"),
        ("break-glass", "prod", True, "grant-open"),
    ],
)
def test_a_public_way_is_for_drills_and_a_broken_glass(occasion: str | None, env: str, glass: bool, name: str) -> None:
    """The plan says which, and that one holds: neither stands for the other. Else nobody looks for a grant."""
    public = occasion and PublicAccess.of(
        {"occasion": occasion, "source_ranges": ["198.51.100.7/32"], "expires_after_s": 600}
    )
    world = FakeProbes(ran={"cloud-db": True})
    mode = PublicEphemeral(options(drill_envs=["drills"]), LOGIN, world, grants=list, clock=FakeClock())

    with pytest.raises(PrerequisiteError) as caught:
        resolved(mode, run_of(PUBLIC, env=env, break_glass=glass, public=public))

    assert caught.value.facts["prerequisite"] == name
