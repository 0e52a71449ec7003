"""The table's classes stand for the whole product: whatever is drawn from it has its class, for any small policy."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml

from hyops.control.proof import table
from hyops.control.proof.check import check
from hyops.control.proof.classes import Class, primary_classes, primary_key
from hyops.control.proof.situation import Place, Setting, Word, places_of
from hyops.control.proof.table import table_of
from hyops.model.policy import ServicePolicy
from policy_files import FOLDER

SAFE = yaml.safe_load((FOLDER / "safe.yml").read_text())
VANTAGES = ["control", "witness", "cloud-runner"]
MIXED = [[Word.BAD, Word.ERROR], [Word.BAD, Word.OK], [Word.OK, Word.BACK], [Word.OK, Word.BAD, Word.NAN], [*Word]]


def small(draw: random.Random) -> ServicePolicy:
    """A few signals about the primary, of any weight, at some of the vantage points; numbers that people write."""
    signals: list[dict[str, Any]] = []
    for number in range(draw.choice([1, 2, 2, 3])):
        asked = draw.random() < 0.2
        vantages = [] if asked else sorted(draw.sample(VANTAGES, draw.randint(1, 3)))
        signal = {"name": f"s{number}", "source": "prometheus" if asked else "tcp", "vantages": vantages}
        signals.append({**signal, "url": "http://p", "query": "up", "weight": draw.choice([0, 0.5, 1, 1, 2, 3])})
    seen = {vantage for signal in signals for vantage in signal["vantages"]}
    numbers = {
        "quorum": draw.randint(1, max(len(seen), 1)),
        "confidence_min": draw.choice([0.1, 0.3, 0.5, 0.6, 2 / 3, 0.75, 1.0]),
        "confirm_for_s": draw.choice([0, 1, 5]),
        "stable_for_s": draw.choice([0, 1, 300]),
    }
    return ServicePolicy.of({**SAFE, **numbers, "signals": signals})


@pytest.mark.req("DEC-4", "INV-5")
@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_said_of_the_primary_has_its_class(seed: int) -> None:
    """What is drawn gives a key that some class has; a weight of which nothing is known counts for nobody."""
    draw = random.Random(seed)
    for _ in range(4):
        setting = Setting(small(draw))
        keys = {one.key for one in primary_classes(setting)}
        for _ in range(150):
            often = draw.choice(MIXED)
            words: dict[Place, Word] = {(one.name, at): draw.choice(often) for one, at in places_of(setting.policy)}
            assert primary_key(setting, words)[0] in keys, (setting.policy.signals, words)


@pytest.mark.req("DEC-4", "INV-5")
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (3, 2), (1, 3)])
def test_one_voice_among_silent_ones_is_found(weights: tuple[int, int]) -> None:
    """Where the others know nothing at all, one vantage point that lost the primary is all of the confidence."""
    signals = [
        {**signal, "weight": weight} for signal, weight in zip(SAFE["signals"], (*weights, 1.0, 1.0), strict=True)
    ]

    found = {one.rule for one in check(ServicePolicy.of({**SAFE, "signals": signals, "quorum": 1})).findings}

    assert "act/one-vantage" in found


@pytest.mark.req("DEC-4", "INV-5")
def test_a_situation_without_a_class_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that were forgotten would be seen by what is drawn."""
    whole = primary_classes

    def some(setting: Setting) -> list[Class]:
        return whole(setting)[::7]

    monkeypatch.setattr(table, "primary_classes", some)

    assert table_of(Setting(ServicePolicy.of(SAFE))).odd


@pytest.mark.req("DEC-4", "INV-5")
def test_one_look_under_many_names_is_found_where_the_table_is_too_large() -> None:
    """Nine queries of one Prometheus, each of another weight: none decides alone, and all are one look."""
    shared = {**SAFE["signals"][1], "source": "prometheus", "url": "http://prom:9090"}
    many = [{**shared, "name": f"q{n}", "query": f"up{n}", "weight": 1 + n * 0.37} for n in range(9)]

    found = {one.rule for one in check(ServicePolicy.of({**SAFE, "signals": [*SAFE["signals"], *many]})).findings}

    assert found == {"table/too-large", "act/one-signal"}
