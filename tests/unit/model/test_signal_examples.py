"""The signals in the how-to are ones that a policy takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyops.model.policy import Signal

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "signal-sources.md"
EXAMPLES: list[Any] = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]
SIGNALS = [example for example in EXAMPLES if "source" in example]


@pytest.mark.req("DEC-2")
@pytest.mark.parametrize("example", SIGNALS, ids=lambda example: example["source"])
def test_an_example_is_a_signal(example: dict[str, Any]) -> None:
    """As it stands in the page."""
    assert Signal.of(example).body()["source"] == example["source"]


def test_every_new_source_has_an_example() -> None:
    """One each."""
    assert [example["source"] for example in SIGNALS] == ["http", "prometheus", "alertmanager", "file"]
