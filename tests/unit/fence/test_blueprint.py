"""The shipped blueprint fits the drivers that execute it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hyops.adapters.driver_count_loss import CountLoss
from hyops.model.plan import Blueprint
from switch_pair import STEPS, Pair

FILE = Path(__file__).parents[3] / "catalog/blueprints/dr/postgresql-warm-promote@v1/blueprint.yml"


@pytest.mark.req("BP-1", "GATE-2")
def test_every_step_has_its_driver_and_strict_inputs() -> None:
    """Each module is native, and with the blueprint's inputs filled in each driver accepts them."""
    blueprint = Blueprint.of(yaml.safe_load(FILE.read_text()), source=FILE.name)
    pair = Pair()
    words = pair.inputs()
    drivers = {**pair.drivers(), "native/count-loss": CountLoss}
    assert blueprint.blueprint_ref == "/".join(FILE.parent.parts[-2:])
    steps = [(name, module) for name, module, _ in STEPS] + [("count-loss", "native/count-loss")]
    assert [(step.id, step.module_ref) for step in blueprint.steps] == steps
    assert set(blueprint.inputs) == set(words)
    for step in blueprint.steps:
        filled = {
            name: words[value.strip("{} ")] if value.startswith("{{") else value for name, value in step.inputs.items()
        }
        drivers[step.module_ref].inputs.of(filled, source=step.id)
