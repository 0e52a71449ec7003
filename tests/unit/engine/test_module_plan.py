"""A single module as the target of a route: planned as a blueprint of one step, or refused with what to do instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hyops.adapters.module_files import module_of, runner_module
from hyops.adapters.yaml_files import with_lines
from hyops.compose_runner import MODULES
from hyops.engine import safety
from hyops.engine.catalog import Catalog, default_roots
from hyops.engine.module_inputs import filled, resolve
from hyops.engine.module_plan import one_step
from hyops.engine.plan import make_plan
from hyops.errors import ConfigError, RecordError, UnsafePlanError
from hyops.model.module_spec import ModuleSpec
from hyops.model.plan import Plan, Step, planned_ref
from hyops.model.vocabulary import DecisionType, ExecutionPlane
from hyops.testing.runs import plan_of, step

SHIPPED = sorted(MODULES - safety.OF_A_SWITCH)


def spec(**changes: Any) -> ModuleSpec:
    """A module of three inputs that a runner runs."""
    body = {
        "api_version": "hybridops/v1",
        "kind": "ModuleSpec",
        "module_ref": "native/noop",
        "title": "Nothing",
        "driver": "native/noop",
        "step": {"phase": "evidence", "timeout_s": 7},
        "inputs": {
            "note": {"type": "text", "required": True, "about": "what comes back"},
            "often": {"type": "integer", "default": 3, "about": "how often"},
            "place": {"type": "text", "about": "where"},
        },
        "outputs": [],
    }
    return ModuleSpec.of({key: value for key, value in {**body, **changes}.items() if value is not None})


def planned(of: ModuleSpec, **given: Any) -> Plan:
    """The plan of a module, as the dispatcher makes it."""
    inputs = filled(of, given)
    return make_plan(
        one_step(of, inputs),
        env="lab",
        service="pg",
        decision_type=DecisionType.FAILOVER,
        runner_ref="cloud-runner",
        execution_plane=ExecutionPlane.RUNNER_LOCAL,
        inputs=inputs,
    )


@pytest.mark.req("DSP-1", "DSP-2", "INV-4")
def test_a_module_is_planned_as_one_step_with_all_that_will_run() -> None:
    """Its phase and time are its spec's, defaults are written out, and each value decides the digest."""
    plan = planned(spec(), note="{{ env }}")

    (only,) = plan.steps
    assert plan.blueprint_ref == planned_ref("module", "native/noop") == "module/native/noop@v1"
    assert (only.id, only.module_ref, only.phase, only.timeout_s) == ("noop", "native/noop", "evidence", 7.0)
    assert only.inputs == plan.inputs == {"note": "{{ env }}", "often": 3}
    assert plan.digest() == planned(spec(), often=3, note="{{ env }}").digest()
    others = [planned(spec(), note="x"), planned(spec(), note="{{ env }}", often=4),
              planned(spec(step={"phase": "evidence"}), note="{{ env }}")]  # fmt: skip
    assert len({plan.digest(), *(other.digest() for other in others)}) == 4
    safety.check(plan, MODULES)


@pytest.mark.req("DSP-1", "MOD-1")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "native/noop: inputs: note is missing: what comes back"),
        ({"note": 1}, "native/noop: inputs.note: text is needed"),
        ({"note": "x", "plaec": "y"}, "native/noop: inputs.plaec: unknown key; did you mean 'place'"),
    ],
)
def test_inputs_that_the_module_does_not_take_are_refused(given: dict[str, Any], told: str) -> None:
    """By name, before anybody is asked."""
    with pytest.raises(ConfigError, match=told):
        planned(spec(), **given)


@pytest.mark.req("MOD-1")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"step": None}, "profile and pack are needed"),
        ({"profile": "x@v1"}, "there is no profile"),
        ({"driver": "native/fence"}, "driver must be native/noop"),
        ({"inputs": {"a-b": {"type": "text", "about": "x"}}}, "input 'a-b'"),
        ({"inputs": {"env": {"type": "text", "about": "x"}}}, "input 'env'"),
    ],
)
def test_a_spec_that_cannot_be_a_step_is_refused(changes: dict[str, Any], told: str) -> None:
    """A module is done by a pack or by a runner, and what nothing would read may not stand there."""
    with pytest.raises(RecordError, match=told):
        spec(**changes)


@pytest.mark.req("INV-2", "BP-3", "GATE-2", "DSP-1")
@pytest.mark.parametrize("ref", sorted(safety.OF_A_SWITCH))
def test_a_part_of_a_switch_never_runs_alone(ref: str) -> None:
    """No fence, promotion, cutover or their proofs for itself, also when somebody wrote a spec for it."""
    with pytest.raises(UnsafePlanError, match=r"dr/postgresql-warm-promote@v1") as caught:
        safety.refuse_alone(ref)
    assert ref in caught.value.message
    with pytest.raises(UnsafePlanError, match="never runs alone"):
        safety.check(planned(spec(module_ref=ref, driver=ref), note="x"), MODULES)


@pytest.mark.req("INV-2", "INV-4")
@pytest.mark.parametrize(
    "steps",
    [[step("a", module="native/noop"), step("b", "a", module="native/noop")], [step("a", module="native/count-loss")]],
    ids=["two", "another"],
)
def test_what_goes_by_a_modules_name_is_that_one_step(steps: list[Step]) -> None:
    """Nobody approves one module and gets more, or another."""
    plan = plan_of(steps).model_copy(update={"blueprint_ref": "module/native/noop@v1"})
    with pytest.raises(UnsafePlanError, match="is one step of native/noop"):
        safety.check(plan, MODULES)


@pytest.mark.req("MOD-1")
def test_no_blueprint_goes_by_a_modules_name(tmp_path: Path) -> None:
    """The place is taken, whatever lies there."""
    folder = tmp_path / "blueprints" / "module" / "native" / "noop@v1"
    folder.mkdir(parents=True)
    (folder / "blueprint.yml").write_text("{}")
    with pytest.raises(ConfigError, match="target_kind: module"):
        Catalog([tmp_path]).blueprint("module/native/noop@v1")


@pytest.mark.req("MOD-1", "MOD-2", "DSP-1")
@pytest.mark.parametrize("ref", SHIPPED)
def test_the_shipped_modules_of_a_runner_are_whole(ref: str) -> None:
    """Each that may run alone has a spec, a README, and an example that makes a safe plan."""
    (root,) = default_roots()[:1]
    of = runner_module([root], ref)
    folder = root / "modules" / ref
    example = folder / "examples" / "minimal.inputs.yml"
    value, lines = with_lines(example.read_bytes(), source=str(example))

    assert resolve(of, value, lines, str(example)) == filled(of, value)
    safety.check(planned(of, **value), MODULES)
    assert (folder / "README.md").is_file()


@pytest.mark.req("DSP-1", "MOD-1", "UX-1")
def test_what_no_runner_runs_is_said(tmp_path: Path) -> None:
    """A stage of the loop is applied by a person; an unknown one is answered with those that there are."""
    with pytest.raises(ConfigError, match=r"no runner runs platform/network/decision-service.*hyops apply"):
        runner_module(default_roots(), "platform/network/decision-service")
    with pytest.raises(ConfigError, match=r"no module 'platform/network/dns-routing'.*native/count-loss, native/noop"):
        runner_module(default_roots(), "platform/network/dns-routing")
    with pytest.raises(ConfigError, match=r"no module '\.\./x'"):
        runner_module(default_roots(), "../x")
    folder = tmp_path / "modules" / "native" / "other"
    folder.mkdir(parents=True)
    (folder / "spec.yml").write_text(yaml.safe_dump(spec().body()))
    with pytest.raises(ConfigError, match="its folder says 'native/other'"):
        runner_module([tmp_path], "native/other")


@pytest.mark.req("MOD-2", "UX-1")
def test_what_a_runner_runs_is_not_applied_from_here() -> None:
    """`hyops apply` has no driver for it, and says where it belongs."""
    with pytest.raises(ConfigError, match="target_kind: module"):
        module_of(default_roots(), "native/noop")
