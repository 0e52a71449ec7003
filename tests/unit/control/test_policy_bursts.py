"""Bursts before `policy check`: the page's own block is safe, and what would buy on a whim is refused by its key."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
import yaml

from hyops.control.proof.check import check
from hyops.control.proof.rules import Finding
from hyops.control.proof.waits import numbers
from hyops.model.policy import ServicePolicy
from policy_files import FOLDER

PAGE = FOLDER.parents[1] / "explanation" / "holds-latch-burst.md"
CLASSES_MAX = 60_000


def of_page() -> dict[str, Any]:
    """The block of the page, word for word."""
    (block,) = re.findall(r"^```yaml\n(signals:\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def policy(burst: dict[str, Any] | None = None, **signals: dict[str, Any]) -> ServicePolicy:
    """The safe policy of the docs with the page's burst in it, some of its keys and signals changed."""
    known, page = yaml.safe_load((FOLDER / "safe.yml").read_text()), of_page()
    told = [{**one, **signals.get(one["name"], {})} for one in (*known["signals"], *page["signals"])]
    return ServicePolicy.of({**known, "signals": told, "burst": {**page["burst"], **(burst or {})}})


def keys(findings: Iterable[Finding]) -> set[tuple[object, ...]]:
    """Rule, and the key without the place of a signal in its list."""
    return {(one.rule, *(part for part in one.where if isinstance(part, str))) for one in findings}


@pytest.mark.req("DEC-4", "UX-2")
def test_the_burst_of_the_page_is_safe() -> None:
    """Out, in, and denied, from every size, in so few classes that it takes seconds."""
    proof = check(policy())
    verdicts = {verdict for _, _, verdict, _, _ in proof.grouped()}

    assert proof.findings == []
    assert {word for word in verdicts if "burst " in word} == {
        f"{word} (recommend, unplanned)" for word in ("burst out", "burst in", "deny burst out")
    }
    assert proof.table.situations == 13 ** (4 * 3 + 2) * 3 * 5 * 3
    assert sum(1 for row in proof.table.rows if row.count) < CLASSES_MAX


@pytest.mark.req("DEC-3", "DEC-4", "INV-5", "UX-1")
@pytest.mark.parametrize(
    ("burst", "load", "found"),
    [
        ({"cooldown_s": 0}, {}, {("act/repeated", "burst", "cooldown_s"), ("flap/cooldown", "burst", "cooldown_s")}),
        (
            {"confirm_for_s": 0, "stable_for_s": 0},
            {},
            {
                ("act/unconfirmed", "burst", "confirm_for_s"),
                ("act/unconfirmed", "burst", "stable_for_s"),
                ("confirm/short", "burst", "confirm_for_s"),
                ("confirm/stale", "signals", "max_age_s"),
            },
        ),
        ({}, {"absence": "bad"}, {("act/unknown", "signals", "absence")}),
    ],
)
def test_a_burst_on_a_whim_is_refused(
    burst: dict[str, Any], load: dict[str, Any], found: set[tuple[object, ...]]
) -> None:
    """No rest, no confirmation, a load of which nobody heard: each by the key of the burst or of the load."""
    assert keys(check(policy(burst, load=load)).findings) == found


@pytest.mark.req("DEC-4", "INV-5", "UX-1")
@pytest.mark.parametrize(
    ("burst", "load", "found"),
    [
        ({"cooldown_s": 119}, {}, {("flap/cooldown", "burst", "cooldown_s")}),
        ({"confirm_for_s": 60}, {"interval_s": 30}, {("confirm/short", "burst", "confirm_for_s")}),
        ({}, {"max_age_s": 121}, {("confirm/stale", "signals", "max_age_s")}),
        ({}, {"interval_s": 40}, {("confirm/never", "signals", "max_age_s")}),
        ({}, {"interval_s": 40, "weight": 0}, set()),
        ({"level": "trigger", "checks": []}, {}, set()),
    ],
)
def test_a_burst_has_windows_of_its_own(
    burst: dict[str, Any], load: dict[str, Any], found: set[tuple[object, ...]]
) -> None:
    """Looks, ages and pauses of the load against those of the burst, not of the service."""
    assert keys(numbers(policy(burst, load=load))) == found
