"""Plans: resolved completely, the same bytes every time, refused where they could never be safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyops.engine import safety
from hyops.engine.catalog import Catalog, read_blueprint
from hyops.engine.plan import make_plan
from hyops.errors import ConfigError, UnsafePlanError
from hyops.model.plan import Blueprint, Plan, Step
from hyops.model.vocabulary import DecisionType, ExecutionPlane, Phase
from hyops.testing.runs import plan_of, step

MODULES = {"native/fence", "native/postgresql-promote", "native/verify-write", "native/dns-cutover", "test/step"}


def _blueprint(inputs: dict[str, Any]) -> Blueprint:
    return Blueprint.of(
        {
            "api_version": "hybridops/v1",
            "kind": "BlueprintSpec",
            "blueprint_ref": "test/one@v1",
            "title": "one",
            "inputs": {"source": "the old primary", "port": "its port"},
            "steps": [{"id": "a", "module_ref": "test/step", "phase": "prepare", "inputs": inputs}],
        }
    )


def _plan(blueprint: Blueprint, **inputs: Any) -> Plan:
    return make_plan(
        blueprint,
        env="lab",
        service="pg",
        decision_type=DecisionType.FAILOVER,
        runner_ref="cloud-runner",
        execution_plane=ExecutionPlane.RUNNER_LOCAL,
        inputs=inputs,
    )


SOURCE = {"host": "onprem-db", "address": "10.77.1.10"}


@pytest.mark.req("BP-1", "INV-4")
def test_placeholders_keep_their_type_and_reach_into_mappings() -> None:
    """A whole placeholder is the value itself; within text it becomes text; every bit of it decides the digest."""
    blueprint = _blueprint({"from": "{{ source }}", "dsn": "host={{ source.address }} port={{port}}", "env": "{{env}}"})
    plan = _plan(blueprint, source=SOURCE, port=5432)
    assert plan.steps[0].inputs == {"from": SOURCE, "dsn": "host=10.77.1.10 port=5432", "env": "lab"}
    assert plan.digest() == _plan(blueprint, port=5432, source=dict(reversed(SOURCE.items()))).digest()
    assert plan.digest() != _plan(blueprint, source=SOURCE, port=5433).digest()


@pytest.mark.req("BP-1")
@pytest.mark.parametrize(
    ("step_inputs", "inputs", "message"),
    [
        ({}, {"source": SOURCE}, "input 'port' is missing"),
        ({}, {"source": SOURCE, "port": 1, "prot": 2}, "input 'prot' is unknown; did you mean 'port'"),
        ({"x": "{{ sorce }}"}, {"source": SOURCE, "port": 1}, "nothing is named 'sorce'; did you mean 'source'"),
        ({"x": "{{ source.adress }}"}, {"source": SOURCE, "port": 1}, "did you mean 'address'"),
        ({"x": "a {{ source }}"}, {"source": SOURCE, "port": 1}, "is no text"),
        ({"x": "{{ 1+1 }}"}, {"source": SOURCE, "port": 1}, "is not a placeholder"),
        ({"x": ["{{ source"]}, {"source": SOURCE, "port": 1}, "is not a placeholder"),
    ],
)
def test_an_open_end_is_refused_by_name(step_inputs: dict[str, Any], inputs: dict[str, Any], message: str) -> None:
    """A missing, unknown or unresolvable input is an error that names it and the nearest word."""
    with pytest.raises(ConfigError, match=message):
        _plan(_blueprint(step_inputs), **inputs)


@pytest.mark.req("INV-4")
def test_a_value_with_braces_is_not_resolved_again() -> None:
    """An input cannot smuggle a placeholder in: values are data."""
    assert _plan(_blueprint({"x": "{{ source }}"}), source="{{ port }}", port=1).steps[0].inputs == {"x": "{{ port }}"}


FENCE = step("fence", module="native/fence")
PROMOTE = step("promote", "fence", module="native/postgresql-promote", phase=Phase.DATA)
VERIFY = step("verify", "promote", module="native/verify-write", phase=Phase.DATA)
CUTOVER = step("cutover", "verify", module="native/dns-cutover", phase=Phase.TRAFFIC)


@pytest.mark.req("BP-3", "GATE-2")
def test_the_safe_order_passes() -> None:
    """Fence, promote, verify, cut over: no fault."""
    safety.check(plan_of([FENCE, PROMOTE, VERIFY, CUTOVER]), MODULES)


def _with(original: Step, **fields: object) -> Step:
    return original.model_copy(update=fields)


@pytest.mark.req("BP-3", "INV-2", "GATE-2")
@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ([_with(PROMOTE, requires=[])], "promote promotes without a fence"),
        ([FENCE, _with(PROMOTE, requires=[])], "promote promotes without a fence"),
        ([_with(FENCE, optional=True), PROMOTE], "promote promotes without a fence"),
        ([FENCE, PROMOTE, _with(CUTOVER, requires=["promote"])], "before the target is verified"),
        ([FENCE, PROMOTE, _with(VERIFY, optional=True), CUTOVER], "before the target is verified"),
        ([_with(VERIFY, requires=[]), _with(CUTOVER, phase=Phase.DATA), FENCE, PROMOTE], "without requiring"),
        ([step("x", module="native/promot")], "no module native/promot"),
        ([FENCE, _with(FENCE, id="late", phase=Phase.DECIDE)], "comes after a later one"),
        ([step("x", "y")], "requires y, which stands nowhere before it"),
        ([FENCE, FENCE], "stands twice"),
    ],
)
def test_an_unsafe_plan_is_refused(steps: list[Step], fault: str) -> None:
    """Each way to promote unfenced or to move traffic unverified is named."""
    with pytest.raises(UnsafePlanError, match=fault):
        safety.check(plan_of(steps), MODULES)


def test_the_shipped_noop_is_found() -> None:
    """The catalogue of this checkout has `core/noop@v1`, and it makes a safe plan."""
    blueprint = Catalog().blueprint("core/noop@v1")
    safety.check(_plan(blueprint), {"native/noop"})


@pytest.mark.req("MOD-1")
def test_an_unknown_reference_names_the_nearest() -> None:
    """A typing error in a reference is answered with the right word; a path is no reference."""
    with pytest.raises(ConfigError, match="did you mean 'core/noop@v1'"):
        Catalog().blueprint("core/nop@v1")
    with pytest.raises(ConfigError, match="not a blueprint reference"):
        Catalog().blueprint("../../etc@v1")


GOOD = """api_version: hybridops/v1
kind: BlueprintSpec
blueprint_ref: test/one@v1
title: one
steps:
  - id: a
    module_ref: native/noop
    phase: prepare
"""


@pytest.mark.req("MOD-1", "UX-2")
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("phase: prepare", "phase: prepar"), r"blueprint.yml:8: steps.0.phase: .*'prepare'"),
        (("phase: prepare", "phase: prepare\n    timout_s: 3"), r":9: steps.0.timout_s: .*did you mean 'timeout_s'"),
        (("title: one", "title: one\ntitle: two"), r":5: key 'title' stands twice"),
        (("title: one", "title: [one"), r"blueprint.yml:\d+: "),
        (("title: one", "title: &a one\nx: *a"), "aliases are not allowed"),
        (("title: one", "title: 2026-01-01"), "quote what YAML reads as a date"),
        ((GOOD, ""), "blueprint.yml"),
    ],
)
def test_faults_name_file_line_and_key(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    """A wrong file is answered with its line, its key and the nearest valid word."""
    path = tmp_path / "blueprint.yml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError, match=fault):
        read_blueprint(path)
