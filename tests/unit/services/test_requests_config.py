"""The dispatcher's configuration: what it could not live with is refused when it is read (DSP-1, LOOP-2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hyops.compose_check import LOOKS
from hyops.compose_loop import lone_module, planner
from hyops.compose_runner import MODULES
from hyops.control.dispatch import Routed, route
from hyops.engine.catalog import default_roots
from hyops.engine.safety import OF_A_SWITCH
from hyops.errors import ConfigError, RecordError, UnsafePlanError
from hyops.model.decision import CutoverPolicy, Decision
from hyops.model.dispatch import Route
from hyops.model.vocabulary import CutoverMode, DecisionType
from hyops.services.config_requests import DispatchConfig
from hyops.testing.clock import EPOCH
from runbook import block, code, rows

LANE = {"target_ref": "dr/x@v1", "target_env": "lab", "execution_plane": "runner-local"}


def dispatcher(lane: dict[str, Any] = LANE, **changes: Any) -> DispatchConfig:
    """One with a plain route."""
    body = {
        "api_version": "hybridops/v1",
        "kind": "DecisionDispatcher",
        "signing_key": "/k",
        "trusted_keys": "/t",
        "services": ["pg"],
        "routes": {"env": "lab", "dispatcher_routes": {"failover": lane}},
    }
    return DispatchConfig.of({**body, **changes}, source="dispatch.json")


@pytest.mark.req("LOOP-1", "LOOP-2")
@pytest.mark.parametrize("max_age_s", [1e12, 30 * 86400 + 1.0, 0.0, -1.0])
def test_an_age_that_no_request_may_have_is_refused(max_age_s: float) -> None:
    """Thirty days are the most: what overflows a calendar would stop the stage at every decision."""
    with pytest.raises(RecordError, match=r"dispatch\.json: max_age_s: "):
        dispatcher(max_age_s=max_age_s)

    assert dispatcher(max_age_s=30 * 86400.0).max_age_s == 30 * 86400.0


MOVE = Decision.model_construct(service="pg", decision_type=DecisionType.FAILOVER)


def module_lane(ref: str, **more: Any) -> tuple[DispatchConfig, Route]:
    """A dispatcher with one route, which leads to a module."""
    config = dispatcher({**LANE, "runner_ref": "cloud-runner", "target_kind": "module", "target_ref": ref, **more})
    (found_,) = config.routes.of_type(DecisionType.FAILOVER)
    return config, found_


@pytest.mark.req("DSP-1", "DSP-2", "INV-4")
def test_a_route_to_a_module_is_installed_and_planned() -> None:
    """A module that a runner runs is a target like a blueprint; what it is given decides the digest."""
    config, chosen = module_lane("native/noop", inputs={"note": "a"})
    LOOKS["dispatch"](config, "dispatch.json")

    plan = planner(config)(chosen, MOVE)

    assert [(step.module_ref, step.inputs) for step in plan.steps] == [("native/noop", {"note": "a"})]
    other = planner(config)(chosen.model_copy(update={"inputs": {"note": "b"}}), MOVE)
    assert plan.digest() != other.digest()
    with pytest.raises(UnsafePlanError, match="names no runner_ref"):
        planner(config)(chosen.model_copy(update={"runner_ref": None}), MOVE)
    with pytest.raises(ConfigError, match=r"inputs\.note: text is needed"):
        planner(config)(chosen.model_copy(update={"inputs": {"note": 1}}), MOVE)


@pytest.mark.req("DSP-1", "UX-2")
def test_the_route_of_the_page_is_one_and_its_table_is_whole() -> None:
    """The page's own words are installed and planned; its table has each module that may run alone, with its inputs."""
    page = "route-to-a-module.md"
    config = dispatcher(yaml.safe_load(block(page, "a route to a module", "yaml"))["failover"])
    LOOKS["dispatch"](config, "dispatch.json")
    (chosen,) = config.routes.of_type(DecisionType.FAILOVER)
    assert planner(config)(chosen, MOVE).steps[0].module_ref == "native/second-copy"
    shown = {code(module): set(code(inputs).split()) for module, _, inputs in rows(page, "module")}
    assert shown == {ref: set(lone_module(default_roots(), ref).inputs) for ref in MODULES - OF_A_SWITCH}


@pytest.mark.req("DSP-1", "INV-2", "BP-3", "UX-1")
@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("native/postgresql-promote", "never runs alone.*dr/postgresql-warm-promote@v1"),
        ("native/dns-cutover", "never runs alone.*dr/postgresql-warm-promote@v1"),
        ("native/fence", "never runs alone.*dr/postgresql-warm-promote@v1"),
        ("platform/network/decision-service", "no runner runs platform/network/decision-service.*hyops apply"),
        ("platform/network/dns-routing", "no module 'platform/network/dns-routing'"),
        ("core/noop@v1", "no module 'core/noop@v1'"),
    ],
)
def test_a_module_that_may_not_run_alone_is_neither_installed_nor_planned(ref: str, told: str) -> None:
    """With its key at the installation, and in the request that is denied; both say what to do instead."""
    config, chosen = module_lane(ref)
    where = r"dispatch\.json: routes\.dispatcher_routes\.failover\.target_ref: "
    with pytest.raises(ConfigError, match=where + ".*" + told):
        LOOKS["dispatch"](config, "dispatch.json")
    with pytest.raises((ConfigError, UnsafePlanError), match=told):
        planner(config)(chosen, MOVE)


@pytest.mark.req("DSP-1", "MOD-2", "INV-2")
def test_a_spec_alone_makes_no_module_of_a_runner(tmp_path: Path) -> None:
    """Nobody's own catalogue adds a driver, or frees a part of a switch: both are refused at the installation."""
    (root,) = default_roots()[:1]
    text = (root / "modules" / "native" / "noop" / "spec.yml").read_text()
    for name, told in (("other", "no runner has a driver for native/other"), ("fence", "never runs alone")):
        folder = tmp_path / "modules" / "native" / name
        folder.mkdir(parents=True)
        (folder / "spec.yml").write_text(text.replace("native/noop", f"native/{name}"))
        config, _ = module_lane(f"native/{name}")
        config = DispatchConfig.of({**config.body(), "catalogs": [str(tmp_path)]}, source="dispatch.json")
        with pytest.raises(ConfigError, match=told):
            LOOKS["dispatch"](config, "dispatch.json")


@pytest.mark.req("DSP-2", "INV-2", "INV-7")
def test_the_request_of_a_module_is_whole_or_denied_with_the_mend() -> None:
    """It waits for people with the digest of what will run; of a part of a switch there is nothing to approve."""
    body = {"decision_id": "decision-1", "decision_type": "failover", "rationale": "x", "service": "pg", "env": "lab"}
    made = Decision.of({**body, "level": "trigger", "generation": 1})
    found = {}
    for ref in ("native/noop", "native/postgresql-promote"):
        config, _ = module_lane(ref)
        routed = route(made, source_file="d", signed=True, routes=config.routes, plan_for=planner(config),
                       now=EPOCH, max_age_s=60.0)  # fmt: skip
        assert isinstance(routed, Routed)
        found[ref] = routed

    good, bad = found.values()
    assert good.plan is not None
    asked = good.request
    assert (asked.status, asked.target_kind, asked.target_ref) == ("awaiting-approval", "module", "native/noop")
    assert asked.plan_digest == good.plan.digest()
    assert (bad.request.status, bad.request.plan_digest, bad.plan) == ("denied", None, None)
    assert "route to a blueprint that has them, such as dr/postgresql-warm-promote@v1" in (bad.request.reason or "")


@pytest.mark.req("DEC-1a", "DSP-1", "INV-5")
def test_a_wish_that_a_module_cannot_fulfil_is_refused() -> None:
    """A size, a second copy and a way of the traffic have no effect on a module, so nobody approves them with it."""
    config, chosen = module_lane("native/noop")
    body = config.body()
    body["routes"]["workload_profiles"] = {"small": {"cpus": 2}}
    config = DispatchConfig.of(body, source="dispatch.json")
    for wish, told in (
        ({"workload_profile_ref": "small"}, "has no input 'workload'"),
        ({"secondary_backup_copy_required": True}, "no step verifies a second copy"),
        ({"cutover_policy": CutoverPolicy(mode=CutoverMode.AUTOMATIC)}, "moves no traffic"),
    ):
        with pytest.raises(UnsafePlanError, match=told):
            planner(config)(chosen, MOVE.model_copy(update=wish))
    config, chosen = module_lane(
        "native/second-copy", inputs={"copy_name": "offsite", "folder": "/srv/copy", "max_age_s": 60}
    )
    assert planner(config)(chosen, MOVE.model_copy(update={"secondary_backup_copy_required": True}))
