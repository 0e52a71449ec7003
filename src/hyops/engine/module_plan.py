"""A single module as the target of a request: the blueprint of one step that its plan is made of (DSP-1, DSP-2).

From here on it is a plan like any other: what is approved, checked, run and proved knows no second way.
"""

from __future__ import annotations

from collections.abc import Iterable

from hyops.model.module_spec import ModuleSpec
from hyops.model.plan import Blueprint, planned_ref


def one_step(spec: ModuleSpec, given: Iterable[str]) -> Blueprint:
    """The blueprint of a module that a runner runs, with the inputs named by `given`; the same for the same of both."""
    assert spec.step is not None, "who looked the module up for a runner saw that it has one"
    inputs = sorted(given)
    step = {
        "id": spec.module_ref.rpartition("/")[2][:64],
        "module_ref": spec.module_ref,
        "title": spec.title,
        "phase": str(spec.step.phase),
        "timeout_s": spec.step.timeout_s,
        "inputs": {name: f"{{{{ {name} }}}}" for name in inputs},
    }
    return Blueprint.of(
        {
            "api_version": spec.api_version,
            "kind": "BlueprintSpec",
            "blueprint_ref": planned_ref("module", spec.module_ref),
            "title": spec.title,
            "inputs": {name: spec.inputs[name].about for name in inputs},
            "steps": [step],
        },
        source=spec.module_ref,
    )
