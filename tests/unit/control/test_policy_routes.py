"""What becomes of the decisions of a policy by routes that look well: each one denied, or led elsewhere, is found."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyops.compose_policy import route_planner
from hyops.control.dispatch import PlanFor
from hyops.control.proof.check import check
from hyops.control.proof.routing import routed
from hyops.control.proof.rules import Finding
from hyops.control.proof.situation import Setting
from hyops.control.proof.table import Row, table_of
from hyops.engine.decided import plan_inputs
from hyops.model.decision import Decision
from hyops.model.dispatch import Route
from hyops.model.plan import Blueprint, Plan
from hyops.model.policy import ServicePolicy
from hyops.model.routes import Routes
from policy_files import FOLDER

Body = dict[str, Any]
SAFE, ROUTES = (yaml.safe_load((FOLDER / name).read_text()) for name in ("safe.yml", "safe.routes.yml"))
LEASE = ROUTES["dispatcher_routes"]["failover"]["inputs"]["lease"]
ENDPOINT = ROUTES["dispatcher_routes"]["failover"]["inputs"]["endpoint"]
MEMBERS = ROUTES["dispatcher_routes"]["failover"]["inputs"]["members"]


@cache
def table(policy: str) -> list[Row]:
    """The table of a policy, made once: most of these tests differ in their routes."""
    return table_of(Setting(ServicePolicy.of(json.loads(policy)))).rows


def found(routes: Body, plan_for: PlanFor | None = None, *, planned: bool = True, **policy: Any) -> list[Finding]:
    """Everything about these routes, beside the safe policy with other keys; each rule once per key."""
    known, body = Routes.of(routes), {**SAFE, **policy}
    planner = plan_for or (route_planner(known) if planned else None)
    rows = table(json.dumps(body, sort_keys=True))
    findings = {(one.rule, one.where): one for one in routed(ServicePolicy.of(body), rows, known, planner)}
    assert all(one.input and one.of_routes for one in findings.values())
    return list(findings.values())


def changed(kind: str, inputs: Body | None = None, **route: Any) -> Body:
    """The safe routes with other keys in one of them; None takes a key away."""
    body = copy.deepcopy(ROUTES)
    one = body["dispatcher_routes"][kind]
    for part, more in ((one, route), (one["inputs"], inputs or {})):
        part |= more
        for key in [key for key, value in part.items() if value is None]:
            del part[key]
    return body


def places(findings: list[Finding]) -> set[tuple[str, str]]:
    """Rule and dotted key, of the routes' file."""
    return {(one.rule, ".".join(map(str, one.where[1:]))) for one in findings}


@pytest.mark.req("DEC-4", "DSP-1", "RUN-2", "FEN-1", "UX-1")
@pytest.mark.parametrize("kind", ["failover", "failback"])
@pytest.mark.parametrize(
    ("change", "rule", "key"),
    [
        ({"target_env": "staging"}, "route/env", "target_env"),
        ({"runner_ref": "cloud-runer"}, "route/runner", "runner_ref"),
        ({"runner_ref": None}, "route/denied", "runner_ref"),
        ({"target_ref": "dr/does-not-exist@v1"}, "route/denied", "target_ref"),
        ({"execution_plane": "public-ephemeral"}, "route/denied", "execution_plane"),
        ({"deny_on": ["answers"]}, "route/denied", "deny_on"),
        ({"deny_on": ["port"]}, "route/denied", "deny_on"),
        ({"deny_on": ["wal_received"]}, "route/denied", "deny_on"),
        ({"inputs": {"receipts": "break-glass"}}, "fence/route", "inputs.receipts"),
        ({"inputs": {"receipts": ["observed"]}}, "fence/route", "inputs.receipts"),
        ({"inputs": {"receipts": ["lease-expired", "attested"]}}, "fence/route", "inputs.receipts"),
        ({"inputs": {"lease": {**LEASE, "ttl_s": 4}}}, "fence/route", "inputs.lease"),
        ({"inputs": {"lease": {**LEASE, "on_loss": "stay"}}}, "fence/route", "inputs.lease"),
        ({"inputs": {"lease": "as in the policy"}}, "fence/route", "inputs.lease"),
        ({"inputs": {"lease": None}}, "route/denied", "inputs"),
        ({"inputs": {"target": ["onprem-db", "cloud-db"]}}, "route/direction", "inputs.target"),
        ({"inputs": {"members": MEMBERS[:1]}}, "route/inputs", "inputs.members"),
        ({"inputs": {"members": "as in the policy"}}, "route/inputs", "inputs.members"),
        ({"inputs": {"members": [MEMBERS[0], {**MEMBERS[1], "port": 5433}]}}, "route/inputs", "inputs.members"),
        ({"inputs": {"endpoint": {"name": "other"}}}, "route/inputs", "inputs.endpoint"),
    ],
)
def test_a_route_that_leads_elsewhere_is_found_at_its_key(kind: str, change: Body, rule: str, key: str) -> None:
    """Whatever the type that is routed: a failback that is triggered and one that is recommended take the same."""
    inputs = change.get("inputs", {})
    routes = changed(kind, inputs, **{name: value for name, value in change.items() if name != "inputs"})

    assert places(found(routes)) == {(rule, f"{kind}.{key}")}


@pytest.mark.req("DSP-1", "INV-2", "UX-1")
@pytest.mark.parametrize(
    ("ref", "inputs", "key", "told"),
    [
        ("native/postgresql-promote", {}, "target_ref", "never runs alone"),
        ("native/dns-cutover", {}, "target_ref", "never runs alone"),
        ("platform/network/decision-service", {}, "target_ref", "no runner runs"),
        ("native/noop", {"nte": "x"}, "inputs", "did you mean 'note'"),
    ],
)
def test_a_module_that_may_not_run_alone_is_found(ref: str, inputs: Body, key: str, told: str) -> None:
    """What the dispatcher would deny, at its key; a module that may run is no finding."""
    gone = dict.fromkeys(ROUTES["dispatcher_routes"]["failover"]["inputs"])
    (one,) = found(changed("failover", {**gone, **inputs}, target_kind="module", target_ref=ref))

    assert (one.rule, one.where) == ("route/denied", ("dispatcher_routes", "failover", key))
    assert told in one.message
    assert found(changed("failover", gone, target_kind="module", target_ref="native/noop")) == []


@pytest.mark.req("DEC-4", "RUN-2", "FEN-1")
def test_the_runner_of_the_lost_site_and_the_wrong_way_round_are_found() -> None:
    """Both ways: what a route copies from the other one."""
    for kind, runner, source in (("failover", "onprem-runner", "cloud-db"), ("failback", "cloud-runner", "onprem-db")):
        target = {"cloud-db": "onprem-db", "onprem-db": "cloud-db"}[source]
        assert places(found(changed(kind, runner_ref=runner))) == {("route/runner", f"{kind}.runner_ref")}
        swapped = changed(kind, {"source": source, "target": target})
        assert {place[0] for place in places(found(swapped))} == {"route/direction"}
        assert places(found(changed(kind, {"target": target}))) == {("route/direction", f"{kind}.inputs.target")}


@pytest.mark.req("DEC-4", "DSP-1")
@pytest.mark.parametrize(("site", "lost"), [("onprem", True), ("OnPrem ", True), ("hub", False)])
def test_a_site_is_one_however_it_is_spelled(site: str, lost: bool) -> None:
    """A runner that is no member's stands beside the primary, by a name that people write in their way."""
    options = {"vantage_sites": {**SAFE["options"]["vantage_sites"], "third-runner": site}}
    expected = {("route/runner", "failover.runner_ref")} if lost else set()

    assert places(found(changed("failover", runner_ref="third-runner"), options=options)) == expected


@pytest.mark.req("DSP-1", "UX-1")
def test_the_route_of_several_is_named_that_takes_the_decision() -> None:
    """The most specific one is looked at, and no other."""
    routes = changed("failover")
    good = routes["dispatcher_routes"]["failover"]
    routes["dispatcher_routes"]["failover"] = [
        {**good, "runner_ref": "onprem-runner", "when": {"service": "orders"}},
        {**good, "target_env": "staging", "when": {"service": "pg"}},
        {**good, "target_ref": "dr/does-not-exist@v1"},
    ]

    assert places(found(routes)) == {("route/env", "failover.1.target_env")}


@pytest.mark.req("DEC-4", "DSP-1")
@pytest.mark.parametrize(
    ("routes", "policy"),
    [
        (ROUTES, {}),
        (ROUTES, {"level": "recommend"}),
        (ROUTES, {"level": "monitor"}),
        (ROUTES, {"requires_approval": False}),
        (changed("failover", requires_approval=False), {"level": "recommend"}),
        (changed("failover", requires_approval=False, approvals_required=2), {"requires_approval": False}),
        (changed("failover", deny_on=["lag_bytes", "gcp_billing"]), {}),
        (changed("failover", {"receipts": ["lease-expired"]}), {}),
        (
            changed("failover", {"members": MEMBERS[::-1]}, runner_ref="hub-runner"),
            {"options": {"vantage_sites": {**SAFE["options"]["vantage_sites"], "hub-runner": "hub"}}},
        ),
    ],
)
def test_what_only_looks_odd_is_safe(routes: Body, policy: Body) -> None:
    """A stricter route, a runner in a third site, a check of the target that denies, members in another order."""
    assert found(routes, **policy) == []


@pytest.mark.req("APR-3", "VOC-4")
@pytest.mark.parametrize("kind", ["failover", "failback"])
def test_nobody_is_asked_only_where_the_policy_says_so_too(kind: str) -> None:
    """Of what is triggered; where the policy still asks, the route's word is the one that is wrong."""
    free = changed(kind, requires_approval=False)
    assert places(found(free)) == {("approval/ineffective", f"{kind}.requires_approval")}
    assert places(found(free, requires_approval=False)) == {("approval/none", f"{kind}.requires_approval")}
    everywhere = {**ROUTES, "dispatcher_require_approval": False}
    (one,) = found(everywhere, requires_approval=False)
    assert (one.rule, one.where) == ("approval/none", ("dispatcher_require_approval",))
    asked = changed(kind, requires_approval=True) | {"dispatcher_require_approval": False}
    other = {"failover": "failback", "failback": "failover"}[kind]
    asked["dispatcher_routes"][other]["requires_approval"] = True
    assert found(asked, requires_approval=False) == []


@pytest.mark.req("DEC-4")
@pytest.mark.parametrize("level", ["trigger", "monitor"])
def test_a_mode_that_denies_everything_is_found(level: str) -> None:
    """With routes and without."""
    for routes in (None, Routes.of(ROUTES)):
        proof = check(ServicePolicy.of({**SAFE, "dr_mode": "deny", "level": level}), routes)
        assert [(one.rule, one.where) for one in proof.findings] == [("mode/deny", ("dr_mode",))]


@pytest.mark.req("DSP-1", "DEC-1a")
def test_what_the_policy_wishes_and_no_route_fulfils_is_found() -> None:
    """A profile that the routes do not have, a second copy that no step verifies: the dispatcher's own reason."""
    for wish in ({"workload_profile_ref": "big"}, {"secondary_backup_copy_required": True}):
        told = found(ROUTES, **wish)
        assert {one.rule for one in told} == {"route/denied"}
        assert all("and then denied: no plan: " in one.message for one in told)


@pytest.mark.req("DEC-4")
def test_without_a_planner_all_but_the_plan_is_looked_at() -> None:
    """No blueprint is known there: what an input means goes by its name."""
    assert found(ROUTES, planned=False) == []
    assert found(changed("failover", target_ref="dr/does-not-exist@v1"), planned=False) == []
    assert places(found(changed("failover", {"source": "cloud-db"}), planned=False)) == {
        ("route/direction", "failover.inputs.source")
    }
    assert places(found(changed("failover", runner_ref=None), planned=False)) == {
        ("route/denied", "failover.runner_ref")
    }


SHIPPED = Path(__file__).parents[3] / "catalog/blueprints/dr/postgresql-warm-promote@v1/blueprint.yml"


@pytest.mark.req("FEN-1", "DSP-1", "DEC-4", "UX-1")
@pytest.mark.parametrize(
    ("name", "value", "rule", "said"),
    [
        ("receipts", ["break-glass"], "fence/route", "step fence accepts break-glass"),
        ("receipts", ["observed"], "fence/route", "step fence none"),
        ("lease", {**LEASE, "ttl_s": 1}, "fence/route", "step fence's lease.ttl_s is 1"),
        ("members", [{**MEMBERS[0], "address": "10.99.9.9"}, MEMBERS[1]], "route/inputs", "members.address is 10.99"),
        ("endpoint", {**ENDPOINT, "name": "other.example"}, "route/inputs", "step cutover's endpoint.name is other"),
    ],
)
@pytest.mark.parametrize("given", [True, False], ids=["beside the route's", "instead of the route's"])
def test_what_a_blueprint_holds_itself_is_looked_at(  # two tables of cases
    tmp_path: Path, name: str, value: object, rule: str, said: str, given: bool
) -> None:
    """The run reads its steps: what they hold counts, whatever the route says; the route is named that leads there."""
    body = yaml.safe_load(SHIPPED.read_text())
    for step in body["steps"]:
        if name in step["inputs"]:
            step["inputs"][name] = value
    if not given:
        del body["inputs"][name]
    body["blueprint_ref"] = "dr/mine@v1"
    (tmp_path / "blueprints/dr/mine@v1").mkdir(parents=True)
    (tmp_path / "blueprints/dr/mine@v1/blueprint.yml").write_text(json.dumps(body))
    routes = changed("failover", {} if given else {name: None}, target_ref="dr/mine@v1")

    findings = found(routes, route_planner(Routes.of(routes), [tmp_path, SHIPPED.parents[3]]))
    assert places(findings) == {(rule, "failover.target_ref")}, findings
    assert said in findings[0].message


@pytest.mark.req("FEN-1", "DSP-1", "DEC-4", "DNS-1")
@pytest.mark.parametrize("step_id", ["fence", "promote", "verify-target", "cutover", "verify-traffic", "rejoin"])
def test_every_step_of_a_switch_leads_the_way_of_the_decision(tmp_path: Path, step_id: str) -> None:
    """Not the ones alone that fence and promote: the endpoint would be pointed at the host that was just fenced."""
    body = yaml.safe_load(SHIPPED.read_text())
    (step,) = [one for one in body["steps"] if one["id"] == step_id]
    step["inputs"] |= {"source": "cloud-db", "target": "onprem-db"}
    body["blueprint_ref"] = "dr/mine@v1"
    (tmp_path / "blueprints/dr/mine@v1").mkdir(parents=True)
    (tmp_path / "blueprints/dr/mine@v1/blueprint.yml").write_text(json.dumps(body))
    routes = changed("failover", target_ref="dr/mine@v1")

    (one,) = found(routes, route_planner(Routes.of(routes), [tmp_path, SHIPPED.parents[3]]))

    assert places([one]) == {("route/direction", "failover.target_ref")}
    assert f"step {step_id}" in one.message


SCALES = Blueprint.model_construct(blueprint_ref="dr/scale@v1", inputs={"workload": "sizes"}, steps=[])
LOAD = {"name": "load", "source": "tcp", "about": "pressure", "vantages": ["control"], "interval_s": 0.5}
BURST = {
    "signals": [SAFE["signals"][0], {**LOAD, "max_age_s": 1.5}],
    "burst": {
        "profiles": ["daily", "busy", "busiest"],
        "target_cloud": "gcp",
        "runner_ref": "gcp-runner",
        "execution_plane": "runner-local",
    },
}


@pytest.mark.req("DSP-1", "DEC-1a", "EXE-3")
def test_every_step_of_a_burst_is_looked_at_both_ways() -> None:
    """Capacity that no route gives back, a size that the routes do not know."""
    lane = {"target_ref": "dr/scale@v1", "target_env": "prod", "execution_plane": "runner-local", "runner_ref": "r"}
    routes = copy.deepcopy(ROUTES)
    routes["dispatcher_routes"]["burst"] = [{**lane, "when": {"direction": "out"}}]
    (one,) = found(routes, planned=False, **BURST)
    assert (one.rule, one.message) == ("route/missing", "no route for burst in")

    routes["dispatcher_routes"]["burst"] = lane
    assert found(routes, planned=False, **BURST) == []

    def plan_for(route: Route, decision: Decision) -> Plan:
        if route.target_ref == "dr/scale@v1":
            plan_inputs(SCALES, route.inputs, decision, known)
        return Plan.model_construct(steps=[])

    known = Routes.of({**routes, "workload_profiles": {"daily": {}, "busy": {}}})
    (two,) = found(known.body(), plan_for, **BURST)
    assert two.rule == "route/denied"
    assert "'busiest' is none of the routes' workload_profiles" in two.message
