"""A plan from a blueprint: every `{{ name }}` resolved, nothing left open, the same bytes every time (INV-4)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyops.engine.bundling import named_by
from hyops.engine.decided import plan_fields, with_cutover
from hyops.errors import ConfigError
from hyops.model import canonical
from hyops.model.access import PublicAccess
from hyops.model.decision import Decision
from hyops.model.plan import Blueprint, Plan, Step
from hyops.model.vocabulary import DecisionType, ExecutionPlane

_NAME = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.]*)\s*\}\}")
_BRACES = re.compile(r"\{\{|\}\}")


def make_plan(
    blueprint: Blueprint,
    *,
    env: str,
    service: str,
    decision_type: DecisionType,
    runner_ref: str,
    execution_plane: ExecutionPlane,
    inputs: Mapping[str, Any],
    bundle_of: Callable[[Sequence[Step]], Mapping[str, str]] | None = None,
    sync_env: Mapping[str, str] | None = None,
    access: PublicAccess | None = None,
    decision: Decision | None = None,
) -> Plan:
    """The plan whose digest people approve.

    A step input that is exactly `{{ name }}` takes the input's value with its type; within a longer text it must be
    text or a number. A dot goes into a mapping: `{{ source.address }}`. `env` and `service` are always there.
    `bundle_of` gives the digests of the files that the resolved steps name. What `decision` wishes beyond its type
    stands in the plan, and traffic moves as its policy says.

    Raises:
        ConfigError: an input is missing or unknown, or a placeholder cannot be resolved; names all of them. Or the
            steps name files and there is no `bundle_of`, or it does not find one.
    """
    if faults := _input_faults(blueprint, inputs):
        raise ConfigError(f"{blueprint.blueprint_ref}: " + "; ".join(faults))
    values = {**inputs, "env": env, "service": service}
    steps = [_resolved(step, values, f"{blueprint.blueprint_ref} step {step.id}") for step in blueprint.steps]
    steps = with_cutover(steps, decision.cutover_policy if decision else None)
    named = named_by(steps)
    if named and bundle_of is None:
        raise ConfigError(
            f"{blueprint.blueprint_ref}: {named[0].where} names {named[0].name}; no runtime root is known"
        )
    return Plan.of(
        {
            "schema": "hyops/plan/v1",
            "blueprint_ref": blueprint.blueprint_ref,
            "blueprint_digest": canonical.digest(blueprint.body()),
            "env": env,
            "service": service,
            "decision_type": str(decision_type),
            "runner_ref": runner_ref,
            "execution_plane": str(execution_plane),
            "steps": [step.body() for step in steps],
            "inputs": dict(inputs),
            "bundle": dict(bundle_of(steps)) if named and bundle_of else {},
            **({"access": access.body()} if access else {}),
            **(plan_fields(decision) if decision else {}),
            **({"sync_env": {key: str(origin) for key, origin in sync_env.items()}} if sync_env else {}),
        },
        source=blueprint.blueprint_ref,
    )


def _input_faults(blueprint: Blueprint, inputs: Mapping[str, Any]) -> list[str]:
    """Which inputs are missing, and which nobody takes."""
    missing = [name for name in blueprint.inputs if name not in inputs]
    unknown = [name for name in sorted(inputs) if name not in blueprint.inputs]
    return [
        *(f"input {name!r} is missing ({blueprint.inputs[name]})" for name in missing),
        *(f"input {name!r} is unknown" + _near(name, blueprint.inputs) for name in unknown),
    ]


def _resolved(step: Step, values: Mapping[str, Any], where: str) -> Step:
    return step.model_copy(update={"inputs": {k: _value(v, values, f"{where}, {k}") for k, v in step.inputs.items()}})


def _value(value: Any, values: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, dict):
        return {key: _value(item, values, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_value(item, values, f"{where}[{n}]") for n, item in enumerate(value)]
    return _text(value, values, where) if isinstance(value, str) else value


def _text(text: str, values: Mapping[str, Any], where: str) -> Any:
    if whole := _NAME.fullmatch(text.strip()):
        return _look_up(whole.group(1), values, where)
    if _BRACES.search(_NAME.sub("", text)):
        raise ConfigError(f"{where}: {text!r} is not a placeholder; write {{{{ name }}}}")

    def piece(match: re.Match[str]) -> str:
        found = _look_up(match.group(1), values, where)
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            raise ConfigError(f"{where}: {match.group(1)!r} is no text, so it cannot stand within one")
        return str(found)

    return _NAME.sub(piece, text)


def _look_up(name: str, values: Mapping[str, Any], where: str) -> Any:
    found: Any = values
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            known = found if isinstance(found, Mapping) else {}
            raise ConfigError(f"{where}: nothing is named {name!r}" + _near(part, known))
        found = found[part]
    return found


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
